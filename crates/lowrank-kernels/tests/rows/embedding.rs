use half::{bf16, f16};
use lowrank_kernels::embedding::{Lookup, gather_columns, gather_sum, scatter_add, scatter_add_columns};
use lowrank_kernels::{Element, Rows, RowsMut, Source};

use crate::for_both;
use crate::support::{assert_close, assert_same_bits, elements, numbers, on_threads, tolerance, zeros};

for_both!(tables_of_any_type_are_summed, check_gather);
fn check_gather<T: Element>() {
    let width = 21;
    let (a, b) = (numbers(1, 9 * width), elements::<bf16>(2, 4 * width));
    let c: Vec<f16> = numbers(3, 2 * width).into_iter().map(f16::from_f32).collect();
    let (ids_a, ids_b, ids_c) = ([8, 0, 3, 3, 1], [0, 1, 2, 3, 0], [1, 0, 1, 0, 0]);
    let mut y = zeros::<T>(5 * width);
    let lookups = [
        Lookup { table: Source::F32(&a), ids: &ids_a },
        Lookup { table: Source::Bf16(&b), ids: &ids_b },
        Lookup { table: Source::F16(&c), ids: &ids_c },
    ];
    gather_sum(&lookups, RowsMut::dense(&mut y, 5, width));
    let row = |id: u32, column: usize| id as usize * width + column;
    let expected: Vec<f64> = (0..5 * width)
        .map(|i| (i / width, i % width))
        .map(|(t, column)| {
            f64::from(a[row(ids_a[t], column)])
                + f64::from(b[row(ids_b[t], column)])
                + f64::from(c[row(ids_c[t], column)])
        })
        .collect();
    assert_close(&y, &expected, tolerance::<T>());
}

#[test]
fn every_half_precision_number_is_widened_exactly() {
    let table: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let mut y = vec![0.0_f32; table.len()];
    let width = table.len();
    let lookup = Lookup { table: Source::F16(&table), ids: &[0] };
    gather_sum(&[lookup], RowsMut::dense(&mut y, 1, width));
    for (half, y) in table.iter().zip(&y) {
        // The sum starts at +0, so that -0 becomes +0.
        assert!(*y == half.to_f32() || (y.is_nan() && half.is_nan()), "{half:?} became {y}");
    }
}

#[test]
#[should_panic(expected = "id 4 in a table of 4 rows")]
fn an_id_outside_the_table_is_refused() {
    let lookup = Lookup { table: Source::F32(&[0.0; 12]), ids: &[0, 4] };
    gather_sum(&[lookup], RowsMut::dense(&mut [0.0_f32; 6], 2, 3));
}

for_both!(gradients_are_added_to_the_table, check_scatter);
fn check_scatter<T: Element>() {
    let (tokens, width, vocabulary) = (301, 19, 50);
    let ids: Vec<u32> = (0..tokens as u32).map(|t| t * t % 37 % 23).collect();
    let dy = elements::<T>(1, tokens * width);
    let mut expected = vec![0.5; vocabulary * width];
    for (t, id) in ids.iter().enumerate() {
        for c in 0..width {
            expected[*id as usize * width + c] += f64::from(dy[t * width + c].widen());
        }
    }
    let run = |threads| {
        let mut grad = vec![0.5; vocabulary * width];
        on_threads(threads, || scatter_add(&ids, Rows::dense(&dy, tokens, width), &mut grad));
        grad
    };
    let one = run(1);
    assert_close(&one, &expected, 1e-5);
    assert_same_bits(&one, &run(3));
}

#[test]
fn threads_share_a_large_table() {
    let (tokens, width, vocabulary) = (700, 256, 90);
    let ids: Vec<u32> = (0..tokens as u32).map(|t| t * 31 % 90).collect();
    let dy = elements::<f32>(1, tokens * width);
    let run = |threads| {
        let mut grad = vec![0.0; vocabulary * width];
        on_threads(threads, || scatter_add(&ids, Rows::dense(&dy, tokens, width), &mut grad));
        grad
    };
    assert_same_bits(&run(1), &run(3));
}

#[test]
fn columns_are_gathered_as_rows_and_scattered_back_without_the_skipped_id() {
    let (vocabulary, rank, ids) = (7, 3, [5, 0, 5, 2, 6, 2]);
    let a = numbers(11, rank * vocabulary);
    let mut u = vec![9.0f32; ids.len() * rank];
    gather_columns(&ids, &a, RowsMut::dense(&mut u, ids.len(), rank));
    for (token, id) in ids.iter().enumerate() {
        let column: Vec<f32> = (0..rank).map(|r| a[r * vocabulary + *id as usize]).collect();
        assert_eq!(u[token * rank..][..rank], column);
    }
    let du = numbers(12, ids.len() * rank);
    let start = numbers(13, rank * vocabulary);
    let mut grad = start.clone();
    scatter_add_columns(&ids, Rows::dense(&du, ids.len(), rank), Some(2), &mut grad);
    for (place, (grad, start)) in grad.iter().zip(&start).enumerate() {
        let (r, id) = (place / vocabulary, (place % vocabulary) as u32);
        let tokens = ids.iter().enumerate().filter(|(_, other)| **other == id && id != 2);
        assert_eq!(*grad, tokens.fold(*start, |sum, (token, _)| sum + du[token * rank + r]));
    }
}

#[test]
#[should_panic(expected = "id 7 in a table of 7 rows")]
fn a_column_that_is_not_there_is_refused() {
    gather_columns(&[7], &[0.0; 21], RowsMut::dense(&mut [0.0; 3], 1, 3));
}
