//! Gated activations: one half of a row, activated, times the other.

use crate::activation::{Activation, Function, with_function};
use crate::element::Element;
use crate::parallel::for_each_row_block;
use crate::rows::{Rows, RowsMut};
use crate::simd::each;

multiversion! {
    fn forward_row[V, T: Element, F: Function](x: &[T], y: &mut [T]) {
        let (gate, up) = x.split_at(y.len());
        each::<V>(y.len(), #[inline(always)] |at, n| {
            F::value(V::load_some(gate, at, n)).mul(V::load_some(up, at, n)).store_some(y, at, n);
        });
    }
}

multiversion! {
    fn backward_row[V, T: Element, F: Function](x: &[T], dy: &[T], dx: &mut [T]) {
        let ((gate, up), (dgate, dup)) = (x.split_at(dy.len()), dx.split_at_mut(dy.len()));
        each::<V>(dy.len(), #[inline(always)] |at, n| {
            let (gate, dy) = (V::load_some(gate, at, n), V::load_some(dy, at, n));
            dy.mul(F::value(gate)).store_some(dup, at, n);
            dy.mul(V::load_some(up, at, n)).mul(F::derivative(gate)).store_some(dgate, at, n);
        });
    }
}

/// `y = f(gate)·up`, where `gate` is the first half of each row of `x` and `up` the second.
///
/// # Shapes
/// `x`: `[rows, 2·inner]`; `y`: `[rows, inner]`.
pub fn forward<T: Element>(function: Activation, x: Rows<T>, y: RowsMut<T>) {
    (T::COMPILED.gated_forward)(function, x, y);
}

pub(crate) fn forward_kernel<T: Element>(function: Activation, x: Rows<T>, y: RowsMut<T>) {
    assert_eq!((x.rows(), x.cols()), (y.rows(), 2 * y.cols()));
    let forward_row = with_function!(function, F => forward_row::<T, F>);
    for_each_row_block(x.rows(), 8 * x.cols(), y, |range, mut y| {
        for (i, row) in range.enumerate() {
            forward_row(x.row(row), y.row(i));
        }
    });
}

/// The backward of [`forward`].
///
/// # Shapes
/// `x`, `dx`: `[rows, 2·inner]`; `dy`: `[rows, inner]`.
pub fn backward<T: Element>(function: Activation, x: Rows<T>, dy: Rows<T>, dx: RowsMut<T>) {
    (T::COMPILED.gated_backward)(function, x, dy, dx);
}

pub(crate) fn backward_kernel<T: Element>(function: Activation, x: Rows<T>, dy: Rows<T>, dx: RowsMut<T>) {
    assert_eq!((x.rows(), x.cols()), (dy.rows(), 2 * dy.cols()));
    assert_eq!((x.rows(), x.cols()), (dx.rows(), dx.cols()));
    let backward_row = with_function!(function, F => backward_row::<T, F>);
    for_each_row_block(x.rows(), 8 * x.cols(), dx, |range, mut dx| {
        for (i, row) in range.enumerate() {
            backward_row(x.row(row), dy.row(row), dx.row(i));
        }
    });
}
