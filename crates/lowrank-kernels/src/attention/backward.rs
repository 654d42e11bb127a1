//! Attention, backward.

use super::{
    AttentionDropout, AttentionShape, HASH_KEYS, HeadMask, QUERY_BLOCK, SharedRows, Task, check,
    for_each_task, transpose_head, widen_head,
};
use crate::element::Element;
use crate::math;
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::{Vector, each};
use crate::tile::{Left, Panel, multiply};

/// Cuts the next `len` numbers off `rest`.
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

multiversion! {
    /// One (sequence, head).
    fn head[V, T: Element](
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

        widen_head::<V, T>(qkv, task, 2 * width + column, dim, 1.0, padded, k);
        transpose_head(k, len, dim, padded, keys, v_transposed);
        widen_head::<V, T>(qkv, task, width + column, dim, 1.0, padded, k);
        transpose_head(k, len, dim, padded, keys, k_transposed);
        widen_head::<V, T>(qkv, task, column, dim, shape.scale, padded, q);
        widen_head::<V, T>(dout, task, column, dim, 1.0, padded, gradient);

        for first in (0..len).step_by(QUERY_BLOCK) {
            let rows = QUERY_BLOCK.min(len - first);
            let more = first > 0;
            let block = |data| Left::Plain(Panel { data, stride: padded });
            let (q, gradient) = (&q[first * padded..], &gradient[first * padded..]);
            let transposed = Panel { data: &*k_transposed, stride: keys };
            multiply([rows, dim, keys], 1.0, block(q), transposed, p, keys, false);
            let transposed = Panel { data: &*v_transposed, stride: keys };
            multiply([rows, dim, keys], 1.0, block(gradient), transposed, dp, keys, false);
            if let Some(mask) = &mask {
                mask.fill::<V>(first, rows, keys, factors);
            }
            for i in 0..rows {
                let row = task.start + first + i;
                let out = &out.row(row)[column..column + dim];
                let dout = &dout.row(row)[column..column + dim];
                // Σ p·dp of the row, which holds with dropout as well.
                let mut inner = V::splat(0.0);
                each::<V>(dim, #[inline(always)] |at, n| {
                    inner = V::load_some(out, at, n).madd(V::load_some(dout, at, n), inner);
                });
                let (inner, shift) = (V::splat(inner.sum()), V::splat(logsumexp[first + i]));
                let (p, dp) = (&mut p[i * keys..][..keys], &mut dp[i * keys..][..keys]);
                p[len..].fill(f32::NEG_INFINITY);
                let mut at = 0;
                while at < keys {
                    let probability = math::exp(V::load(&p[at..]).sub(shift));
                    let (mut dropped, mut gradient) = (probability, V::load(&dp[at..]));
                    if mask.is_some() {
                        let factor = V::load(&factors[i * keys + at..]);
                        (dropped, gradient) = (probability.mul(factor), gradient.mul(factor));
                    }
                    dropped.store(&mut p[at..]);
                    probability.mul(gradient.sub(inner)).store(&mut dp[at..]);
                    at += V::LANES;
                }
            }
            let by_key = |data| Left::Transposed(Panel { data, stride: keys });
            let gradient = Panel { data: gradient, stride: padded };
            multiply([len, rows, padded], 1.0, by_key(p), gradient, dv, padded, more);
            let q = Panel { data: q, stride: padded };
            multiply([len, rows, padded], 1.0, by_key(dp), q, dk, padded, more);
            let by_query = Left::Plain(Panel { data: &*dp, stride: keys });
            let k = Panel { data: &*k, stride: padded };
            multiply([rows, len, padded], shape.scale, by_query, k, dq, padded, false);
            store::<V, T>(dq, rows, padded, task.start + first, column, dim, dqkv);
        }
        store::<V, T>(dk, len, padded, task.start, width + column, dim, dqkv);
        store::<V, T>(dv, len, padded, task.start, 2 * width + column, dim, dqkv);
    }
}

/// Rounds `rows` rows into the columns from `column` on.
#[inline(always)]
fn store<V: Vector, T: Element>(
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
        each::<V>(
            dim,
            #[inline(always)]
            |at, n| V::load(&from[at..]).store_some(to, at, n),
        );
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
    dqkv: RowsMut<T>,
) {
    (T::COMPILED.attention_backward)(qkv, out, dout, logsumexp, offsets, shape, dropout, dqkv);
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn backward_kernel<T: Element>(
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
