use half::bf16;
use lowrank_kernels::elementwise::{add_assign, convert, is_finite, scale};
use lowrank_kernels::row_ops::{add_rows, column_sums, gather_rows, scatter_rows};
use lowrank_kernels::{Dropout, Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{
    KEY, assert_close, assert_same_bits, dropped, elements, numbers, on_threads, row_ids, tolerance, wide,
    zeros,
};

for_both!(sums_of_slices, check_add);
fn check_add<T: Element>() {
    let (mut x, y) = (elements::<T>(1, 1003), elements::<T>(2, 1003));
    let expected: Vec<f64> = wide(&x).iter().zip(wide(&y)).map(|(x, y)| x + y).collect();
    add_assign(&mut x, &y);
    assert_close(&x, &expected, tolerance::<T>());
}

for_both!(multiples_of_slices, check_scale);
fn check_scale<T: Element>() {
    let mut x = elements::<T>(1, 1003);
    let expected: Vec<f64> = wide(&x).iter().map(|x| x * -1.75).collect();
    scale(&mut x, -1.75);
    assert_close(&x, &expected, tolerance::<T>());
}

for_both!(sums_of_dropped_rows_and_others, check_add_rows);
fn check_add_rows<T: Element>() {
    let (rows, cols) = (301, 467);
    let (x, residual) = (elements::<T>(1, rows * cols), elements::<T>(2, rows * cols));
    let ids = row_ids(rows);
    let dropout = Dropout { probability: 0.25, key: KEY, rows: &ids };
    for dropout in [None, Some(&dropout)] {
        let run = |threads| {
            let mut y = zeros::<T>(rows * cols);
            let (x, residual) = (Rows::dense(&x, rows, cols), Rows::dense(&residual, rows, cols));
            on_threads(threads, || add_rows(x, dropout, residual, RowsMut::dense(&mut y, rows, cols)));
            y
        };
        let kept = dropout.map_or_else(|| x.clone(), |dropout| dropped(&x, rows, cols, dropout));
        let expected: Vec<f64> = wide(&kept).iter().zip(wide(&residual)).map(|(x, r)| x + r).collect();
        assert_close(&run(1), &expected, tolerance::<T>());
        assert_same_bits(&run(1), &run(3));
    }
}

for_both!(sums_of_columns, check_column_sums);
fn check_column_sums<T: Element>() {
    let (rows, cols) = (301, 467);
    let x = elements::<T>(1, rows * cols);
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

for_both!(many_rows_come_back_to_where_they_were_taken, check_scatter);
fn check_scatter<T: Element>() {
    let (rows, cols, taken) = (997, 131, 1501);
    let indices: Vec<usize> = (0..taken).map(|i| i * i * 31 % rows / 2 * 2).collect();
    let dy = elements::<T>(1, taken * cols);
    let run = |threads| {
        let mut dx = elements::<T>(2, rows * cols);
        let (dy, out) = (Rows::dense(&dy, taken, cols), RowsMut::dense(&mut dx, rows, cols));
        on_threads(threads, || scatter_rows(dy, &indices, out));
        dx
    };
    let mut expected = vec![0.0; rows * cols];
    for (dy, &index) in dy.chunks(cols).zip(&indices) {
        for (sum, dy) in expected[index * cols..].iter_mut().zip(dy) {
            *sum += f64::from(dy.widen());
        }
    }
    // A row may be a sum of several, each rounded.
    assert_close(&run(1), &expected, 8.0 * tolerance::<T>());
    assert_same_bits(&run(1), &run(3));
}

#[test]
fn conversion_rounds_and_widens() {
    let x = numbers(1, 999);
    let (mut narrow, mut again) = (zeros::<bf16>(999), zeros::<f32>(999));
    convert(&x, &mut narrow);
    convert(&narrow, &mut again);
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
