//! The norms of a weight with a low-rank product added, and outputs that are scaled by them: DoRA.
//!
//! The sum `W + s·B·A` stands in working memory a few rows at a time, never whole.

use crate::element::{Element, Source};
use crate::gemm::{Int8, Stored};
use crate::parallel::{PerRow, for_each_row_block, sum_row_blocks};
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::each;
use crate::tile::{Left, Panel, multiply};

/// Rows of the weight that are decoded together; they stay in the first-level cache.
const GROUP: usize = 4;

/// A low-rank product `s·L·R`.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// `L`: `[rows, r]`, or `[r, rows]` if it is `transposed`.
    pub left: &'a [f32],
    /// Whether `left` has rows and columns exchanged.
    pub transposed: bool,
    /// `R`: `[r, width]`.
    pub right: &'a [f32],
    /// `s`.
    pub scale: f32,
}

impl Product<'_> {
    /// Calls `each_row` with the rows of `weight [rows, width]` with this product added, from `rows.start` on.
    fn each_row(
        &self,
        weight: Stored<'_>,
        [all, width]: [usize; 2],
        rows: std::ops::Range<usize>,
        mut each_row: impl FnMut(&[f32]),
    ) {
        let rank = self.right.len() / width.max(1);
        scratch::with(GROUP * width, |sums| {
            let mut start = rows.start;
            while start < rows.end {
                let group = GROUP.min(rows.end - start);
                for (i, row) in sums.chunks_exact_mut(width).take(group).enumerate() {
                    read(weight, start + i, row);
                }
                let left = if self.transposed {
                    Left::Transposed(Panel { data: &self.left[start..], stride: all })
                } else {
                    Left::Plain(Panel { data: &self.left[start * rank..], stride: rank })
                };
                let right = Panel { data: self.right, stride: width };
                multiply([group, rank, width], self.scale, left, right, sums, width, true);
                sums.chunks_exact(width).take(group).for_each(&mut each_row);
                start += group;
            }
        });
    }
}

/// Row `row` of a weight, in f32.
fn read(weight: Stored<'_>, row: usize, into: &mut [f32]) {
    match weight {
        Stored::Float(source) => source.read(row * into.len(), into),
        Stored::Int8(int8) => int8.read(row, 0, into),
    }
}

/// The number of values, or of rows times columns.
fn elements(weight: Stored<'_>) -> usize {
    match weight {
        Stored::Float(source) => Source::len(&source),
        Stored::Int8(Int8 { values, .. }) => values.len(),
    }
}

fn check(weight: Stored<'_>, [rows, width]: [usize; 2], product: Product<'_>) {
    let rank = product.right.len().checked_div(width).unwrap_or(0);
    assert_eq!(elements(weight), rows * width);
    assert_eq!((product.left.len(), product.right.len()), (rows * rank, rank * width));
}

multiversion! {
    fn squares[V](row: &[f32]) -> f32 {
        let mut sum = V::splat(0.0);
        each::<V>(row.len(), #[inline(always)] |at, n| {
            let x = V::load_some(row, at, n);
            sum = x.madd(x, sum);
        });
        sum.sum()
    }
}

multiversion! {
    fn add_squares[V](row: &[f32], sums: &mut [f32]) {
        each::<V>(row.len(), #[inline(always)] |at, n| {
            let x = V::load_some(row, at, n);
            x.madd(x, V::load_some(sums, at, n)).store_some(sums, at, n);
        });
    }
}

/// `norms[i] = ‖W[i, :] + s·(L·R)[i, :]‖`.
///
/// # Shapes
/// `weight`: `[rows, width]`; `norms`: `[rows]`.
pub fn row_norms(weight: Stored<'_>, width: usize, product: Product<'_>, norms: &mut [f32]) {
    let size = [norms.len(), width];
    check(weight, size, product);
    let cost = width * (product.right.len() / width.max(1) / 4 + 2);
    for_each_row_block(norms.len(), cost, PerRow::one(norms), |range, norms| {
        let mut norms = norms.data.iter_mut();
        product.each_row(weight, size, range, |row| {
            norms.next().into_iter().for_each(|norm| *norm = squares(row).sqrt());
        });
    });
}

/// `norms[j] = ‖W[:, j] + s·(L·R)[:, j]‖`.
///
/// # Shapes
/// `weight`: `[rows, width]`; `norms`: `[width]`.
pub fn column_norms(weight: Stored<'_>, rows: usize, product: Product<'_>, norms: &mut [f32]) {
    let size = [rows, norms.len()];
    check(weight, size, product);
    let cost = norms.len() * (product.right.len() / norms.len().max(1) / 4 + 2);
    norms.fill(0.0);
    sum_row_blocks(rows, cost, norms, (), |range, (), sums| {
        product.each_row(weight, size, range, |row| add_squares(row, sums));
    });
    norms.iter_mut().for_each(|norm| *norm = norm.sqrt());
}

multiversion! {
    fn scale_row[V, T: Element](factors: &[f32], offset: Option<&[f32]>, row: &mut [T]) {
        each::<V>(row.len(), #[inline(always)] |at, n| {
            let offset = offset.map_or(V::splat(0.0), #[inline(always)] |offset| V::load_some(offset, at, n));
            V::load_some(row, at, n).madd(V::load_some(factors, at, n), offset).store_some(row, at, n);
        });
    }
}

/// `y[i, j] = factors[j]·y[i, j] + offset[j]`.
///
/// # Shapes
/// `y`: `[rows, cols]`; `factors` and `offset`: `[cols]`.
pub fn scale_columns<T: Element>(factors: &[f32], offset: Option<&[f32]>, y: RowsMut<T>) {
    (T::COMPILED.scale_columns)(factors, offset, y);
}

pub(crate) fn scale_columns_kernel<T: Element>(factors: &[f32], offset: Option<&[f32]>, y: RowsMut<T>) {
    assert_eq!((factors.len(), offset.map_or(y.cols(), <[f32]>::len)), (y.cols(), y.cols()));
    for_each_row_block(y.rows(), 2 * y.cols(), y, |range, mut y| {
        (0..range.len()).for_each(|i| scale_row(factors, offset, y.row(i)));
    });
}

multiversion! {
    fn add_products[V, T: Element](x: &[T], y: &[T], sums: &mut [f32]) {
        each::<V>(x.len(), #[inline(always)] |at, n| {
            let product = V::load_some(x, at, n).madd(V::load_some(y, at, n), V::load_some(sums, at, n));
            product.store_some(sums, at, n);
        });
    }
}

/// `sums[j] += Σᵢ x[i, j]·y[i, j]`.
///
/// # Shapes
/// `x` and `y`: `[rows, cols]`; `sums`: `[cols]`.
pub fn column_dots<T: Element>(x: Rows<T>, y: Rows<T>, sums: &mut [f32]) {
    (T::COMPILED.column_dots)(x, y, sums);
}

pub(crate) fn column_dots_kernel<T: Element>(x: Rows<T>, y: Rows<T>, sums: &mut [f32]) {
    assert_eq!((x.rows(), x.cols(), x.cols()), (y.rows(), y.cols(), sums.len()));
    sum_row_blocks(x.rows(), 2 * x.cols(), sums, (), |range, (), sums| {
        range.for_each(|row| add_products(x.row(row), y.row(row), sums));
    });
}
