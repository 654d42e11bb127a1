//! The gradient of a weight that is trained.

use super::matmul::{MatrixMut, matmul};
use super::rows::widened;
use crate::element::Element;
use crate::rows::Rows;

/// Rows whose contribution is summed before it is added to the gradient; part of the result's bits.
const ROW_BLOCK: usize = 512;

/// `grad += dyᵀ·x` in f32, the sum over rows in fixed blocks in index order.
///
/// # Shapes
/// `dy [M, N]`, `x [M, K]`, `grad [N, K]`.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn weight_gradient<T: Element>(dy: Rows<'_, T>, x: Rows<'_, T>, grad: &mut [f32]) {
    (T::COMPILED.weight_gradient)(dy, x, grad);
}

pub(crate) fn weight_gradient_kernel<T: Element>(dy: Rows<'_, T>, x: Rows<'_, T>, grad: &mut [f32]) {
    assert_eq!(dy.rows(), x.rows(), "dy and x have different numbers of rows");
    let (outputs, inputs) = (dy.cols(), x.cols());
    assert_eq!(grad.len(), outputs * inputs, "grad is not {outputs} x {inputs}");
    for start in (0..x.rows()).step_by(ROW_BLOCK) {
        let end = (start + ROW_BLOCK).min(x.rows());
        let (dy, x) = (dy.slice(start, end), x.slice(start, end));
        let grad = &mut *grad;
        widened(dy, |dy| {
            widened(x, |x| {
                matmul(1.0, dy.transposed(), x, 1.0, MatrixMut::dense(grad, outputs, inputs), true);
            });
        });
    }
}
