use lowrank_kernels::dropout::apply;
use lowrank_kernels::{Dropout, DropoutKey, Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{KEY, assert_same_bits, elements, on_threads, row_ids, zeros};

fn multipliers(key: DropoutKey, probability: f32, rows: usize, cols: usize) -> Vec<f32> {
    let ids = row_ids(rows);
    let dropout = Dropout { probability, key, rows: &ids };
    let mut all = vec![9.0; rows * cols];
    apply(Rows::dense(&vec![1.0; rows * cols], rows, cols), &dropout, RowsMut::dense(&mut all, rows, cols));
    all
}

for_both!(apply_multiplies_by_the_mask, check_apply);
fn check_apply<T: Element>() {
    let (rows, cols) = (61, 301);
    let (x, ids) = (elements::<T>(1, rows * cols), row_ids(rows));
    let dropout = Dropout { probability: 0.3, key: KEY, rows: &ids };
    let mask = multipliers(KEY, 0.3, rows, cols);
    let expected: Vec<T> = x.iter().zip(&mask).map(|(x, factor)| T::round(x.widen() * factor)).collect();
    for threads in [1, 3] {
        let mut y = zeros::<T>(rows * cols);
        on_threads(threads, || {
            apply(Rows::dense(&x, rows, cols), &dropout, RowsMut::dense(&mut y, rows, cols))
        });
        assert_same_bits(&y, &expected);
    }
}

#[test]
fn a_mask_depends_on_the_element_alone() {
    let (rows, cols) = (20, 500);
    let all = multipliers(KEY, 0.5, rows, cols);
    let ids = row_ids(rows);
    // One row of the batch, by itself, and its first features.
    let dropout = Dropout { probability: 0.5, key: KEY, rows: &ids[13..14] };
    for len in [500, 128, 127, 1] {
        let mut part = vec![9.0; len];
        apply(Rows::dense(&vec![1.0; len], 1, len), &dropout, RowsMut::dense(&mut part, 1, len));
        assert_eq!(part, all[13 * cols..][..len]);
    }
}

#[test]
fn masks_differ_in_every_coordinate() {
    let (rows, cols) = (14, 1024);
    let reference = multipliers(KEY, 0.5, rows, cols);
    let differences = |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    let half = |count: usize, of: usize| count.abs_diff(of / 2) < of / 10;
    for key in [
        DropoutKey { seed: KEY.seed + 1, ..KEY },
        DropoutKey { step: KEY.step + 1, ..KEY },
        DropoutKey { step: KEY.step & 0xffff_ffff, ..KEY },
        DropoutKey { site: KEY.site + 1, ..KEY },
    ] {
        assert!(half(differences(&reference, &multipliers(key, 0.5, rows, cols)), rows * cols));
    }
    // Next token, next example, next features.
    for (a, b) in [(0, cols), (0, 7 * cols), (0, 16), (0, 128), (0, 1)] {
        assert!(half(differences(&reference[a..a + cols / 2], &reference[b..b + cols / 2]), cols / 2));
    }
}

#[test]
fn the_share_and_the_scale_are_right() {
    for probability in [0.0, 0.1, 0.5, 0.9, 1.0] {
        let mask = multipliers(KEY, probability, 50, 1000);
        let dropped = mask.iter().filter(|&&factor| factor == 0.0).count() as f32 / mask.len() as f32;
        assert!((dropped - probability).abs() < 0.01, "{dropped} of {probability}");
        let scale = 1.0 / (1.0 - probability);
        assert!(mask.iter().all(|&factor| factor == 0.0 || factor == scale));
    }
}
