use half::bf16;
use lowrank_kernels::elementwise::{add, add_assign, convert, is_finite, round, widen};
use lowrank_kernels::row_ops::{add_bias, column_sums, gather_rows, scatter_rows};
use lowrank_kernels::{Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{assert_close, assert_same_bits, elements, numbers, on_threads, tolerance, wide, zeros};

for_both!(sums_of_slices, check_add);
fn check_add<T: Element>() {
    let (x, y) = (elements::<T>(1, 1003), elements::<T>(2, 1003));
    let expected: Vec<f64> = wide(&x).iter().zip(wide(&y)).map(|(x, y)| x + y).collect();
    let mut out = zeros::<T>(1003);
    add(&x, &y, &mut out);
    assert_close(&out, &expected, tolerance::<T>());
    let mut x = x;
    add_assign(&mut x, &y);
    assert_same_bits(&x, &out);
}

for_both!(biases_and_their_gradient, check_bias);
fn check_bias<T: Element>() {
    let (rows, cols) = (301, 467);
    let (x, bias) = (elements::<T>(1, rows * cols), numbers(2, cols));
    let mut y = x.clone();
    add_bias(RowsMut::dense(&mut y, rows, cols), &bias);
    let expected: Vec<f64> =
        wide(&x).iter().enumerate().map(|(i, x)| x + f64::from(bias[i % cols])).collect();
    assert_close(&y, &expected, tolerance::<T>());
    let run = |threads| {
        let mut grad = vec![2.0; cols];
        on_threads(threads, || column_sums(Rows::dense(&x, rows, cols), &mut grad));
        grad
    };
    let expected: Vec<f64> =
        (0..cols).map(|c| 2.0 + (0..rows).map(|r| f64::from(x[r * cols + c].widen())).sum::<f64>()).collect();
    assert_close(&run(1), &expected, 1e-5);
    assert_same_bits(&run(1), &run(3));
}

#[test]
fn a_column_block_of_a_wider_matrix_is_biased_alone() {
    let mut y = vec![1.0_f32; 3 * 10];
    add_bias(RowsMut::columns(&mut y, 3, 10, 4, 2), &[1.0, 2.0]);
    let row = [1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0];
    assert!(y.chunks_exact(10).all(|y| y == row));
}

for_both!(chosen_rows_and_back, check_gather);
fn check_gather<T: Element>() {
    let x = elements::<T>(1, 6 * 5);
    let indices = [4, 0, 5];
    let mut y = zeros::<T>(15);
    gather_rows(Rows::dense(&x, 6, 5), &indices, RowsMut::dense(&mut y, 3, 5));
    for (i, &index) in indices.iter().enumerate() {
        assert_same_bits(&y[i * 5..][..5], &x[index * 5..][..5]);
    }
    let mut dx = elements::<T>(2, 30);
    scatter_rows(Rows::dense(&y, 3, 5), &indices, RowsMut::dense(&mut dx, 6, 5));
    for row in 0..6 {
        let expected = if indices.contains(&row) { x[row * 5..][..5].to_vec() } else { zeros::<T>(5) };
        assert_same_bits(&dx[row * 5..][..5], &expected);
    }
    scatter_rows(Rows::dense(&y[..10], 2, 5), &[1, 1], RowsMut::dense(&mut dx, 6, 5));
    let expected: Vec<f64> = (0..5).map(|c| f64::from(y[c].widen()) + f64::from(y[5 + c].widen())).collect();
    assert_close(&dx[5..10], &expected, tolerance::<T>());
}

#[test]
fn conversion_rounds_and_widens() {
    let x = numbers(1, 999);
    let (mut narrow, mut again) = (zeros::<bf16>(999), zeros::<f32>(999));
    round(&x, &mut narrow);
    widen(&narrow, &mut again);
    for (x, (narrow, again)) in x.iter().zip(narrow.iter().zip(&again)) {
        assert_eq!((*narrow, *again), (bf16::from_f32(*x), bf16::from_f32(*x).to_f32()));
    }
    let mut copy = zeros::<f32>(999);
    convert(&x, &mut copy);
    assert_same_bits(&x, &copy);
}

for_both!(infinities_and_nan_are_found, check_finite);
fn check_finite<T: Element>() {
    let mut x = elements::<T>(1, 9001);
    assert!(is_finite(&x) && is_finite::<T>(&[]));
    for (at, bad) in [(0, f32::NAN), (4097, f32::INFINITY), (9000, f32::NEG_INFINITY)] {
        let good = std::mem::replace(&mut x[at], T::round(bad));
        assert!(!is_finite(&x));
        x[at] = good;
    }
    assert!(is_finite(&x));
}
