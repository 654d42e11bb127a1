use lowrank_kernels::gemm::{Int8, Stored, quantize};
use lowrank_kernels::magnitude::{Product, column_dots, column_norms, row_norms, scale_columns};
use lowrank_kernels::{Element, Rows, RowsMut, Source};

use crate::for_both;
use crate::support::{assert_close, assert_same_bits, elements, numbers, on_threads, tolerance, wide};

const SIZES: [[usize; 3]; 5] = [[7, 37, 5], [301, 130, 8], [1, 16, 1], [5, 3, 2], [66, 257, 17]];

/// The squares of `W + 0.7·L·R`, where `left` gives the elements of `L`.
fn squares(
    weight: &[f64],
    [rows, width, r]: [usize; 3],
    left: impl Fn(usize, usize) -> f64,
    right: &[f64],
) -> Vec<f64> {
    let at = |i: usize, j: usize| -> f64 {
        let product: f64 = (0..r).map(|p| left(i, p) * right[p * width + j]).sum();
        (weight[i * width + j] + 0.7f32 as f64 * product).powi(2)
    };
    (0..rows).flat_map(|i| (0..width).map(move |j| (i, j))).map(|(i, j)| at(i, j)).collect()
}

fn norms_of(weight: Stored<'_>, values: &[f64], size: [usize; 3]) {
    let [rows, width, r] = size;
    let (left, right) = (numbers(2, rows * r), numbers(3, r * width));
    let (wide_left, wide_right) = (wide(&left), wide(&right));
    for transposed in [false, true] {
        let product = Product { left: &left, transposed, right: &right, scale: 0.7 };
        let at = |i: usize, p: usize| wide_left[if transposed { p * rows + i } else { i * r + p }];
        let squares = squares(values, size, at, &wide_right);
        let of_rows: Vec<f64> =
            squares.chunks_exact(width).map(|row| row.iter().sum::<f64>().sqrt()).collect();
        let of_columns: Vec<f64> =
            (0..width).map(|j| squares.iter().skip(j).step_by(width).sum::<f64>().sqrt()).collect();
        let run = |threads| {
            let (mut by_row, mut by_column) = (vec![9.0; rows], vec![9.0; width]);
            on_threads(threads, || {
                row_norms(weight, width, product, &mut by_row);
                column_norms(weight, rows, product, &mut by_column);
            });
            (by_row, by_column)
        };
        let (by_row, by_column) = run(1);
        assert_close(&by_row, &of_rows, 1e-5);
        assert_close(&by_column, &of_columns, 1e-5);
        let other = run(3);
        assert_same_bits(&by_row, &other.0);
        assert_same_bits(&by_column, &other.1);
    }
}

#[test]
fn norms_of_a_sum_are_those_of_its_rows_and_columns() {
    for size in SIZES {
        let weight = numbers(1, size[0] * size[1]);
        norms_of(Stored::Float(Source::F32(&weight)), &wide(&weight), size);
        let weight: Vec<half::bf16> = elements(1, size[0] * size[1]);
        norms_of(Stored::Float(Source::Bf16(&weight)), &wide(&weight), size);
    }
}

#[test]
fn norms_of_a_weight_in_8_bits_are_those_of_what_it_decodes_to() {
    let size @ [rows, width, _] = SIZES[1];
    let source = numbers(1, rows * width);
    let (mut values, mut scales) = (vec![0; rows * width], vec![0.0; rows]);
    let (columns, outliers) =
        quantize(Source::F32(&source), rows, width, &mut values, &mut scales).expect("finite");
    let int8 = Int8 { values: &values, scales: &scales, columns: &columns, outliers: &outliers };
    let mut decoded = vec![0.0; rows * width];
    decoded.chunks_exact_mut(width).enumerate().for_each(|(row, into)| int8.read(row, 0, into));
    norms_of(Stored::Int8(int8), &wide(&decoded), size);
}

for_both!(columns_are_scaled_and_offset_in_place, check_scale_columns);
fn check_scale_columns<T: Element>() {
    let (rows, cols, stride) = (301, 67, 70);
    let start = elements::<T>(1, rows * stride);
    let (factors, offset) = (numbers(2, cols), numbers(3, cols));
    for offset in [None, Some(&offset[..])] {
        let run = |threads| {
            let mut y = start.clone();
            on_threads(threads, || {
                scale_columns(&factors, offset, RowsMut::new(&mut y, rows, cols, stride));
            });
            y
        };
        let y = run(1);
        let scaled = |(at, x): (usize, &f64)| match at % stride {
            column if column < cols => {
                x * f64::from(factors[column]) + offset.map_or(0.0, |offset| f64::from(offset[column]))
            }
            _ => *x,
        };
        let expected: Vec<f64> = wide(&start).iter().enumerate().map(scaled).collect();
        assert_close(&y, &expected, tolerance::<T>());
        assert_same_bits(&y, &run(3));
    }
}

for_both!(products_of_columns, check_column_dots);
fn check_column_dots<T: Element>() {
    let (rows, cols) = (301, 67);
    let (x, y) = (elements::<T>(1, rows * cols), elements::<T>(2, rows * cols));
    let run = |threads| {
        let mut sums = vec![2.0; cols];
        on_threads(threads, || {
            column_dots(Rows::dense(&x, rows, cols), Rows::dense(&y, rows, cols), &mut sums);
        });
        sums
    };
    let (x64, y64) = (wide(&x), wide(&y));
    let expected: Vec<f64> = (0..cols)
        .map(|j| 2.0 + (0..rows).map(|i| x64[i * cols + j] * y64[i * cols + j]).sum::<f64>())
        .collect();
    assert_close(&run(1), &expected, 1e-5);
    assert_same_bits(&run(1), &run(3));
}
