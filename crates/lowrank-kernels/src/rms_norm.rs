//! RMS norm: rows divided by the root of their mean square.
//!
//! Backward computes the root again from the input, which it reads anyway.

use crate::element::Element;
use crate::parallel::{for_each_row_block, sum_row_blocks};
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::{Vector, each};

/// `1 / √(mean(x²) + eps)`.
#[inline(always)]
pub(crate) fn inverse_root<V: Vector, T: Element>(x: &[T], eps: f32) -> f32 {
    let mut squares = V::splat(0.0);
    each::<V>(
        x.len(),
        #[inline(always)]
        |at, n| {
            let x = V::load_some(x, at, n);
            squares = x.madd(x, squares);
        },
    );
    1.0 / (squares.sum() / x.len() as f32 + eps).sqrt()
}

/// `dx` of `x·rstd·weight` for the gradient `dy` of that, and `dweight += dy·x·rstd`.
#[inline(always)]
pub(crate) fn backward<V: Vector, G: Element, T: Element>(
    dy: &[G],
    x: &[T],
    weight: &[f32],
    rstd: f32,
    dx: &mut [T],
    mut dweight: Option<&mut [f32]>,
) {
    let (scale, mut slope) = (V::splat(rstd), V::splat(0.0));
    each::<V>(
        x.len(),
        #[inline(always)]
        |at, n| {
            let (dy, normal) = (V::load_some(dy, at, n), V::load_some(x, at, n).mul(scale));
            slope = dy.mul(V::load_some(weight, at, n)).madd(normal, slope);
            if let Some(dweight) = &mut dweight {
                dy.madd(normal, V::load_some(dweight, at, n)).store_some(dweight, at, n);
            }
        },
    );
    let slope = V::splat(slope.sum() / -(x.len() as f32));
    each::<V>(
        x.len(),
        #[inline(always)]
        |at, n| {
            let (dy, normal) = (V::load_some(dy, at, n), V::load_some(x, at, n).mul(scale));
            let g = dy.mul(V::load_some(weight, at, n));
            slope.madd(normal, g).mul(scale).store_some(dx, at, n);
        },
    );
}

multiversion! {
    fn forward_row[V, T: Element](x: &[T], weight: &[f32], eps: f32, y: &mut [T]) {
        let scale = V::splat(inverse_root::<V, T>(x, eps));
        each::<V>(x.len(), #[inline(always)] |at, n| {
            V::load_some(x, at, n).mul(scale).mul(V::load_some(weight, at, n)).store_some(y, at, n);
        });
    }
}

multiversion! {
    fn backward_row[V, T: Element](
        dy: &[T], x: &[T], weight: &[f32], eps: f32, dx: &mut [T], dweight: Option<&mut [f32]>,
    ) {
        backward::<V, T, T>(dy, x, weight, inverse_root::<V, T>(x, eps), dx, dweight);
    }
}

/// Cost of an element, in element operations.
const COST: usize = 4;

/// `y = weight·x / √(mean(x²) + eps)`, row by row.
///
/// # Shapes
/// `x`, `y`: `[rows, width]`; `weight`: `[width]`.
pub fn rms_norm_forward<T: Element>(x: Rows<T>, weight: &[f32], eps: f32, y: RowsMut<T>) {
    (T::COMPILED.rms_norm_forward)(x, weight, eps, y);
}

pub(crate) fn rms_norm_forward_kernel<T: Element>(x: Rows<T>, weight: &[f32], eps: f32, y: RowsMut<T>) {
    let (rows, width) = (x.rows(), x.cols());
    assert_eq!((y.rows(), y.cols(), weight.len()), (rows, width, width));
    for_each_row_block(rows, COST * width, y, |range, mut y| {
        for (i, row) in range.enumerate() {
            forward_row(x.row(row), weight, eps, y.row(i));
        }
    });
}

/// The backward of [`rms_norm_forward`]; the gradient of the weight is added to `dweight`.
///
/// # Shapes
/// `dy`, `x`, `dx`: `[rows, width]`; `weight`, `dweight`: `[width]`.
pub fn rms_norm_backward<T: Element>(
    dy: Rows<T>,
    x: Rows<T>,
    weight: &[f32],
    eps: f32,
    dx: RowsMut<T>,
    dweight: Option<&mut [f32]>,
) {
    (T::COMPILED.rms_norm_backward)(dy, x, weight, eps, dx, dweight);
}

pub(crate) fn rms_norm_backward_kernel<T: Element>(
    dy: Rows<T>,
    x: Rows<T>,
    weight: &[f32],
    eps: f32,
    dx: RowsMut<T>,
    dweight: Option<&mut [f32]>,
) {
    let (rows, width) = (x.rows(), x.cols());
    assert_eq!((dy.rows(), dy.cols()), (rows, width));
    assert_eq!((dx.rows(), dx.cols(), weight.len()), (rows, width, width));
    let block = |range: std::ops::Range<usize>, mut dx: RowsMut<T>, mut dweight: Option<&mut [f32]>| {
        for (i, row) in range.enumerate() {
            backward_row(dy.row(row), x.row(row), weight, eps, dx.row(i), dweight.as_deref_mut());
        }
    };
    match dweight {
        None => for_each_row_block(rows, 2 * COST * width, dx, |range, dx| block(range, dx, None)),
        Some(dweight) => {
            assert_eq!(dweight.len(), width);
            scratch::with(width, |total| {
                total.fill(0.0);
                sum_row_blocks(rows, 2 * COST * width, total, dx, |range, dx, sum| {
                    block(range, dx, Some(sum));
                });
                dweight.iter_mut().zip(total).for_each(|(gradient, total)| *gradient += *total);
            });
        }
    }
}
