//! Small operations on rows: sums with dropout, the gradients of biases, and the choice of rows.

use crate::dropout::{Dropout, Hash, RowId};
use crate::element::Element;
use crate::elementwise::add_assign_block;
use crate::parallel::{for_each_row_block, sum_row_blocks};
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::each;

multiversion! {
    /// `sum += x`.
    pub(crate) fn add_row[V, T: Element](x: &[T], sum: &mut [f32]) {
        for (x, sum) in x.iter().zip(sum) {
            *sum += x.widen();
        }
    }
}

multiversion! {
    fn add_dropped_row[V, T: Element](
        x: &[T], dropout: Option<(&Hash, RowId)>, residual: &[T], factors: &mut [f32], y: &mut [T],
    ) {
        if let Some((hash, row)) = dropout {
            hash.fill::<V>(row, 0, factors);
        }
        each::<V>(x.len(), #[inline(always)] |at, n| {
            let (x, residual) = (V::load_some(x, at, n), V::load_some(residual, at, n));
            let x = if dropout.is_some() { x.mul(V::load_some(factors, at, n)) } else { x };
            x.add(residual).store_some(y, at, n);
        });
    }
}

/// `y = dropout(x) + residual`.
///
/// # Shapes
/// `x`, `residual`, `y`: `[rows, cols]`; `dropout` names as many rows.
pub fn add_rows<T: Element>(x: Rows<T>, dropout: Option<&Dropout>, residual: Rows<T>, y: RowsMut<T>) {
    (T::COMPILED.add_rows)(x, dropout, residual, y);
}

pub(crate) fn add_rows_kernel<T: Element>(
    x: Rows<T>,
    dropout: Option<&Dropout>,
    residual: Rows<T>,
    y: RowsMut<T>,
) {
    let (rows, cols) = (x.rows(), x.cols());
    assert_eq!((residual.rows(), residual.cols()), (rows, cols));
    assert_eq!((y.rows(), y.cols()), (rows, cols));
    let hash = dropout.map(|dropout| {
        dropout.check(rows);
        (dropout.hash(), dropout.rows)
    });
    let (cost, room) = if hash.is_some() { (5, cols) } else { (1, 0) };
    for_each_row_block(rows, cost * cols, y, |range, mut y| {
        scratch::with(room, |factors| {
            for (i, row) in range.enumerate() {
                let dropout = hash.as_ref().map(|(hash, rows)| (hash, rows[row]));
                add_dropped_row(x.row(row), dropout, residual.row(row), factors, y.row(i));
            }
        });
    });
}

/// `grad += Σ dy` over rows: the gradient of a bias.
///
/// # Shapes
/// `dy`: `[rows, cols]`; `grad`: `[cols]`.
pub fn column_sums<T: Element>(dy: Rows<T>, grad: &mut [f32]) {
    (T::COMPILED.column_sums)(dy, grad);
}

pub(crate) fn column_sums_kernel<T: Element>(dy: Rows<T>, grad: &mut [f32]) {
    assert_eq!(dy.cols(), grad.len());
    sum_row_blocks(dy.rows(), dy.cols(), grad, (), |range, (), sum| {
        for row in range {
            add_row(dy.row(row), sum);
        }
    });
}

/// `y[i] = x[indices[i]]`.
///
/// # Shapes
/// `x`: `[rows, cols]`; `y`: `[indices, cols]`.
///
/// # Panics
/// If an index is not below `rows`.
pub fn gather_rows<T: Element>(x: Rows<T>, indices: &[usize], y: RowsMut<T>) {
    (T::COMPILED.gather_rows)(x, indices, y);
}

pub(crate) fn gather_rows_kernel<T: Element>(x: Rows<T>, indices: &[usize], y: RowsMut<T>) {
    assert_eq!((indices.len(), x.cols()), (y.rows(), y.cols()));
    for_each_row_block(indices.len(), x.cols(), y, |range, mut y| {
        for (i, &index) in indices[range].iter().enumerate() {
            y.row(i).copy_from_slice(x.row(index));
        }
    });
}

/// The backward of [`gather_rows`]: `dx[indices[i]] = dy[i]`, zero elsewhere; rows named more than once are summed
/// in order.
///
/// # Shapes
/// `dy`: `[indices, cols]`; `dx`: `[rows, cols]`.
///
/// # Panics
/// If an index is not below `rows`.
pub fn scatter_rows<T: Element>(dy: Rows<T>, indices: &[usize], dx: RowsMut<T>) {
    (T::COMPILED.scatter_rows)(dy, indices, dx);
}

pub(crate) fn scatter_rows_kernel<T: Element>(dy: Rows<T>, indices: &[usize], dx: RowsMut<T>) {
    let (rows, cols) = (dx.rows(), dx.cols());
    assert_eq!((indices.len(), cols), (dy.rows(), dy.cols()));
    assert!(indices.iter().all(|&index| index < rows), "a row that is not one of {rows}");
    // By the row that they go to, in their own order where that is the same.
    let mut order: Vec<usize> = (0..indices.len()).collect();
    order.sort_by_key(|&i| indices[i]);
    for_each_row_block(rows, cols, dx, |range, mut dx| {
        let mut next = order.partition_point(|&i| indices[i] < range.start);
        for (at, row) in range.enumerate() {
            let dx = dx.row(at);
            let mut is_first = true;
            while let Some(&i) = order.get(next).filter(|&&i| indices[i] == row) {
                if is_first {
                    dx.copy_from_slice(dy.row(i));
                } else {
                    add_assign_block(dx, dy.row(i));
                }
                (is_first, next) = (false, next + 1);
            }
            if is_first {
                dx.fill(T::round(0.0));
            }
        }
    });
}
