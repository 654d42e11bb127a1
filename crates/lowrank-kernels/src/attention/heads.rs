//! One head's columns, into working memory and back.

use std::ops::Range;

use crate::columns::ColumnsMut;
use crate::element::Element;
use crate::rows::Rows;
use crate::simd::{Vector, each};

/// Cuts the next `len` numbers off `rest`.
#[inline(always)]
pub(super) fn cut<'a, N>(rest: &mut &'a mut [N], len: usize) -> &'a mut [N] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

/// `x *= factor`, over a multiple of the longest vector.
#[inline(always)]
pub(super) fn scale_by<V: Vector>(x: &mut [f32], factor: f32) {
    for x in x.chunks_exact_mut(V::LANES) {
        V::load::<f32>(x).mul(V::splat(factor)).store(x);
    }
}

/// Widens one head's columns (from `column` on) of some rows, times `scale`, into rows of `stride`.
#[inline(always)]
pub(super) fn widen<V: Vector, T: Element>(
    rows: Rows<T>,
    range: Range<usize>,
    [column, dim]: [usize; 2],
    scale: f32,
    stride: usize,
    out: &mut [f32],
) {
    let scale = V::splat(scale);
    for (out, i) in out.chunks_exact_mut(stride).zip(range) {
        let row = &rows.row(i)[column..column + dim];
        each::<V>(
            dim,
            #[inline(always)]
            |at, n| V::load_some(row, at, n).mul(scale).store(&mut out[at..]),
        );
        let written = dim.next_multiple_of(V::LANES);
        out[written..].fill(0.0);
    }
}

/// `out[c, i] = rows[i, c]` for `len` rows of `stride`; columns up to `padded` become zero.
#[inline(always)]
pub(super) fn transpose(rows: &[f32], len: usize, dim: usize, stride: usize, padded: usize, out: &mut [f32]) {
    // Four rows at a time, so that a store moves as many numbers.
    let whole = len / 4 * 4;
    for first in (0..whole).step_by(4) {
        let row = |i: usize| &rows[(first + i) * stride..][..dim];
        let columns = row(0).iter().zip(row(1)).zip(row(2).iter().zip(row(3)));
        for (out, ((a, b), (c, d))) in out.chunks_exact_mut(padded).zip(columns) {
            out[first..first + 4].copy_from_slice(&[*a, *b, *c, *d]);
        }
    }
    if padded == 0 {
        return;
    }
    for (c, out) in out.chunks_exact_mut(padded).take(dim).enumerate() {
        for (i, out) in out[whole..len].iter_mut().enumerate() {
            *out = rows[(whole + i) * stride + c];
        }
        out[len..].fill(0.0);
    }
}

/// Rounds `rows` rows of `stride` into the columns from `column` on of those from `row` on.
///
/// # Safety
/// Nothing else writes or reads these columns of these rows meanwhile.
#[inline(always)]
pub(super) unsafe fn store<V: Vector, T: Element>(
    from: &[f32],
    rows: usize,
    stride: usize,
    row: usize,
    [column, dim]: [usize; 2],
    to: &ColumnsMut<T>,
) {
    for (i, from) in from.chunks_exact(stride).take(rows).enumerate() {
        // SAFETY: one row at a time, and no other task has it by this function's contract.
        let to = unsafe { to.part(row + i, column, dim) };
        each::<V>(
            dim,
            #[inline(always)]
            |at, n| V::load(&from[at..]).store_some(to, at, n),
        );
    }
}
