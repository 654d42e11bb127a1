//! Decompositions of f64 matrices.
#![allow(clippy::unwrap_used)]

use lowrank_kernels::random::Philox;
use lowrank_kernels::svd::{singular_values, svd, triangle};

fn random(seed: u64, elements: usize) -> Vec<f64> {
    let mut generator = Philox::new(seed, 0);
    (0..elements).map(|_| f64::from(generator.normal_f32())).collect()
}

fn near(actual: f64, wanted: f64) {
    assert!((actual - wanted).abs() < 1e-11, "{actual} for {wanted}");
}

/// The last is large enough for several parts.
const SHAPES: [(usize, usize); 5] = [(7, 7), (13, 5), (5, 13), (1, 4), (523, 511)];

#[test]
fn the_parts_of_a_decomposition_make_the_matrix_again() {
    for (rows, columns) in SHAPES {
        let values = random(1, rows * columns);
        let made = svd(&values, rows, columns).unwrap();
        assert!(made.values.is_sorted_by(|a, b| a >= b) && made.values.len() == rows.min(columns));
        for place in (0..rows * columns).step_by(97) {
            let (row, column) = (place / columns, place % columns);
            let parts = made.values.iter().enumerate();
            let sum =
                parts.map(|(k, s)| made.left[k * rows + row] * s * made.right[k * columns + column]).sum();
            near(sum, values[place]);
        }
    }
}

#[test]
fn directions_have_norm_one_and_are_at_right_angles() {
    for (rows, columns) in SHAPES {
        let made = svd(&random(2, rows * columns), rows, columns).unwrap();
        for (directions, width) in [(&made.left, rows), (&made.right, columns)] {
            let dot = |i: usize, j: usize| -> f64 {
                let row = |k: usize| &directions[k * width..][..width];
                row(i).iter().zip(row(j)).map(|(x, y)| x * y).sum()
            };
            near(dot(0, 0), 1.0);
            let last = made.values.len() - 1;
            near(dot(last, last), 1.0);
            if last > 0 {
                near(dot(0, last), 0.0);
                near(dot(last / 2, last), 0.0);
            }
        }
    }
}

#[test]
fn values_alone_and_those_of_the_triangle_are_the_same() {
    for (rows, columns) in SHAPES {
        let values = random(3, rows * columns);
        let whole = svd(&values, rows, columns).unwrap().values;
        let alone = singular_values(&values, rows, columns).unwrap();
        alone.iter().zip(&whole).for_each(|(actual, wanted)| near(*actual, *wanted));
        if rows >= columns {
            let small = triangle(&values, rows, columns);
            assert!((1..columns).all(|row| small[row * columns..][..row].iter().all(|value| *value == 0.0)));
            let of_small = singular_values(&small, columns, columns).unwrap();
            of_small.iter().zip(&whole).for_each(|(actual, wanted)| near(*actual, *wanted));
        }
    }
}

#[test]
fn nothing_has_no_singular_values() {
    for (rows, columns) in [(0, 0), (0, 3), (3, 0)] {
        assert!(singular_values(&[], rows, columns).unwrap().is_empty());
        assert!(svd(&[], rows, columns).unwrap().left.is_empty());
    }
}
