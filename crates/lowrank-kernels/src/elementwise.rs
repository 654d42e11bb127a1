//! Sums and conversions of slices.

use crate::element::Element;
use crate::parallel::{PerRow, for_each_row_block};

multiversion! {
    pub(crate) fn add_assign_block[V, T: Element](x: &mut [T], y: &[T]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x = T::round(x.widen() + y.widen());
        }
    }
}

multiversion! {
    fn convert_block[V, S: Element, T: Element](x: &[S], y: &mut [T]) {
        for (x, y) in x.iter().zip(y) {
            *y = T::round(x.widen());
        }
    }
}

multiversion! {
    /// In integers: whether any exponent is all ones.
    fn finite_block[V, T: Element](x: &[T]) -> bool {
        x.chunks(4096).all(|chunk| {
            let mut worst = 0;
            for x in chunk {
                worst = worst.max(x.widen().to_bits() & 0x7f80_0000);
            }
            worst < 0x7f80_0000
        })
    }
}

multiversion! {
    fn scale_block[V, T: Element](x: &mut [T], factor: f32) {
        for x in x {
            *x = T::round(x.widen() * factor);
        }
    }
}

/// `x *= factor`.
pub fn scale<T: Element>(x: &mut [T], factor: f32) {
    (T::COMPILED.scale)(x, factor);
}

pub(crate) fn scale_kernel<T: Element>(x: &mut [T], factor: f32) {
    for_each_row_block(x.len(), 1, PerRow::one(x), |_, x| scale_block(x.data, factor));
}

/// `x += y`.
///
/// # Shapes
/// Equal lengths.
pub fn add_assign<T: Element>(x: &mut [T], y: &[T]) {
    (T::COMPILED.add_assign)(x, y);
}

pub(crate) fn add_assign_kernel<T: Element>(x: &mut [T], y: &[T]) {
    assert_eq!(x.len(), y.len());
    for_each_row_block(y.len(), 1, PerRow::one(x), |range, x| add_assign_block(x.data, &y[range]));
}

/// `y = x`, widened or rounded to nearest even.
///
/// # Shapes
/// Equal lengths.
pub fn convert<S: Element, T: Element>(x: &[S], y: &mut [T]) {
    assert_eq!(x.len(), y.len());
    for_each_row_block(x.len(), 1, PerRow::one(y), |range, y| convert_block(&x[range], y.data));
}

/// Whether no element is infinite or NaN.
pub fn is_finite<T: Element>(x: &[T]) -> bool {
    (T::COMPILED.is_finite)(x)
}

pub(crate) fn is_finite_kernel<T: Element>(x: &[T]) -> bool {
    let found = std::sync::atomic::AtomicBool::new(false);
    for_each_row_block(x.len(), 1, (), |range, ()| {
        use std::sync::atomic::Ordering::Relaxed;
        if !found.load(Relaxed) && !finite_block(&x[range]) {
            found.store(true, Relaxed);
        }
    });
    !found.into_inner()
}
