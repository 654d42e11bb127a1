use lowrank_kernels::low_rank::{down, down_backward, outer, outer_transposed, up, up_backward};
use lowrank_kernels::{Dropout, Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{
    self, KEY, assert_close, assert_same_bits, elements, numbers, on_threads, row_ids, tolerance, wide, zeros,
};

const SIZES: [[usize; 3]; 6] = [[7, 37, 5], [70, 130, 8], [1, 16, 1], [5, 3, 2], [66, 257, 17], [2, 64, 4]];

/// `a[m, k]·b[n, k]ᵀ`, each element found by `(row, column)`.
fn product(
    m: usize,
    n: usize,
    k: usize,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let at = |i: usize, j: usize| (0..k).map(|p| a(i, p) * b(j, p)).sum();
    (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| at(i, j)).collect()
}

fn dropped<T: Element>(x: &[T], rows: usize, cols: usize, dropout: Option<&Dropout>) -> Vec<f64> {
    // In f32, which the fused kernels do not round to T.
    let x: Vec<f32> = x.iter().map(|x| x.widen()).collect();
    wide(&dropout.map_or_else(|| x.clone(), |dropout| support::dropped(&x, rows, cols, dropout)))
}

/// Calls `check` for every size, with and without dropout.
fn for_sizes(check: impl Fn([usize; 3], Option<&Dropout>)) {
    for size in SIZES {
        let ids = row_ids(size[0]);
        check(size, None);
        check(size, Some(&Dropout { probability: 0.2, key: KEY, rows: &ids }));
    }
}

for_both!(down_is_the_product_with_a, check_down);
fn check_down<T: Element>() {
    for_sizes(|[m, k, r], dropout| {
        let (x, a) = (elements::<T>(1, m * k), numbers(2, r * k));
        let mut u = vec![9.0; m * (r + 2)];
        down(Rows::dense(&x, m, k), &a, dropout, RowsMut::new(&mut u, m, r, r + 2));
        let (x, a) = (dropped(&x, m, k, dropout), wide(&a));
        let expected = product(m, r, k, |i, p| x[i * k + p], |j, p| a[j * k + p]);
        for (u, expected) in u.chunks_exact(r + 2).zip(expected.chunks_exact(r)) {
            assert_close(&u[..r], expected, 4e-5);
            assert_eq!(u[r..], [9.0; 2]);
        }
    });
}

for_both!(up_adds_the_product_with_b, check_up);
fn check_up<T: Element>() {
    for [m, n, r] in SIZES {
        let (u, b) = (numbers(1, m * r), numbers(2, n * r));
        let start = elements::<T>(3, m * n);
        let mut y = start.clone();
        up(Rows::dense(&u, m, r), &b, 0.5, RowsMut::dense(&mut y, m, n));
        let (u, b) = (wide(&u), wide(&b));
        let product = product(m, n, r, |i, p| u[i * r + p], |j, p| b[j * r + p]);
        let expected: Vec<f64> = product.iter().zip(wide(&start)).map(|(x, y)| 0.5 * x + y).collect();
        assert_close(&y, &expected, tolerance::<T>());
    }
}

for_both!(up_backward_is_the_product_with_b, check_up_backward);
fn check_up_backward<T: Element>() {
    for [m, n, r] in SIZES {
        let (dy, b) = (elements::<T>(1, m * n), numbers(2, n * r));
        let mut du = vec![9.0; m * r];
        up_backward(Rows::dense(&dy, m, n), &b, 2.0, RowsMut::dense(&mut du, m, r));
        let (dy, b) = (wide(&dy), wide(&b));
        let expected = product(m, r, n, |i, p| 2.0 * dy[i * n + p], |j, p| b[p * r + j]);
        assert_close(&du, &expected, 4e-5);
    }
}

for_both!(down_backward_adds_the_gradient_of_x, check_down_backward);
fn check_down_backward<T: Element>() {
    for_sizes(|[m, k, r], dropout| {
        let (du, a) = (numbers(1, m * r), numbers(2, r * k));
        let start = elements::<T>(3, m * k);
        let mut dx = start.clone();
        down_backward(Rows::dense(&du, m, r), &a, dropout, RowsMut::dense(&mut dx, m, k));
        let (du, a) = (wide(&du), wide(&a));
        let product = product(m, k, r, |i, p| du[i * r + p], |j, p| a[p * k + j]);
        let factors = dropped(&vec![1.0_f32; m * k], m, k, dropout);
        let products = product.iter().zip(&factors).map(|(x, factor)| x * factor);
        let expected: Vec<f64> = products.zip(wide(&start)).map(|(x, y)| x + y).collect();
        assert_close(&dx, &expected, tolerance::<T>());
    });
}

for_both!(outer_adds_the_gradient_of_a, check_outer);
fn check_outer<T: Element>() {
    for_sizes(|[m, k, r], dropout| {
        let (v, x) = (numbers(1, m * r), elements::<T>(2, m * k));
        let mut grad = vec![0.75; r * k];
        outer(Rows::dense(&v, m, r), Rows::dense(&x, m, k), dropout, 0.5, &mut grad);
        let (v, x) = (wide(&v), dropped(&x, m, k, dropout));
        let product = product(r, k, m, |i, p| v[p * r + i], |j, p| x[p * k + j]);
        assert_close(&grad, &product.iter().map(|x| 0.75 + 0.5 * x).collect::<Vec<_>>(), 4e-5);
    });
}

for_both!(outer_transposed_adds_the_gradient_of_b, check_outer_transposed);
fn check_outer_transposed<T: Element>() {
    for [m, n, r] in SIZES {
        let (v, dy) = (numbers(1, m * r), elements::<T>(2, m * n));
        let mut grad = vec![0.75; r * n];
        outer_transposed(Rows::dense(&dy, m, n), Rows::dense(&v, m, r), 0.5, &mut grad);
        let (v, dy) = (wide(&v), wide(&dy));
        let product = product(n, r, m, |i, p| dy[p * n + i], |j, p| v[p * r + j]);
        assert_close(&grad, &product.iter().map(|x| 0.75 + 0.5 * x).collect::<Vec<_>>(), 4e-5);
    }
}

for_both!(threads_do_not_change_bits, check_threads);
fn check_threads<T: Element>() {
    let (m, k, r) = (203, 515, 6);
    let ids = row_ids(m);
    let dropout = Dropout { probability: 0.2, key: KEY, rows: &ids };
    let (x, a) = (elements::<T>(1, m * k), numbers(2, r * k));
    let run = |threads| {
        on_threads(threads, || {
            let (rows, b) = (Rows::dense(&x, m, k), numbers(3, k * r));
            let (mut u, mut du, mut y) = (vec![0.0; m * r], vec![0.0; m * r], zeros::<T>(m * k));
            let (mut da, mut db) = (vec![0.0; r * k], vec![0.0; r * k]);
            down(rows, &a, Some(&dropout), RowsMut::dense(&mut u, m, r));
            up(Rows::dense(&u, m, r), &b, 0.5, RowsMut::dense(&mut y, m, k));
            up_backward(rows, &b, 0.5, RowsMut::dense(&mut du, m, r));
            down_backward(Rows::dense(&du, m, r), &a, Some(&dropout), RowsMut::dense(&mut y, m, k));
            outer(Rows::dense(&du, m, r), rows, Some(&dropout), 1.0, &mut da);
            outer_transposed(rows, Rows::dense(&u, m, r), 0.5, &mut db);
            (y, da, db)
        })
    };
    let (one, three) = (run(1), run(3));
    assert_same_bits(&one.0, &three.0);
    assert_same_bits(&one.1, &three.1);
    assert_same_bits(&one.2, &three.2);
}

#[test]
fn nothing_is_left_undone_for_empty_sizes() {
    let mut u = [3.0_f32; 4];
    down(Rows::dense(&[] as &[f32], 2, 0), &[], None, RowsMut::dense(&mut u, 2, 2));
    assert_eq!(u, [0.0; 4]);
    up(Rows::dense(&[], 0, 2), &[0.0; 6], 1.0, RowsMut::dense(&mut [] as &mut [f32], 0, 3));
    outer(Rows::dense(&[], 0, 2), Rows::dense(&[] as &[f32], 0, 3), None, 1.0, &mut [1.0; 6]);
}
