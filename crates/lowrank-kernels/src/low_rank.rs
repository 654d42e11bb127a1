//! The adapter's products on rows: with `R` of at most a few dozen they are too thin for the frozen weights' GEMM.
//!
//! Forward: `u = drop(x)·aᵀ` ([`down`]) and `y += s·u·bᵀ` ([`up`]). Backward: `du = s·dy·b` ([`up_backward`]),
//! `da += duᵀ·drop(x)` ([`outer`]), `db += s·dyᵀ·u` ([`outer_transposed`]) and `dx += drop(du·a)`
//! ([`down_backward`]).

use crate::dropout::{CHUNK, Dropout, Hash, RowId};
use crate::element::Element;
use crate::memory::Buffer;
use crate::parallel::{PerRow, ROW_BLOCK, for_each_row_block};
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::{Vector, each};
use crate::tile::{Left, Panel, dots, multiply};

/// Rows that are widened and dropped together; they stay in the first-level cache.
const GROUP: usize = 4;

/// `x *= factors`.
#[inline(always)]
fn scale_by<V: Vector, T: Element>(x: &mut [f32], factors: &[T]) {
    each::<V>(
        x.len(),
        #[inline(always)]
        |at, n| V::load_some(x, at, n).mul(V::load_some(factors, at, n)).store_some(x, at, n),
    );
}

/// `u = alpha·x·aᵀ` on one thread.
fn down_block<T: Element>(x: Rows<T>, a: &[f32], alpha: f32, mut u: RowsMut<f32>) {
    let (k, stride) = (x.cols(), u.stride());
    let size = [x.rows(), k, u.cols()];
    let x = Panel { data: x.data(), stride: x.stride() };
    dots(size, alpha, x, Panel { data: a, stride: k }, u.data(), stride);
}

multiversion! {
    fn down_block_dropped[V, T: Element](
        x: Rows<T>, a: &[f32], hash: &Hash, ids: &[RowId], working: &mut [f32], u: RowsMut<f32>,
    ) {
        let mut u = u;
        let (k, r, stride) = (x.cols(), u.cols(), u.stride());
        let mut start = 0;
        while start < x.rows() {
            let group = GROUP.min(x.rows() - start);
            for (i, dropped) in working.chunks_exact_mut(k).take(group).enumerate() {
                hash.fill::<V>(ids[start + i], 0, dropped);
                scale_by::<V, T>(dropped, x.row(start + i));
            }
            let u = &mut u.data()[start * stride..];
            let (working, a) = (Panel { data: &*working, stride: k }, Panel { data: a, stride: k });
            dots([group, k, r], 1.0, working, a, u, stride);
            start += group;
        }
    }
}

/// `u = drop(x)·aᵀ`. Adapters that share `x` and have no dropout share one call with their `a` stacked.
///
/// # Shapes
/// `x`: `[M, K]`; `a`: `[R, K]`; `u`: `[M, R]`.
pub fn down<T: Element>(x: Rows<T>, a: &[f32], dropout: Option<&Dropout>, u: RowsMut<f32>) {
    (T::COMPILED.low_rank_down)(x, a, dropout, u);
}

pub(crate) fn down_kernel<T: Element>(x: Rows<T>, a: &[f32], dropout: Option<&Dropout>, u: RowsMut<f32>) {
    let (m, k, r) = (x.rows(), x.cols(), u.cols());
    assert_eq!((u.rows(), a.len()), (m, r * k));
    if k == 0 {
        return for_each_row_block(m, r, u, |range, mut u| (0..range.len()).for_each(|i| u.row(i).fill(0.0)));
    }
    match dropout {
        None => for_each_row_block(m, k * r / 4, u, |range, u| {
            down_block(x.slice(range.start, range.end), a, 1.0, u);
        }),
        Some(dropout) => {
            dropout.check(m);
            let hash = dropout.hash();
            for_each_row_block(m, k * (r / 4 + 4), u, |range, u| {
                scratch::with(GROUP * k, |working| {
                    let ids = &dropout.rows[range.clone()];
                    down_block_dropped(x.slice(range.start, range.end), a, &hash, ids, working, u);
                });
            });
        }
    }
}

/// `du = scale·dy·b`: the gradient of `u` in [`up`].
///
/// # Shapes
/// `dy`: `[M, N]`; `b`: `[N, R]`; `du`: `[M, R]`.
pub fn up_backward<T: Element>(dy: Rows<T>, b: &[f32], scale: f32, du: RowsMut<f32>) {
    (T::COMPILED.low_rank_up_backward)(dy, b, scale, du);
}

pub(crate) fn up_backward_kernel<T: Element>(dy: Rows<T>, b: &[f32], scale: f32, du: RowsMut<f32>) {
    let (m, n, r) = (dy.rows(), dy.cols(), du.cols());
    assert_eq!((du.rows(), b.len()), (m, n * r));
    if n == 0 {
        return for_each_row_block(m, r, du, |range, mut du| {
            (0..range.len()).for_each(|i| du.row(i).fill(0.0))
        });
    }
    scratch::with(n * r, |transposed| {
        transpose(b, n, r, transposed);
        let transposed = &*transposed;
        for_each_row_block(m, n * r / 4, du, |range, du| {
            down_block(dy.slice(range.start, range.end), transposed, scale, du);
        });
    });
}

/// `to[c, r] = from[r, c]`.
fn transpose(from: &[f32], rows: usize, cols: usize, to: &mut [f32]) {
    for col in 0..cols {
        for (row, to) in to[col * rows..][..rows].iter_mut().enumerate() {
            *to = from[row * cols + col];
        }
    }
}

/// `y += scale·u·b` on one thread.
fn up_block<T: Element>(u: Rows<f32>, b: &[f32], scale: f32, mut y: RowsMut<T>) {
    let (n, stride) = (y.cols(), y.stride());
    let size = [u.rows(), u.cols(), n];
    let u = Left::Plain(Panel { data: u.data(), stride: u.stride() });
    multiply(size, scale, u, Panel { data: b, stride: n }, y.data(), stride, true);
}

/// `y += scale·u·bᵀ`.
///
/// # Shapes
/// `u`: `[M, R]`; `b`: `[N, R]`; `y`: `[M, N]`.
pub fn up<T: Element>(u: Rows<f32>, b: &[f32], scale: f32, y: RowsMut<T>) {
    (T::COMPILED.low_rank_up)(u, b, scale, y);
}

pub(crate) fn up_kernel<T: Element>(u: Rows<f32>, b: &[f32], scale: f32, y: RowsMut<T>) {
    let (m, r, n) = (u.rows(), u.cols(), y.cols());
    assert_eq!((y.rows(), b.len()), (m, n * r));
    if n == 0 || r == 0 {
        return;
    }
    scratch::with(n * r, |transposed| {
        transpose(b, n, r, transposed);
        let transposed = &*transposed;
        for_each_row_block(m, n * (r / 4 + 1), y, |range, y| {
            up_block(u.slice(range.start, range.end), transposed, scale, y);
        });
    });
}

multiversion! {
    fn down_backward_dropped[V, T: Element](
        du: Rows<f32>, a: &[f32], hash: &Hash, ids: &[RowId], working: &mut [f32], dx: RowsMut<T>,
    ) {
        let mut dx = dx;
        let (r, k) = (du.cols(), dx.cols());
        let (product, factors) = working.split_at_mut(GROUP * k);
        let mut start = 0;
        while start < du.rows() {
            let group = GROUP.min(du.rows() - start);
            let block = du.slice(start, start + group);
            let block = Left::Plain(Panel { data: block.data(), stride: block.stride() });
            multiply([group, r, k], 1.0, block, Panel { data: a, stride: k }, product, k, false);
            for (i, product) in product.chunks_exact(k).take(group).enumerate() {
                hash.fill::<V>(ids[start + i], 0, factors);
                let dx = dx.row(start + i);
                each::<V>(k, #[inline(always)] |at, n| {
                    let dropped = V::load_some(product, at, n);
                    dropped.madd(V::load_some(factors, at, n), V::load_some(dx, at, n)).store_some(dx, at, n);
                });
            }
            start += group;
        }
    }
}

/// `dx += drop(du·a)`: the gradient of `x` in [`down`].
///
/// # Shapes
/// `du`: `[M, R]`; `a`: `[R, K]`; `dx`: `[M, K]`.
pub fn down_backward<T: Element>(du: Rows<f32>, a: &[f32], dropout: Option<&Dropout>, dx: RowsMut<T>) {
    (T::COMPILED.low_rank_down_backward)(du, a, dropout, dx);
}

pub(crate) fn down_backward_kernel<T: Element>(
    du: Rows<f32>,
    a: &[f32],
    dropout: Option<&Dropout>,
    dx: RowsMut<T>,
) {
    let (m, r, k) = (du.rows(), du.cols(), dx.cols());
    assert_eq!((dx.rows(), a.len()), (m, r * k));
    if r == 0 || k == 0 {
        return;
    }
    match dropout {
        None => for_each_row_block(m, k * (r / 4 + 1), dx, |range, dx| {
            up_block(du.slice(range.start, range.end), a, 1.0, dx);
        }),
        Some(dropout) => {
            dropout.check(m);
            let hash = dropout.hash();
            for_each_row_block(m, k * (r / 4 + 5), dx, |range, dx| {
                scratch::with((GROUP + 1) * k, |working| {
                    let ids = &dropout.rows[range.clone()];
                    down_backward_dropped(du.slice(range.start, range.end), a, &hash, ids, working, dx);
                });
            });
        }
    }
}

/// Columns of a gradient that one task sums over all rows; as many as one dropout hash decides.
const COLUMNS: usize = CHUNK;

multiversion! {
    /// `sum[R, width] = Σ vᵀ·drop(x)` over all rows, for `width` columns from `start` on, in blocks of rows.
    fn outer_columns[V, T: Element](
        v: Rows<f32>, x: Rows<T>, dropout: Option<(&Hash, &[RowId])>, start: usize, width: usize,
        working: &mut [f32], sum: &mut [f32],
    ) {
        let (m, r) = (v.rows(), v.cols());
        let mut row = 0;
        while row < m {
            let rows = ROW_BLOCK.min(m - row);
            let block = v.slice(row, row + rows);
            let transposed = Left::Transposed(Panel { data: block.data(), stride: block.stride() });
            let size = [r, rows, width];
            match dropout {
                None => {
                    let x = Panel { data: &x.data()[row * x.stride() + start..], stride: x.stride() };
                    multiply(size, 1.0, transposed, x, sum, width, row > 0);
                }
                Some((hash, ids)) => {
                    for (i, dropped) in working.chunks_exact_mut(width).take(rows).enumerate() {
                        hash.fill::<V>(ids[row + i], start, dropped);
                        scale_by::<V, T>(dropped, &x.row(row + i)[start..]);
                    }
                    let x = Panel { data: &*working, stride: width };
                    multiply(size, 1.0, transposed, x, sum, width, row > 0);
                }
            }
            row += rows;
        }
    }
}

/// `vᵀ·drop(x)`, as `[R, width]` for each group of [`COLUMNS`] columns, one after another.
fn outer_sums<T: Element>(v: Rows<f32>, x: Rows<T>, dropout: Option<&Dropout>, sums: &mut [f32]) {
    let (m, r, k) = (v.rows(), v.cols(), x.cols());
    let hash = dropout.map(|dropout| {
        dropout.check(m);
        (dropout.hash(), dropout.rows)
    });
    let cost = m * COLUMNS * (r / 4 + if hash.is_some() { 4 } else { 1 });
    let groups = k.div_ceil(COLUMNS);
    let sums = ColumnGroups { data: sums, rows: r };
    for_each_row_block(groups, cost, sums, |range, sums| {
        scratch::with(ROW_BLOCK * COLUMNS, |working| {
            for (group, sum) in range.zip(sums.data.chunks_mut(r * COLUMNS)) {
                let start = group * COLUMNS;
                let width = COLUMNS.min(k - start);
                let dropout = hash.as_ref().map(|(hash, ids)| (hash, *ids));
                outer_columns(v, x, dropout, start, width, working, sum);
            }
        });
    });
}

/// `[rows, width]` sums of groups of [`COLUMNS`] columns; the last group may be narrower.
struct ColumnGroups<'a> {
    data: &'a mut [f32],
    rows: usize,
}

impl crate::parallel::SplitRows for ColumnGroups<'_> {
    fn split_rows(self, group: usize) -> (Self, Self) {
        let at = (group * COLUMNS * self.rows).min(self.data.len());
        let (head, tail) = self.data.split_at_mut(at);
        (Self { data: head, rows: self.rows }, Self { data: tail, rows: self.rows })
    }
}

/// `grad += alpha·vᵀ·drop(x)`: the gradient of `a` in [`down`].
///
/// # Shapes
/// `v`: `[M, R]`; `x`: `[M, K]`; `grad`: `[R, K]`.
pub fn outer<T: Element>(v: Rows<f32>, x: Rows<T>, dropout: Option<&Dropout>, alpha: f32, grad: &mut [f32]) {
    (T::COMPILED.low_rank_outer)(v, x, dropout, alpha, grad);
}

pub(crate) fn outer_kernel<T: Element>(
    v: Rows<f32>,
    x: Rows<T>,
    dropout: Option<&Dropout>,
    alpha: f32,
    grad: &mut [f32],
) {
    let (m, r, k) = (v.rows(), v.cols(), x.cols());
    assert_eq!((x.rows(), grad.len()), (m, r * k));
    if m == 0 || r == 0 || k == 0 {
        return;
    }
    let mut sums = Buffer::uninit(r * k * size_of::<f32>());
    let sums = sums.as_mut_slice::<f32>();
    outer_sums(v, x, dropout, sums);
    let sums = &*sums;
    for_each_row_block(r, k, PerRow { data: grad, per_row: k }, |range, grad| {
        for (row, grad) in range.zip(grad.data.chunks_exact_mut(k)) {
            for (sums, grad) in sums.chunks(r * COLUMNS).zip(grad.chunks_mut(COLUMNS)) {
                let width = grad.len();
                for (grad, sum) in grad.iter_mut().zip(&sums[row * width..]) {
                    *grad += alpha * sum;
                }
            }
        }
    });
}

/// `grad += alpha·dyᵀ·v`: the gradient of `b` in [`up`].
///
/// # Shapes
/// `dy`: `[M, N]`; `v`: `[M, R]`; `grad`: `[N, R]`.
pub fn outer_transposed<T: Element>(dy: Rows<T>, v: Rows<f32>, alpha: f32, grad: &mut [f32]) {
    (T::COMPILED.low_rank_outer_transposed)(dy, v, alpha, grad);
}

pub(crate) fn outer_transposed_kernel<T: Element>(dy: Rows<T>, v: Rows<f32>, alpha: f32, grad: &mut [f32]) {
    let (m, r, n) = (v.rows(), v.cols(), dy.cols());
    assert_eq!((dy.rows(), grad.len()), (m, r * n));
    if m == 0 || r == 0 || n == 0 {
        return;
    }
    let mut sums = Buffer::uninit(r * n * size_of::<f32>());
    let sums = sums.as_mut_slice::<f32>();
    outer_sums(v, dy, None, sums);
    for (sums, grad) in sums.chunks(r * COLUMNS).zip(grad.chunks_mut(r * COLUMNS)) {
        let width = grad.len() / r;
        for (col, grad) in grad.chunks_exact_mut(r).enumerate() {
            for (row, grad) in grad.iter_mut().enumerate() {
                *grad += alpha * sums[row * width + col];
            }
        }
    }
}
