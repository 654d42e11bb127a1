use lowrank_kernels::loss::{cross_entropy, cross_entropy_backward, mean_squared_error, span_cross_entropy};
use lowrank_kernels::{Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{
    assert_close, assert_same_bits, derivative, elements, numbers, on_threads, tolerance, wide, zeros,
};

fn reference(logits: &[f64], labels: &[i64], classes: usize, denominator: f64) -> f64 {
    let rows = logits.chunks_exact(classes).zip(labels);
    let losses = rows.filter(|(_, label)| **label != -100).map(|(row, &label)| {
        let maximum = row.iter().copied().fold(f64::MIN, f64::max);
        row.iter().map(|x| (x - maximum).exp()).sum::<f64>().ln() + maximum - row[label as usize]
    });
    losses.sum::<f64>() / denominator
}

/// The loss, and its gradient in place of the logits.
fn with_gradient<T: Element>(logits: &mut [T], labels: &[i64], classes: usize, denominator: f32) -> f32 {
    let rows = labels.len();
    let (mut maxima, mut sums) = (vec![0.0; rows], vec![0.0; rows]);
    let x = Rows::dense(logits, rows, classes);
    let loss = cross_entropy(x, labels, denominator, &mut maxima, &mut sums);
    let x = RowsMut::dense(logits, rows, classes);
    cross_entropy_backward(x, labels, denominator, &maxima, &sums);
    loss
}

for_both!(cross_entropy_and_its_gradient, check_cross_entropy);
fn check_cross_entropy<T: Element>() {
    for (rows, classes) in [(5, 2), (4, 37), (2, 130), (3, 1)] {
        let logits = elements::<T>(1, rows * classes);
        let mut labels: Vec<i64> = (0..rows).map(|row| (row * 13 % classes) as i64).collect();
        labels[1] = -100;
        let mut gradient = logits.clone();
        let loss = with_gradient(&mut gradient, &labels, classes, 2.5);
        let x = wide(&logits);
        let expected = reference(&x, &labels, classes, 2.5);
        assert!(
            (f64::from(loss) - expected).abs() < 2e-6 * expected.max(1.0),
            "{loss} instead of {expected}"
        );
        let expected = derivative(&x, |x| reference(x, &labels, classes, 2.5));
        assert_close(&gradient, &expected, tolerance::<T>() / 4.0);
        assert!(gradient[classes..2 * classes].iter().all(|x| x.widen() == 0.0));
    }
}

#[test]
fn far_apart_logits_do_not_overflow() {
    let mut logits = [1e4_f32, -1e4, 0.0];
    let loss = with_gradient(&mut logits, &[1], 3, 1.0);
    assert_eq!((loss, logits), (2e4, [1.0, -1.0, 0.0]));
}

#[test]
#[should_panic(expected = "label 3 of 3 classes")]
fn a_label_that_is_no_class_is_refused() {
    with_gradient(&mut [0.0_f32; 3], &[3], 3, 1.0);
}

#[test]
fn threads_do_not_change_bits() {
    let (rows, classes) = (300, 211);
    let logits = elements::<f32>(1, rows * classes);
    let labels: Vec<i64> = (0..rows).map(|row| (row % classes) as i64).collect();
    let run = |threads| {
        on_threads(threads, || {
            let mut gradient = logits.clone();
            (with_gradient(&mut gradient, &labels, classes, 3.0), gradient)
        })
    };
    let (one, three) = (run(1), run(3));
    assert_eq!(one.0.to_bits(), three.0.to_bits());
    assert_same_bits(&one.1, &three.1);
}

for_both!(spans_and_their_gradient, check_spans);
fn check_spans<T: Element>() {
    let offsets = [0, 7, 7, 8, 27];
    let (starts, ends) = ([6, 0, 0, -1], [2, -100, 1, 18]);
    let logits = elements::<T>(3, 54);
    let mut gradient = elements::<T>(4, 54);
    let f = |x: &[f64]| {
        let columns = [(0, starts, 2.5), (1, ends, 4.0)].map(|(column, labels, denominator)| {
            let sequences = offsets.windows(2).zip(labels).map(|(ends, label)| {
                let x: Vec<f64> = (ends[0]..ends[1]).map(|row| x[2 * row + column]).collect();
                let label = if (0..x.len() as i64).contains(&label) { label } else { -100 };
                if label < 0 { 0.0 } else { reference(&x, &[label], x.len(), denominator) }
            });
            sequences.sum::<f64>()
        });
        (columns[0] + columns[1]) / 2.0
    };
    let x = Rows::dense(&logits, 27, 2);
    let out = RowsMut::dense(&mut gradient, 27, 2);
    let loss = span_cross_entropy(x, &offsets, [&starts, &ends], [2.5, 4.0], Some(out));
    assert!((f64::from(loss) - f(&wide(&logits))).abs() < 2e-6, "{loss}");
    assert_close(&gradient, &derivative(&wide(&logits), f), tolerance::<T>() / 4.0);
    assert_eq!(loss, span_cross_entropy(x, &offsets, [&starts, &ends], [2.5, 4.0], None));
}

for_both!(squared_error_and_its_gradient, check_squared_error);
fn check_squared_error<T: Element>() {
    let (x, targets) = (elements::<T>(1, 31), numbers(2, 31));
    let mut gradient = zeros::<T>(31);
    let loss = mean_squared_error(&x, &targets, 31.0, Some(&mut gradient));
    let targets = wide(&targets);
    let f = |x: &[f64]| x.iter().zip(&targets).map(|(x, y)| (x - y).powi(2)).sum::<f64>() / 31.0;
    assert!((f64::from(loss) - f(&wide(&x))).abs() < 1e-6);
    assert_close(&gradient, &derivative(&wide(&x), f), tolerance::<T>() / 10.0);
}
