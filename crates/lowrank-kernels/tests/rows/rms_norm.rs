use lowrank_kernels::rms_norm::{rms_norm_backward, rms_norm_forward};
use lowrank_kernels::{Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{
    assert_close, assert_same_bits, derivative, dot, elements, numbers, on_threads, tolerance, wide, zeros,
};

const EPS: f32 = 1e-3;

pub fn reference(x: &[f64], weight: &[f64], eps: f32) -> Vec<f64> {
    let width = weight.len();
    let mut y = Vec::new();
    for row in x.chunks_exact(width) {
        let root = (row.iter().map(|x| x * x).sum::<f64>() / width as f64 + f64::from(eps)).sqrt();
        y.extend(row.iter().zip(weight).map(|(x, weight)| weight * x / root));
    }
    y
}

for_both!(forward_divides_by_the_root_of_the_mean_square, check_forward);
fn check_forward<T: Element>() {
    for (rows, width) in [(5, 37), (3, 128), (1, 1), (9, 130)] {
        let (x, weight) = (elements::<T>(1, rows * width), numbers(2, width));
        let mut y = zeros::<T>(rows * width);
        rms_norm_forward(Rows::dense(&x, rows, width), &weight, EPS, RowsMut::dense(&mut y, rows, width));
        assert_close(&y, &reference(&wide(&x), &wide(&weight), EPS), tolerance::<T>());
    }
}

fn backward<T: Element>(rows: usize, width: usize, dweight: Option<&mut [f32]>) -> Vec<T> {
    let (x, dy) = (elements::<T>(1, rows * width), elements::<T>(3, rows * width));
    let mut dx = zeros::<T>(rows * width);
    rms_norm_backward(
        Rows::dense(&dy, rows, width),
        Rows::dense(&x, rows, width),
        &numbers(2, width),
        EPS,
        RowsMut::dense(&mut dx, rows, width),
        dweight,
    );
    dx
}

for_both!(backward_is_the_derivative, check_backward);
fn check_backward<T: Element>() {
    let (rows, width) = (4, 19);
    let mut dweight = vec![1.0; width];
    let dx = backward::<T>(rows, width, Some(&mut dweight));
    assert_same_bits(&dx, &backward::<T>(rows, width, None));
    let x = wide(&elements::<T>(1, rows * width));
    let (weight, dy) = (wide(&numbers(2, width)), wide(&elements::<T>(3, rows * width)));
    let expected = derivative(&x, |x| dot(&reference(x, &weight, EPS), &dy));
    assert_close(&dx, &expected, 4.0 * tolerance::<T>());
    // The parameter's gradient is added to what was there.
    let expected = derivative(&weight, |weight| dot(&reference(&x, weight, EPS), &dy));
    assert_close(&dweight, &expected.iter().map(|x| x + 1.0).collect::<Vec<_>>(), 1e-5);
}

for_both!(threads_do_not_change_bits, check_threads);
fn check_threads<T: Element>() {
    let (rows, width) = (391, 131);
    let run = |threads| {
        on_threads(threads, || {
            let mut dweight = vec![0.0; width];
            (backward::<T>(rows, width, Some(&mut dweight)), dweight)
        })
    };
    let (one, three) = (run(1), run(3));
    assert_same_bits(&one.0, &three.0);
    assert_same_bits(&one.1, &three.1);
}
