//! Losses and their gradients.

use crate::element::Element;
use crate::math;
use crate::parallel::{PerRow, for_each_row_block};
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::each;

/// The label of rows that do not count.
pub const IGNORE_INDEX: i64 = -100;

multiversion! {
    /// The maximum of a row, and the sum of the exponentials of what is left without it.
    fn statistics[V, T: Element](logits: &[T]) -> (f32, f32) {
        let lowest = V::splat(f32::NEG_INFINITY);
        let (mut maximum, mut sum) = (lowest, V::splat(0.0));
        each::<V>(logits.len(), #[inline(always)] |at, n| {
            maximum = V::load_some(logits, at, n).only(n, lowest).max(maximum);
        });
        let maximum = maximum.maximum();
        let shift = V::splat(maximum);
        each::<V>(logits.len(), #[inline(always)] |at, n| {
            sum = sum.add(math::exp(V::load_some(logits, at, n).only(n, lowest).sub(shift)));
        });
        (maximum, sum.sum())
    }
}

multiversion! {
    /// Turns the logits of a row with this label into their gradient.
    fn gradient_row[V, T: Element](row: &mut [T], label: usize, maximum: f32, sum: f32, denominator: f32) {
        let (shift, factor) = (V::splat(maximum), V::splat(1.0 / (sum * denominator)));
        let mut chosen = [0.0];
        math::exp(V::splat(row[label].widen()).sub(shift)).store_some(&mut chosen, 0, 1);
        each::<V>(row.len(), #[inline(always)] |at, n| {
            math::exp(V::load_some(row, at, n).sub(shift)).mul(factor).store_some(row, at, n);
        });
        // From the unrounded probability: the rounded one would leave its error in the difference.
        row[label] = T::round((chosen[0] / sum - 1.0) / denominator);
    }
}

/// Cost of a logit, in element operations.
const COST: usize = 4;

fn check_labels(labels: &[i64], rows: usize, classes: usize) {
    assert_eq!(labels.len(), rows);
    for &label in labels {
        let known = label == IGNORE_INDEX || usize::try_from(label).is_ok_and(|label| label < classes);
        assert!(known, "label {label} of {classes} classes");
    }
}

/// `Σ -log softmax(logits)[label] / denominator` over the rows whose label is not [`IGNORE_INDEX`]. `maxima` and
/// `sums` become what [`cross_entropy_backward`] needs of each row.
///
/// Nothing of the size of the logits is written: those of a language model are the largest rows of its step.
///
/// # Shapes
/// `logits`: `[rows, classes]`; `labels`, `maxima`, `sums`: `[rows]`.
///
/// # Panics
/// If a label is neither a class nor [`IGNORE_INDEX`].
pub fn cross_entropy<T: Element>(
    logits: Rows<T>,
    labels: &[i64],
    denominator: f32,
    maxima: &mut [f32],
    sums: &mut [f32],
) -> f32 {
    (T::COMPILED.cross_entropy)(logits, labels, denominator, maxima, sums)
}

pub(crate) fn cross_entropy_kernel<T: Element>(
    logits: Rows<T>,
    labels: &[i64],
    denominator: f32,
    maxima: &mut [f32],
    sums: &mut [f32],
) -> f32 {
    let (rows, classes) = (logits.rows(), logits.cols());
    check_labels(labels, rows, classes);
    assert_eq!((maxima.len(), sums.len()), (rows, rows));
    let outputs = (PerRow::one(&mut *maxima), PerRow::one(&mut *sums));
    for_each_row_block(rows, COST * classes, outputs, |range, (maxima, sums)| {
        for (i, row) in range.enumerate() {
            (maxima.data[i], sums.data[i]) = match labels[row] {
                IGNORE_INDEX => (0.0, 1.0),
                _ => statistics(logits.row(row)),
            };
        }
    });
    let mut total = 0.0;
    for (row, &label) in labels.iter().enumerate() {
        if let Ok(label) = usize::try_from(label) {
            total += f64::from(sums[row].ln() + (maxima[row] - logits.row(row)[label].widen()));
        }
    }
    (total / f64::from(denominator)) as f32
}

/// The gradient of [`cross_entropy`], in place of the logits; zero in ignored rows.
///
/// # Shapes
/// As [`cross_entropy`].
pub fn cross_entropy_backward<T: Element>(
    logits: RowsMut<T>,
    labels: &[i64],
    denominator: f32,
    maxima: &[f32],
    sums: &[f32],
) {
    (T::COMPILED.cross_entropy_backward)(logits, labels, denominator, maxima, sums);
}

pub(crate) fn cross_entropy_backward_kernel<T: Element>(
    logits: RowsMut<T>,
    labels: &[i64],
    denominator: f32,
    maxima: &[f32],
    sums: &[f32],
) {
    let (rows, classes) = (logits.rows(), logits.cols());
    check_labels(labels, rows, classes);
    assert_eq!((maxima.len(), sums.len()), (rows, rows));
    for_each_row_block(rows, COST * classes, logits, |range, mut logits| {
        for (i, row) in range.enumerate() {
            match usize::try_from(labels[row]) {
                Ok(label) => gradient_row(logits.row(i), label, maxima[row], sums[row], denominator),
                Err(_) => logits.row(i).fill(T::round(0.0)),
            }
        }
    });
}

/// Half the sum of two cross-entropies over the rows of each sequence: column 0 against `labels[0]`, the row that is a
/// span's start, each such loss divided by `denominators[0]`, and column 1 against `labels[1]`, the end. A label that
/// is no row of its sequence does not count; `gradient` becomes the gradient with respect to the logits.
///
/// # Shapes
/// `logits`, `gradient`: `[rows, 2]`; `offsets`: one more than there are sequences; each of `labels`: `[sequences]`.
pub fn span_cross_entropy<T: Element>(
    logits: Rows<T>,
    offsets: &[usize],
    labels: [&[i64]; 2],
    denominators: [f32; 2],
    gradient: Option<RowsMut<T>>,
) -> f32 {
    (T::COMPILED.span_cross_entropy)(logits, offsets, labels, denominators, gradient)
}

pub(crate) fn span_cross_entropy_kernel<T: Element>(
    logits: Rows<T>,
    offsets: &[usize],
    labels: [&[i64]; 2],
    denominators: [f32; 2],
    mut gradient: Option<RowsMut<T>>,
) -> f32 {
    assert_eq!((logits.rows(), logits.cols()), (offsets.last().copied().unwrap_or(0), 2));
    assert!(gradient.as_ref().is_none_or(|g| (g.rows(), g.cols()) == (logits.rows(), 2)));
    let mut total = 0.0;
    for (column, (labels, denominator)) in labels.into_iter().zip(denominators).enumerate() {
        assert_eq!(labels.len() + 1, offsets.len());
        for (ends, &label) in offsets.windows(2).zip(labels) {
            let (start, length) = (ends[0], ends[1] - ends[0]);
            let label = usize::try_from(label).ok().filter(|&label| label < length);
            scratch::with(length, |scores| {
                if let Some(label) = label {
                    scores
                        .iter_mut()
                        .enumerate()
                        .for_each(|(i, x)| *x = logits.row(start + i)[column].widen());
                    let (maximum, sum) = statistics(&*scores);
                    total += f64::from(sum.ln() + (maximum - scores[label])) / f64::from(denominator) / 2.0;
                    gradient_row(scores, label, maximum, sum, 2.0 * denominator);
                } else {
                    scores.fill(0.0);
                }
                if let Some(gradient) = &mut gradient {
                    scores
                        .iter()
                        .enumerate()
                        .for_each(|(i, x)| gradient.row(start + i)[column] = T::round(*x));
                }
            });
        }
    }
    total as f32
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
