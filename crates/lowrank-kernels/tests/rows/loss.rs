use lowrank_kernels::loss::{cross_entropy, mean_squared_error};
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

for_both!(cross_entropy_and_its_gradient, check_cross_entropy);
fn check_cross_entropy<T: Element>() {
    for (rows, classes) in [(5, 2), (4, 37), (2, 130), (3, 1)] {
        let logits = elements::<T>(1, rows * classes);
        let mut labels: Vec<i64> = (0..rows).map(|row| (row * 13 % classes) as i64).collect();
        labels[1] = -100;
        let mut gradient = elements::<T>(9, rows * classes);
        let out = RowsMut::dense(&mut gradient, rows, classes);
        let loss = cross_entropy(Rows::dense(&logits, rows, classes), &labels, 2.5, Some(out));
        let x = wide(&logits);
        let expected = reference(&x, &labels, classes, 2.5);
        assert!(
            (f64::from(loss) - expected).abs() < 2e-6 * expected.max(1.0),
            "{loss} instead of {expected}"
        );
        let expected = derivative(&x, |x| reference(x, &labels, classes, 2.5));
        assert_close(&gradient, &expected, tolerance::<T>() / 4.0);
        assert!(gradient[classes..2 * classes].iter().all(|x| x.widen() == 0.0));
        assert_eq!(loss, cross_entropy(Rows::dense(&logits, rows, classes), &labels, 2.5, None));
    }
}

#[test]
fn far_apart_logits_do_not_overflow() {
    let logits = [1e4_f32, -1e4, 0.0];
    let mut gradient = [0.0; 3];
    let out = RowsMut::dense(&mut gradient, 1, 3);
    let loss = cross_entropy(Rows::dense(&logits, 1, 3), &[1], 1.0, Some(out));
    assert_eq!((loss, gradient), (2e4, [1.0, -1.0, 0.0]));
}

#[test]
#[should_panic(expected = "label 3 of 3 classes")]
fn a_label_that_is_no_class_is_refused() {
    cross_entropy(Rows::dense(&[0.0_f32; 3], 1, 3), &[3], 1.0, None);
}

#[test]
fn threads_do_not_change_bits() {
    let (rows, classes) = (300, 211);
    let logits = elements::<f32>(1, rows * classes);
    let labels: Vec<i64> = (0..rows).map(|row| (row % classes) as i64).collect();
    let run = |threads| {
        on_threads(threads, || {
            let mut gradient = zeros::<f32>(rows * classes);
            let out = RowsMut::dense(&mut gradient, rows, classes);
            (cross_entropy(Rows::dense(&logits, rows, classes), &labels, 3.0, Some(out)), gradient)
        })
    };
    let (one, three) = (run(1), run(3));
    assert_eq!(one.0.to_bits(), three.0.to_bits());
    assert_same_bits(&one.1, &three.1);
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
