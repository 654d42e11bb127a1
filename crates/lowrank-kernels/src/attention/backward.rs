//! Attention, backward.

use super::{
    AttentionDropout, AttentionShape, HASH_KEYS, HeadMask, QUERY_BLOCK, SharedRows, Task, check,
    for_each_task, transpose_head, widen_head,
};
use crate::element::Element;
use crate::math;
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::tile::{Panel, Strided, multiply};

/// Cuts the next `len` numbers off `rest`.
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

multiversion! {
    /// One (sequence, head).
    fn head[L, T: Element](
        qkv: Rows<T>, out: Rows<T>, dout: Rows<T>, logsumexp: &[f32], task: Task, shape: AttentionShape,
        mask: Option<HeadMask>, working: &mut [f32], dqkv: &SharedRows<T>,
    ) {
        let (len, dim) = (task.len, shape.head_dim);
        let width = shape.heads * dim;
        let (keys, padded) = (len.next_multiple_of(HASH_KEYS), dim.next_multiple_of(HASH_KEYS));
        let column = task.head * dim;
        let rest = &mut &mut *working;
        let (q, k, gradient) = (cut(rest, len * padded), cut(rest, len * padded), cut(rest, len * padded));
        let (dk, dv) = (cut(rest, len * padded), cut(rest, len * padded));
        let (k_transposed, v_transposed) = (cut(rest, dim * keys), cut(rest, dim * keys));
        let (p, dp) = (cut(rest, QUERY_BLOCK * keys), cut(rest, QUERY_BLOCK * keys));
        let dq = cut(rest, QUERY_BLOCK * padded);
        let factors = &mut **rest;

        widen_head(qkv, task, 2 * width + column, dim, 1.0, padded, k);
        transpose_head(k, len, dim, padded, keys, v_transposed);
        widen_head(qkv, task, width + column, dim, 1.0, padded, k);
        transpose_head(k, len, dim, padded, keys, k_transposed);
        widen_head(qkv, task, column, dim, shape.scale, padded, q);
        widen_head(dout, task, column, dim, 1.0, padded, gradient);

        for first in (0..len).step_by(QUERY_BLOCK) {
            let rows = QUERY_BLOCK.min(len - first);
            let more = first > 0;
            let block = |data| Strided { data, row: padded, col: 1 };
            let (q, gradient) = (&q[first * padded..], &gradient[first * padded..]);
            let transposed = Panel { data: &*k_transposed, stride: keys };
            multiply::<L, f32, f32>([rows, dim, keys], 1.0, block(q), transposed, p, keys, false);
            let transposed = Panel { data: &*v_transposed, stride: keys };
            multiply::<L, f32, f32>([rows, dim, keys], 1.0, block(gradient), transposed, dp, keys, false);
            if let Some(mask) = &mask {
                mask.fill(first, rows, keys, factors);
            }
            for i in 0..rows {
                let row = task.start + first + i;
                let out = &out.row(row)[column..column + dim];
                let dout = &dout.row(row)[column..column + dim];
                // Σ p·dp of the row, which holds with dropout as well.
                let inner: f32 = out.iter().zip(dout).map(|(out, dout)| out.widen() * dout.widen()).sum();
                let shift = logsumexp[first + i];
                let (p, dp) = (&mut p[i * keys..][..keys], &mut dp[i * keys..][..keys]);
                p[len..].fill(f32::NEG_INFINITY);
                if mask.is_some() {
                    let factors = &factors[i * keys..][..keys];
                    for ((p, dp), factor) in p.iter_mut().zip(dp).zip(factors) {
                        let probability = math::exp::<L>(*p - shift);
                        *dp = probability * L::madd(*dp, *factor, -inner);
                        *p = probability * factor;
                    }
                } else {
                    for (p, dp) in p.iter_mut().zip(dp) {
                        *p = math::exp::<L>(*p - shift);
                        *dp = *p * (*dp - inner);
                    }
                }
            }
            let by_key = |data| Strided { data, row: 1, col: keys };
            let gradient = Panel { data: gradient, stride: padded };
            multiply::<L, f32, f32>([len, rows, padded], 1.0, by_key(p), gradient, dv, padded, more);
            let q = Panel { data: q, stride: padded };
            multiply::<L, f32, f32>([len, rows, padded], 1.0, by_key(dp), q, dk, padded, more);
            let by_query = Strided { data: &*dp, row: keys, col: 1 };
            let k = Panel { data: &*k, stride: padded };
            multiply::<L, f32, f32>([rows, len, padded], shape.scale, by_query, k, dq, padded, false);
            store(dq, rows, padded, task.start + first, column, dim, dqkv);
        }
        store(dk, len, padded, task.start, width + column, dim, dqkv);
        store(dv, len, padded, task.start, 2 * width + column, dim, dqkv);
    }
}

/// Rounds `rows` rows into the columns from `column` on.
#[inline(always)]
fn store<T: Element>(
    from: &[f32],
    rows: usize,
    stride: usize,
    row: usize,
    column: usize,
    dim: usize,
    to: &SharedRows<T>,
) {
    for (i, from) in from.chunks_exact(stride).take(rows).enumerate() {
        // SAFETY: each task writes its own head's columns of its sequence's rows, one row at a time.
        let to = unsafe { to.part(row + i, column, dim) };
        for (to, from) in to.iter_mut().zip(from) {
            *to = T::round(*from);
        }
    }
}

/// The backward of [`super::forward`]: `dqkv` from the gradient `dout` of its output `out`.
///
/// # Shapes
/// `qkv`, `dqkv`: `[tokens, 3·heads·head_dim]`; `out`, `dout`: `[tokens, heads·head_dim]`; `logsumexp`:
/// `[tokens·heads]`, as forward left it; `offsets`: `[sequences + 1]`.
#[allow(clippy::too_many_arguments)]
pub fn backward<T: Element>(
    qkv: Rows<T>,
    out: Rows<T>,
    dout: Rows<T>,
    logsumexp: &[f32],
    offsets: &[usize],
    shape: AttentionShape,
    dropout: Option<&AttentionDropout>,
    mut dqkv: RowsMut<T>,
) {
    check(qkv.rows(), qkv.cols(), offsets, shape, dropout);
    let width = shape.heads * shape.head_dim;
    assert_eq!((out.rows(), out.cols()), (qkv.rows(), width));
    assert_eq!((dout.rows(), dout.cols()), (qkv.rows(), width));
    assert_eq!((dqkv.rows(), dqkv.cols()), (qkv.rows(), qkv.cols()));
    assert_eq!(logsumexp.len(), qkv.rows() * shape.heads);
    let hash = dropout.map(|dropout| (dropout.hash(), dropout.examples));
    let dqkv = SharedRows::new(&mut dqkv);
    for_each_task(offsets, shape, &|task: Task| {
        let mask = hash.map(|(hash, examples)| HeadMask {
            hash,
            example: examples[task.sequence],
            head: task.head as u32,
        });
        let (keys, padded) =
            (task.len.next_multiple_of(HASH_KEYS), shape.head_dim.next_multiple_of(HASH_KEYS));
        let blocks = if mask.is_some() { 3 } else { 2 };
        let need = 5 * task.len * padded + 2 * shape.head_dim * keys + QUERY_BLOCK * (blocks * keys + padded);
        scratch::with(need, |working| {
            let logsumexp = &logsumexp[task.start * shape.heads + task.head * task.len..][..task.len];
            head(qkv, out, dout, logsumexp, task, shape, mask, working, &dqkv);
        });
    });
}
