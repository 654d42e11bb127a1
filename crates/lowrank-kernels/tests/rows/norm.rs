use lowrank_kernels::norm::{layer_norm_backward, layer_norm_forward};
use lowrank_kernels::{Dropout, Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{
    self, KEY, assert_close, assert_same_bits, derivative, dot, dropped, elements, numbers, on_threads,
    row_ids, tolerance, wide, zeros,
};

const EPS: f32 = 1e-5;

fn reference(sum: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
    let width = gamma.len();
    let mut y = Vec::new();
    for row in sum.chunks_exact(width) {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
        y.extend(row.iter().zip(gamma).zip(beta).map(|((x, gamma), beta)| (x - mean) * rstd * gamma + beta));
    }
    y
}

struct Forward<T> {
    sum: Vec<T>,
    y: Vec<T>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
}

fn forward<T: Element>(rows: usize, width: usize, fused: bool, save: bool) -> Forward<T> {
    let (x, residual) = (elements::<T>(1, rows * width), elements::<T>(2, rows * width));
    let (gamma, beta) = (numbers(3, width), numbers(4, width));
    let ids = row_ids(rows);
    let dropout = Dropout { probability: 0.25, key: KEY, rows: &ids };
    let (mut sum, mut y) = (zeros::<T>(rows * width), zeros::<T>(rows * width));
    let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
    layer_norm_forward(
        Rows::dense(&x, rows, width),
        fused.then(|| Rows::dense(&residual, rows, width)),
        fused.then_some(&dropout),
        &gamma,
        &beta,
        EPS,
        save.then(|| RowsMut::dense(&mut sum, rows, width)),
        RowsMut::dense(&mut y, rows, width),
        &mut mean,
        &mut rstd,
    );
    Forward { sum, y, mean, rstd }
}

for_both!(forward_normalises_the_saved_sum, check_forward);
fn check_forward<T: Element>() {
    for (rows, width) in [(5, 37), (3, 128), (1, 1), (9, 130)] {
        let (x, residual) = (elements::<T>(1, rows * width), elements::<T>(2, rows * width));
        let ids = row_ids(rows);
        let dropout = Dropout { probability: 0.25, key: KEY, rows: &ids };
        let dropped = dropped(&x, rows, width, &dropout);
        let found = forward::<T>(rows, width, true, true);
        let sum: Vec<f64> = wide(&dropped).iter().zip(wide(&residual)).map(|(x, r)| x + r).collect();
        assert_close(&found.sum, &sum, tolerance::<T>());
        let (gamma, beta) = (wide(&numbers(3, width)), wide(&numbers(4, width)));
        assert_close(&found.y, &reference(&wide(&found.sum), &gamma, &beta), tolerance::<T>());
        // Whether the sum is saved or not changes nothing.
        let unsaved = forward::<T>(rows, width, true, false);
        assert_same_bits(&unsaved.y, &found.y);
        assert_same_bits(&unsaved.mean, &found.mean);
        let plain = forward::<T>(rows, width, false, true);
        assert_same_bits(&plain.sum, &x);
        assert_close(&plain.y, &reference(&wide(&x), &gamma, &beta), tolerance::<T>());
    }
}

#[test]
fn a_large_mean_leaves_the_variance_exact() {
    let x: Vec<f32> = numbers(1, 64).iter().map(|x| 1000.0 + x).collect();
    let (mut y, mut mean, mut rstd) = (vec![0.0; 64], [0.0], [0.0]);
    let ones = vec![1.0; 64];
    let out = RowsMut::dense(&mut y, 1, 64);
    let rows = Rows::dense(&x, 1, 64);
    layer_norm_forward(rows, None, None, &ones, &[0.0; 64], EPS, None, out, &mut mean, &mut rstd);
    assert_close(&y, &reference(&wide(&x), &[1.0; 64], &[0.0; 64]), 1e-4);
}

for_both!(backward_is_the_derivative, check_backward);
fn check_backward<T: Element>() {
    let (rows, width) = (4, 19);
    let saved = forward::<T>(rows, width, true, true);
    let dy = elements::<T>(5, rows * width);
    let (gamma, beta) = (numbers(3, width), numbers(4, width));
    let ids = row_ids(rows);
    let dropout = Dropout { probability: 0.25, key: KEY, rows: &ids };
    let (mut dx, mut dropped) = (zeros::<T>(rows * width), zeros::<T>(rows * width));
    let (mut dgamma, mut dbeta) = (vec![1.0; width], vec![2.0; width]);
    layer_norm_backward(
        Rows::dense(&dy, rows, width),
        Rows::dense(&saved.sum, rows, width),
        &gamma,
        &saved.mean,
        &saved.rstd,
        RowsMut::dense(&mut dx, rows, width),
        Some((RowsMut::dense(&mut dropped, rows, width), &dropout)),
        Some((&mut dgamma, &mut dbeta)),
    );
    let (sum, gamma, beta, dy) = (wide(&saved.sum), wide(&gamma), wide(&beta), wide(&dy));
    let expected = derivative(&sum, |sum| dot(&reference(sum, &gamma, &beta), &dy));
    assert_close(&dx, &expected, 4.0 * tolerance::<T>());
    assert_same_bits(&dropped, &support::dropped(&dx, rows, width, &dropout));
    // Parameter gradients are added to what was there.
    let expected = derivative(&gamma, |gamma| dot(&reference(&sum, gamma, &beta), &dy));
    assert_close(&dgamma, &expected.iter().map(|x| x + 1.0).collect::<Vec<_>>(), 1e-5);
    let expected = derivative(&beta, |beta| dot(&reference(&sum, &gamma, beta), &dy));
    assert_close(&dbeta, &expected.iter().map(|x| x + 2.0).collect::<Vec<_>>(), 1e-5);
}

for_both!(threads_do_not_change_bits, check_threads);
fn check_threads<T: Element>() {
    let (rows, width) = (391, 131);
    let run = |threads| {
        on_threads(threads, || {
            let saved = forward::<T>(rows, width, true, true);
            let dy = elements::<T>(5, rows * width);
            let mut dx = zeros::<T>(rows * width);
            let (mut dgamma, mut dbeta) = (vec![0.0; width], vec![0.0; width]);
            layer_norm_backward(
                Rows::dense(&dy, rows, width),
                Rows::dense(&saved.sum, rows, width),
                &numbers(3, width),
                &saved.mean,
                &saved.rstd,
                RowsMut::dense(&mut dx, rows, width),
                None,
                Some((&mut dgamma, &mut dbeta)),
            );
            (saved, dx, dgamma, dbeta)
        })
    };
    let (one, three) = (run(1), run(3));
    assert_same_bits(&one.0.y, &three.0.y);
    assert_same_bits(&one.0.rstd, &three.0.rstd);
    assert_same_bits(&one.1, &three.1);
    assert_same_bits(&one.2, &three.2);
    assert_same_bits(&one.3, &three.3);
}
