//! Losses and their gradients in one pass.

use crate::element::Element;
use crate::math;
use crate::memory::Buffer;
use crate::parallel::{PerRow, for_each_row_block};
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::each;

/// The label of rows that do not count.
pub const IGNORE_INDEX: i64 = -100;

multiversion! {
    /// Widens a row, subtracts its maximum and exponentiates: returns (maximum, sum of exponentials).
    fn exponentials[V, T: Element](logits: &[T], out: &mut [f32]) -> (f32, f32) {
        let lowest = V::splat(f32::NEG_INFINITY);
        let (mut maximum, mut sum) = (lowest, V::splat(0.0));
        each::<V>(logits.len(), #[inline(always)] |at, n| {
            maximum = V::load_some(logits, at, n).only(n, lowest).max(maximum);
        });
        let maximum = maximum.maximum();
        let shift = V::splat(maximum);
        each::<V>(logits.len(), #[inline(always)] |at, n| {
            let exponential = math::exp(V::load_some(logits, at, n).only(n, lowest).sub(shift));
            sum = sum.add(exponential);
            exponential.store_some(out, at, n);
        });
        (maximum, sum.sum())
    }
}

multiversion! {
    fn scale_row[V, T: Element](x: &[f32], factor: f32, out: &mut [T]) {
        for (x, out) in x.iter().zip(out) {
            *out = T::round(x * factor);
        }
    }
}

/// `Σ -log softmax(logits)[label] / denominator` over the rows whose label is not [`IGNORE_INDEX`]; `gradient`
/// becomes its gradient with respect to the logits (zero in ignored rows).
///
/// # Shapes
/// `logits`, `gradient`: `[rows, classes]`; `labels`: `[rows]`.
///
/// # Panics
/// If a label is neither a class nor [`IGNORE_INDEX`].
pub fn cross_entropy<T: Element>(
    logits: Rows<T>,
    labels: &[i64],
    denominator: f32,
    gradient: Option<RowsMut<T>>,
) -> f32 {
    (T::COMPILED.cross_entropy)(logits, labels, denominator, gradient)
}

pub(crate) fn cross_entropy_kernel<T: Element>(
    logits: Rows<T>,
    labels: &[i64],
    denominator: f32,
    gradient: Option<RowsMut<T>>,
) -> f32 {
    let (rows, classes) = (logits.rows(), logits.cols());
    assert_eq!(labels.len(), rows);
    assert!(gradient.as_ref().is_none_or(|g| (g.rows(), g.cols()) == (rows, classes)));
    for &label in labels {
        let known = label == IGNORE_INDEX || usize::try_from(label).is_ok_and(|label| label < classes);
        assert!(known, "label {label} of {classes} classes");
    }
    let mut losses = Buffer::uninit(rows * size_of::<f32>());
    let outputs = (gradient, PerRow::one(losses.as_mut_slice::<f32>()));
    for_each_row_block(rows, 8 * classes, outputs, |range, (mut gradient, losses)| {
        scratch::with(classes, |exponential| {
            for (i, row) in range.enumerate() {
                let Ok(label) = usize::try_from(labels[row]) else {
                    losses.data[i] = 0.0;
                    if let Some(gradient) = &mut gradient {
                        gradient.row(i).fill(T::round(0.0));
                    }
                    continue;
                };
                let logits = logits.row(row);
                let (maximum, sum) = exponentials(logits, exponential);
                losses.data[i] = sum.ln() + (maximum - logits[label].widen());
                if let Some(gradient) = &mut gradient {
                    let gradient = gradient.row(i);
                    scale_row(exponential, 1.0 / (sum * denominator), gradient);
                    // From the unrounded probability: the rounded one would leave its error in the difference.
                    gradient[label] = T::round((exponential[label] / sum - 1.0) / denominator);
                }
            }
        });
    });
    let total: f64 = losses.as_slice::<f32>().iter().map(|&loss| f64::from(loss)).sum();
    (total / f64::from(denominator)) as f32
}

/// `Σ (prediction - target)² / denominator`; `gradient` becomes its gradient with respect to the predictions.
///
/// # Shapes
/// Equal lengths.
pub fn mean_squared_error<T: Element>(
    predictions: &[T],
    targets: &[f32],
    denominator: f32,
    gradient: Option<&mut [T]>,
) -> f32 {
    (T::COMPILED.mean_squared_error)(predictions, targets, denominator, gradient)
}

pub(crate) fn mean_squared_error_kernel<T: Element>(
    predictions: &[T],
    targets: &[f32],
    denominator: f32,
    gradient: Option<&mut [T]>,
) -> f32 {
    assert_eq!(predictions.len(), targets.len());
    let mut total = 0.0;
    for (prediction, target) in predictions.iter().zip(targets) {
        let difference = f64::from(prediction.widen() - target);
        total += difference * difference;
    }
    if let Some(gradient) = gradient {
        assert_eq!(gradient.len(), targets.len());
        for ((prediction, target), gradient) in predictions.iter().zip(targets).zip(gradient) {
            *gradient = T::round(2.0 * (prediction.widen() - target) / denominator);
        }
    }
    (total / f64::from(denominator)) as f32
}
