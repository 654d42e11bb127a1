//! Attention, forward.

use std::ops::Range;

use super::dropout::Multipliers;
use super::heads::{cut, scale_by, widen};
use super::products::{Block, Engine, Forward, MOST_QUERIES, with_engine};
use super::task::{Task, for_each_task};
use super::{Attention, HASH_KEYS};
use crate::columns::ColumnsMut;
use crate::element::Element;
use crate::math;
use crate::rows::RowsMut;
use crate::scratch;
use crate::simd::{Vector, each};
use crate::tile::{Left, Panel, dots, multiply};

/// Softmax without the division over the columns `seen`: `row` becomes `exp(row + bias - maximum)` there and 0
/// elsewhere; returns the maximum and the sum.
#[inline(always)]
fn exponentials<V: Vector>(row: &mut [f32], seen: &Range<usize>, bias: Option<&[f32]>) -> (f32, f32) {
    if seen.is_empty() {
        row.fill(0.0);
        return (0.0, 0.0);
    }
    if let Some(bias) = bias {
        let row = &mut row[seen.clone()];
        each::<V>(
            bias.len(),
            #[inline(always)]
            |at, n| V::load_some(row, at, n).add(V::load_some(bias, at, n)).store_some(row, at, n),
        );
    }
    let (mut maximum, mut sum) = (V::splat(f32::NEG_INFINITY), V::splat(0.0));
    row[..seen.start].fill(f32::NEG_INFINITY);
    row[seen.end..].fill(f32::NEG_INFINITY);
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

/// The factor that makes a row's sum 1, and the logarithm that backward needs. A query that sees nothing has the
/// output 0.
#[inline(always)]
fn normaliser((maximum, sum): (f32, f32), logsumexp: Option<&mut f32>) -> f32 {
    let nothing = sum == 0.0;
    if let Some(logsumexp) = logsumexp {
        // Backward finds eˣ⁻∞ = 0 for its probabilities.
        *logsumexp = if nothing { f32::INFINITY } else { maximum + sum.ln() };
    }
    if nothing { 0.0 } else { 1.0 / sum }
}

#[inline(always)]
fn multiply_by<V: Vector>(row: &mut [f32], factors: &[f32]) {
    for (row, factors) in row.chunks_exact_mut(V::LANES).zip(factors.chunks_exact(V::LANES)) {
        V::load(row).mul(V::load(factors)).store(row);
    }
}

/// Stores one head's result of one query.
#[inline(always)]
fn finish<V: Vector, T: Element>(
    result: &[f32],
    inverse: f32,
    row: usize,
    [column, dim]: [usize; 2],
    out: &ColumnsMut<T>,
) {
    // SAFETY: a task alone writes its heads' columns of its sequence's rows, one at a time.
    let (out, inverse) = (unsafe { out.part(row, column, dim) }, V::splat(inverse));
    each::<V>(
        dim,
        #[inline(always)]
        |at, n| V::load(&result[at..]).mul(inverse).store_some(out, at, n),
    );
}

multiversion! {
    /// One task. `logsumexp` gets the logarithms of its queries, head by head, unless it is empty.
    fn queries[V, T: Element, E: Engine](
        a: &Attention<T>, task: &Task, dropout: Option<Multipliers>, working: &mut [f32], out: &ColumnsMut<T>,
        logsumexp: &mut [f32],
    ) {
        let (len, keys, dim) = (task.queries.len(), task.keys.len(), a.shape.head_dim);
        let (columns, padded) = (E::columns(keys), E::padded(dim));
        let rest = &mut &mut *working;
        let (scores, results) = (cut(rest, E::QUERY_BLOCK * columns), cut(rest, E::QUERY_BLOCK * padded));
        let mut products = E::forward::<V, T>(a, task, cut(rest, E::forward_len(keys, dim)));
        let factors = &mut **rest;
        for (place, head) in task.heads.clone().enumerate() {
            for first in (0..len).step_by(E::QUERY_BLOCK) {
                let rows = E::QUERY_BLOCK.min(len - first);
                let span = a.mask.span(first..first + rows, len, keys, E::WIDTH);
                let start = task.queries.start + first;
                let block = Block { rows: start..start + rows, columns: [head * dim, dim] };
                products.scores::<V, T>(a, &block, &span, scores);
                let mut inverse = [0.0; MOST_QUERIES];
                for i in 0..rows {
                    let seen = a.mask.seen(first + i, len, keys);
                    let bias = a.bias.as_ref().map(|bias| bias.row(head, [first + i, len, keys], &seen));
                    let row = &mut scores[i * span.width..][..span.width];
                    let sum = exponentials::<V>(row, &span.columns(&seen), bias);
                    inverse[i] = normaliser(sum, logsumexp.get_mut(place * len + first + i));
                }
                if let Some(dropout) = &dropout {
                    dropout.fill::<V>(head, [first, rows], [span.start, span.width], factors);
                    multiply_by::<V>(&mut scores[..rows * span.width], factors);
                }
                products.results::<V>(scores, rows, &span, results);
                for (i, row) in block.rows.enumerate() {
                    finish::<V, T>(&results[i * padded..], inverse[i], row, block.columns, out);
                }
            }
        }
    }
}

multiversion! {
    /// As `queries`, where there is a single query: each key is read once for all heads, where it lies.
    fn one_query[V, T: Element](
        a: &Attention<T>, task: &Task, dropout: Option<Multipliers>, working: &mut [f32], out: &ColumnsMut<T>,
        logsumexp: &mut [f32],
    ) {
        let (keys, dim, heads) = (task.keys.len(), a.shape.head_dim, task.heads.len());
        let padded = dim.next_multiple_of(HASH_KEYS);
        let (span, seen) = (a.mask.span(0..1, 1, keys, HASH_KEYS), a.mask.seen(0, 1, keys));
        let rest = &mut &mut *working;
        let (q, scores) = (cut(rest, heads * padded), cut(rest, heads * span.width));
        let (result, factors) = (cut(rest, heads * padded), &mut **rest);
        for (q, head) in q.chunks_exact_mut(padded).zip(task.heads.clone()) {
            widen::<V, T>(a.q, task.queries.clone(), [head * dim, dim], a.shape.scale, padded, q);
        }
        let first = task.keys.start + span.start;
        let rows = a.k.slice(first, first + span.keys()).narrow(task.kv_head * dim, dim);
        let k = Panel { data: rows.data(), stride: rows.stride() };
        let q = Panel { data: &*q, stride: padded };
        dots([heads, dim, span.keys()], 1.0, q, k, scores, span.width);
        for (place, head) in task.heads.clone().enumerate() {
            let row = &mut scores[place * span.width..][..span.width];
            let bias = a.bias.as_ref().map(|bias| bias.row(head, [0, 1, keys], &seen));
            let sum = exponentials::<V>(row, &span.columns(&seen), bias);
            let inverse = normaliser(sum, logsumexp.get_mut(place));
            if let Some(dropout) = &dropout {
                dropout.fill::<V>(head, [0, 1], [span.start, span.width], factors);
                multiply_by::<V>(row, factors);
            }
            scale_by::<V>(row, inverse);
        }
        let p = Left::Plain(Panel { data: &*scores, stride: span.width });
        let rows = a.v.slice(first, first + span.keys()).narrow(task.kv_head * dim, dim);
        let v = Panel { data: rows.data(), stride: rows.stride() };
        multiply([heads, span.keys(), dim], 1.0, p, v, result, padded, false);
        for (result, head) in result.chunks_exact(padded).zip(task.heads.clone()) {
            finish::<V, T>(result, 1.0, task.queries.start, [head * dim, dim], out);
        }
    }
}

/// `out = dropout(softmax(scale·q·kᵀ + bias))·v` for every sequence and head, over the keys that the mask leaves; 0
/// for a query that it leaves none.
///
/// `logsumexp` receives what [`super::backward`] needs, in an order of its own; empty, nothing is saved.
///
/// # Shapes
/// `out`: `[targets, heads·head_dim]`; `logsumexp`: `[targets·heads]` or empty.
///
/// # Panics
/// If sizes do not fit together.
pub fn forward<T: Element>(attention: &Attention<T>, out: RowsMut<T>, logsumexp: &mut [f32]) {
    (T::COMPILED.attention_forward)(attention, out, logsumexp);
}

pub(crate) fn forward_kernel<T: Element>(a: &Attention<T>, out: RowsMut<T>, logsumexp: &mut [f32]) {
    with_engine!(T, E => with::<T, E>(a, out, logsumexp));
}

/// [`forward`] with the products of `E`.
pub(super) fn with<T: Element, E: Engine>(a: &Attention<T>, out: RowsMut<T>, logsumexp: &mut [f32]) {
    let () = E::CHECKED;
    a.check();
    let (targets, heads) = (a.q.rows(), a.shape.heads);
    assert_eq!((out.rows(), out.cols()), (targets, a.q.cols()));
    let save = !logsumexp.is_empty();
    assert!(!save || logsumexp.len() == targets * heads);
    let hash = a.dropout.as_ref().map(|dropout| (dropout.hash(), dropout.examples));
    let saved = RowsMut::dense(logsumexp, 1, if save { targets * heads } else { 0 }).into_columns();
    let out = out.into_columns();
    for_each_task(a, 1, &|task: Task| {
        let dropout = hash.map(|(hash, examples)| Multipliers { hash, example: examples[task.sequence] });
        let (len, keys, dim) = (task.queries.len(), task.keys.len(), a.shape.head_dim);
        if len == 0 {
            return;
        }
        let logsumexp = if save {
            let start = task.queries.start * heads + task.heads.start * len;
            // SAFETY: each task has its own range: sequences one after another, in each its heads.
            unsafe { saved.part(0, start, task.heads.len() * len) }
        } else {
            &mut []
        };
        let blocks = if dropout.is_some() { 2 } else { 1 };
        if len == 1 {
            // Copies of the keys, transposed and not, would be read but once.
            let (stride, padded) = (keys.next_multiple_of(HASH_KEYS), dim.next_multiple_of(HASH_KEYS));
            scratch::with(task.heads.len() * (blocks * stride + 2 * padded), |working| {
                one_query(a, &task, dropout, working, &out, logsumexp);
            });
        } else {
            let need = E::QUERY_BLOCK * (blocks * E::columns(keys) + E::padded(dim));
            scratch::with(need + E::forward_len(keys, dim), |working| {
                queries::<T, E>(a, &task, dropout, working, &out, logsumexp);
            });
        }
    });
}
