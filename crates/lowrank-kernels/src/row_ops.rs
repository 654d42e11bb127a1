//! Small operations on rows: the gradients of biases, and the choice of rows.

use crate::element::Element;
use crate::parallel::{for_each_row_block, sum_row_blocks};
use crate::rows::{Rows, RowsMut};

multiversion! {
    /// `sum += x`.
    pub(crate) fn add_row[V, T: Element](x: &[T], sum: &mut [f32]) {
        for (x, sum) in x.iter().zip(sum) {
            *sum += x.widen();
        }
    }
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

pub(crate) fn scatter_rows_kernel<T: Element>(dy: Rows<T>, indices: &[usize], mut dx: RowsMut<T>) {
    assert_eq!((indices.len(), dx.cols()), (dy.rows(), dy.cols()));
    for_each_row_block(dx.rows(), dx.cols(), dx.reborrow(), |range, mut dx| {
        for i in 0..range.len() {
            dx.row(i).fill(T::round(0.0));
        }
    });
    for (i, &index) in indices.iter().enumerate() {
        for (dx, dy) in dx.row(index).iter_mut().zip(dy.row(i)) {
            *dx = T::round(dx.widen() + dy.widen());
        }
    }
}
