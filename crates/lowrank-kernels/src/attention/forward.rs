//! Attention, forward.

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

/// Softmax without the division: `row` becomes `exp(row - maximum)`; returns the maximum and the sum.
#[inline(always)]
fn exponentials<V: Vector>(row: &mut [f32], len: usize) -> (f32, f32) {
    let (mut maximum, mut sum) = (V::splat(f32::NEG_INFINITY), V::splat(0.0));
    row[len..].fill(f32::NEG_INFINITY);
    for chunk in row.chunks_exact(V::LANES) {
        maximum = V::load(chunk).max(maximum);
    }
    let maximum = maximum.maximum();
    let shift = V::splat(maximum);
    for chunk in row.chunks_exact_mut(V::LANES) {
        let exponential = math::exp(V::load::<f32>(chunk).sub(shift));
        exponential.store(chunk);
        sum = sum.add(exponential);
    }
    (maximum, sum.sum())
}

multiversion! {
    /// One (sequence, head). `logsumexp` gets the task's logarithms, unless it is empty.
    fn head[V, T: Element](
        qkv: Rows<T>, task: Task, shape: AttentionShape, mask: Option<HeadMask>, working: &mut [f32],
        out: &SharedRows<T>, logsumexp: &mut [f32],
    ) {
        let (len, dim) = (task.len, shape.head_dim);
        let width = shape.heads * dim;
        let (keys, padded) = (len.next_multiple_of(HASH_KEYS), dim.next_multiple_of(HASH_KEYS));
        let column = task.head * dim;
        let (q, working) = working.split_at_mut(len * padded);
        let (v, working) = working.split_at_mut(len * padded);
        let (transposed, working) = working.split_at_mut(dim * keys);
        let (scores, working) = working.split_at_mut(QUERY_BLOCK * keys);
        let (result, factors) = working.split_at_mut(QUERY_BLOCK * padded);
        // `v` holds k until it is transposed.
        widen_head::<V, T>(qkv, task, column, dim, shape.scale, padded, q);
        widen_head::<V, T>(qkv, task, width + column, dim, 1.0, padded, v);
        transpose_head(v, len, dim, padded, keys, transposed);
        widen_head::<V, T>(qkv, task, 2 * width + column, dim, 1.0, padded, v);
        for first in (0..len).step_by(QUERY_BLOCK) {
            let rows = QUERY_BLOCK.min(len - first);
            let q = Left::Plain(Panel { data: &q[first * padded..], stride: padded });
            let k = Panel { data: &*transposed, stride: keys };
            multiply([rows, dim, keys], 1.0, q, k, scores, keys, false);
            let mut inverse = [0.0; QUERY_BLOCK];
            for (i, row) in scores.chunks_exact_mut(keys).take(rows).enumerate() {
                let (maximum, sum) = exponentials::<V>(row, len);
                inverse[i] = 1.0 / sum;
                if let Some(logsumexp) = logsumexp.get_mut(first + i) {
                    *logsumexp = maximum + sum.ln();
                }
            }
            if let Some(mask) = &mask {
                mask.fill::<V>(first, rows, keys, factors);
                let factors = factors.chunks_exact(V::LANES);
                for (scores, factors) in scores[..rows * keys].chunks_exact_mut(V::LANES).zip(factors) {
                    V::load(scores).mul(V::load(factors)).store(scores);
                }
            }
            let p = Left::Plain(Panel { data: &*scores, stride: keys });
            let v = Panel { data: &*v, stride: padded };
            multiply([rows, len, padded], 1.0, p, v, result, padded, false);
            for (i, result) in result.chunks_exact(padded).take(rows).enumerate() {
                // SAFETY: this task alone writes this head's columns of its sequence's rows.
                let out = unsafe { out.part(task.start + first + i, column, dim) };
                let inverse = V::splat(inverse[i]);
                each::<V>(dim, #[inline(always)] |at, n| {
                    V::load(&result[at..]).mul(inverse).store_some(out, at, n);
                });
            }
        }
    }
}

/// `out = dropout(softmax(scale·q·kᵀ))·v` for every sequence and head.
///
/// `logsumexp` receives what [`super::backward`] needs, in an order of its own; empty, nothing is saved.
///
/// # Shapes
/// `qkv`: `[tokens, 3·heads·head_dim]` (q, k, v side by side, head `h` at `h·head_dim` in each); `offsets`:
/// `[sequences + 1]`, from 0 to `tokens`; `out`: `[tokens, heads·head_dim]`; `logsumexp`: `[tokens·heads]` or empty.
pub fn forward<T: Element>(
    qkv: Rows<T>,
    offsets: &[usize],
    shape: AttentionShape,
    dropout: Option<&AttentionDropout>,
    out: RowsMut<T>,
    logsumexp: &mut [f32],
) {
    (T::COMPILED.attention_forward)(qkv, offsets, shape, dropout, out, logsumexp);
}

pub(crate) fn forward_kernel<T: Element>(
    qkv: Rows<T>,
    offsets: &[usize],
    shape: AttentionShape,
    dropout: Option<&AttentionDropout>,
    mut out: RowsMut<T>,
    logsumexp: &mut [f32],
) {
    check(qkv.rows(), qkv.cols(), offsets, shape, dropout);
    assert_eq!((out.rows(), out.cols()), (qkv.rows(), shape.heads * shape.head_dim));
    let save = !logsumexp.is_empty();
    assert!(!save || logsumexp.len() == qkv.rows() * shape.heads);
    let hash = dropout.map(|dropout| (dropout.hash(), dropout.examples));
    let mut saved = RowsMut::dense(logsumexp, if save { qkv.rows() * shape.heads } else { 0 }, 1);
    let saved = SharedRows::new(&mut saved);
    let out = SharedRows::new(&mut out);
    for_each_task(offsets, shape, &|task: Task| {
        let mask = hash.map(|(hash, examples)| HeadMask {
            hash,
            example: examples[task.sequence],
            head: task.head as u32,
        });
        let (keys, padded) =
            (task.len.next_multiple_of(HASH_KEYS), shape.head_dim.next_multiple_of(HASH_KEYS));
        let factors = if mask.is_some() { QUERY_BLOCK * keys } else { 0 };
        let need = 2 * task.len * padded + shape.head_dim * keys + QUERY_BLOCK * (keys + padded) + factors;
        scratch::with(need, |working| {
            let logsumexp = if save {
                // SAFETY: each task has its own range: sequences one after another, in each its heads.
                unsafe { saved.range(task.start * shape.heads + task.head * task.len, task.len) }
            } else {
                &mut []
            };
            head(qkv, task, shape, mask, working, &out, logsumexp);
        });
    });
}
