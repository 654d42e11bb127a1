use lowrank_kernels::gated::{backward, forward};
use lowrank_kernels::{Activation, Element, Rows, RowsMut};

use crate::activation::{ALL, value};
use crate::for_both;
use crate::support::{
    assert_close, assert_same_bits, derivative, dot, elements, on_threads, tolerance, wide, zeros,
};

fn reference(function: Activation, x: &[f64], inner: usize) -> Vec<f64> {
    let gates =
        |row: &[f64]| -> Vec<f64> { (0..inner).map(|i| value(function, row[i]) * row[inner + i]).collect() };
    x.chunks_exact(2 * inner).flat_map(gates).collect()
}

fn run<T: Element>(function: Activation, rows: usize, inner: usize) -> (Vec<T>, Vec<T>) {
    let (x, dy) = (elements::<T>(1, rows * 2 * inner), elements::<T>(2, rows * inner));
    let (mut y, mut dx) = (zeros::<T>(dy.len()), zeros::<T>(x.len()));
    let x = Rows::dense(&x, rows, 2 * inner);
    forward(function, x, RowsMut::dense(&mut y, rows, inner));
    let dy = Rows::dense(&dy, rows, inner);
    backward(function, x, dy, RowsMut::dense(&mut dx, rows, 2 * inner));
    (y, dx)
}

for_both!(gates_and_their_derivative, check_gated);
fn check_gated<T: Element>() {
    for function in ALL {
        for (rows, inner) in [(5, 37), (2, 16), (1, 1)] {
            let (y, dx) = run::<T>(function, rows, inner);
            let x = wide(&elements::<T>(1, rows * 2 * inner));
            let dy = wide(&elements::<T>(2, rows * inner));
            assert_close(&y, &reference(function, &x, inner), tolerance::<T>());
            let expected = derivative(&x, |x| dot(&reference(function, x, inner), &dy));
            assert_close(&dx, &expected, tolerance::<T>());
        }
    }
}

for_both!(threads_do_not_change_bits, check_threads);
fn check_threads<T: Element>() {
    let run = |threads| on_threads(threads, || run::<T>(Activation::Silu, 391, 131));
    let (one, three) = (run(1), run(3));
    assert_same_bits(&one.0, &three.0);
    assert_same_bits(&one.1, &three.1);
}
