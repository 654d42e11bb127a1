//! Runs a kernel through the driver against whole sums.

use super::driver::{Dot, Pass, Product, multiply};
use super::rows::levels;
use crate::gemm::panels::Panels;
use crate::rows::{Rows, RowsMut};

/// Products of whole rows, of which every bit is known: with scales, bias and what is there, in strided rows.
pub(super) fn check_kernel<K: Dot>(kernel: K) {
    let (tile, cols) = (K::ROWS, K::LAYOUT.cols);
    let shapes = [
        (0, 3, 3),
        (3, 0, 5),
        (1, 1, 1),
        (tile, 2, cols),
        (tile + 1, 5, cols + 1),
        (2 * tile - 1, 64, 2 * cols - 1),
        (tile / 2 + 1, 33, cols / 2),
        (200, 31, 7),
        (70, 301, cols + 5),
    ];
    for (rows, depth, width) in shapes {
        let (stride, out_stride) = (depth + 3, width + 2);
        let most = if size_of::<K::Left>() == 1 { 127 } else { i64::from(levels(depth)) };
        let number = |i: usize, seed: usize| ((i * 7919 + seed) % 1009) as i64;
        // Each row has its largest magnitude, and in 8 bits no outliers if it is longer than one, so that it is its own whole row.
        let value = |i: usize| match number(i, 1) - 504 {
            _ if i.is_multiple_of(stride) => most,
            value if most > 127 => value.clamp(-most, most),
            value => value.signum() * (40 + value.abs() % 87),
        };
        let left: Vec<f32> = (0..rows * stride).map(|i| value(i) as f32).collect();
        let right: Vec<i8> = (0..depth * width).map(|i| (number(i, 2) % 256 - 128) as i8).collect();
        let panels = Panels::new(K::LAYOUT, depth, width, |w, d, into| {
            (d..).zip(into).for_each(|(d, into)| *into = right[d * width + w]);
        });
        let transpose = Panels::new(K::LAYOUT, width, depth, |d, w, into| {
            (w..).zip(into).for_each(|(w, into)| *into = right[d * width + w]);
        });
        let scales: Vec<f32> = (0..width).map(|i| 2_f32.powi(-(i as i32 % 5))).collect();
        let ones = vec![1.0; depth];
        let bias: Vec<f32> = (0..width).map(|i| number(i, 3) as f32).collect();
        let before: Vec<f32> = (0..rows * out_stride).map(|i| number(i, 4) as f32).collect();
        for forward in [true, false] {
            let run = |rows: usize| {
                let mut out = before.clone();
                let pass = if forward {
                    Pass::Forward { mask: None, scales: &scales, bias: Some(&bias) }
                } else {
                    Pass::Backward { scales: &ones, accumulate: true }
                };
                let left = Rows::new(&left, rows, depth, stride);
                let product = Product { left, panels: &panels, pass };
                multiply(kernel, &product, RowsMut::new(&mut out, rows, width, out_stride));
                out
            };
            let out = run(rows);
            for tiles in (1..3).filter(|_| !forward) {
                let mut turned = before.clone();
                let place = RowsMut::new(&mut turned, rows, width, out_stride);
                transpose.in_strips(tiles, place, |panels, place| {
                    let pass = Pass::Backward { scales: &ones, accumulate: true };
                    let left = Rows::new(&left, rows, depth, stride);
                    multiply(kernel, &Product { left, panels, pass }, place);
                });
                assert!(out == turned, "{rows}x{depth}x{width} by {tiles} tiles of the transpose at a time");
            }
            for (i, (found, before)) in out.iter().zip(&before).enumerate() {
                let (row, col) = (i / out_stride, i % out_stride);
                if col >= width {
                    assert_eq!(found, before, "written outside of {rows}x{depth}x{width}");
                    continue;
                }
                let sum: i64 = (0..depth)
                    .map(|d| left[row * stride + d] as i64 * i64::from(right[d * width + col]))
                    .sum();
                let (start, scale) = if forward { (bias[col], scales[col]) } else { (*before, 1.0) };
                let wanted = start + sum as i32 as f32 * scale;
                assert_eq!(*found, wanted, "{rows}x{depth}x{width}, row {row}, column {col}");
            }
            for fewer in [1, rows / 2].into_iter().filter(|&fewer| fewer < rows) {
                let len = fewer * out_stride;
                assert!(run(fewer)[..len] == out[..len], "{fewer} rows of {rows}x{depth}x{width} differ");
            }
        }
    }
}

/// As [`check_kernel`], for a kernel whose rows have 8 bits, with numbers that do not fit these.
pub(super) fn check_outliers<K: Dot<Left = i8>>(kernel: K) {
    for (rows, depth, width) in [(1, 1, 1), (40, 70, 19), (33, 300, 40), (16, 600, 5), (300, 700, 3)] {
        let number = |i: usize, seed: usize| ((i * 7919 + seed) % 1009) as i64;
        // Most rows have two outliers, which some share and some do not; each has 127, so that it is its own whole row.
        let mut left: Vec<f32> = (0..rows * depth).map(|i| (number(i, 1) % 255 - 127) as f32).collect();
        for (i, row) in left.chunks_exact_mut(depth).enumerate() {
            // One for a row of up to 256.
            let outliers = [(depth / 2, 32_512.0 - i as f32), (i % depth, -20_345.0)];
            let most = if i % 5 == 0 || depth == 1 { 0 } else { depth.div_ceil(256).min(2) };
            outliers[..most].iter().for_each(|&(k, outlier)| row[k] = outlier);
            row[depth - 1] = 127.0;
        }
        let right: Vec<i8> = (0..depth * width).map(|i| (number(i, 2) % 256 - 128) as i8).collect();
        let panels = Panels::new(K::LAYOUT, depth, width, |w, d, into| {
            (d..).zip(into).for_each(|(d, into)| *into = right[d * width + w]);
        });
        let ones = vec![1.0; width];
        let run = |from: usize, to: usize| {
            let mut out = vec![f32::NAN; (to - from) * width];
            let left = Rows::dense(&left[from * depth..to * depth], to - from, depth);
            let pass = Pass::Forward { mask: None, scales: &ones, bias: None };
            let product = Product { left, panels: &panels, pass };
            multiply(kernel, &product, RowsMut::dense(&mut out, to - from, width));
            out
        };
        let out = run(0, rows);
        for (i, found) in out.iter().enumerate() {
            let (row, col) = (i / width, i % width);
            let sum: i64 =
                (0..depth).map(|d| left[row * depth + d] as i64 * i64::from(right[d * width + col])).sum();
            let off = (f64::from(*found) - sum as f64).abs();
            assert!(
                off <= 2e-7 * (sum.abs() as f64 + 1e6),
                "{rows}x{depth}x{width}, {row}, {col}: {found}, not {sum}"
            );
        }
        // What others carry does not change a row's bits.
        let apart: Vec<f32> = (0..rows).flat_map(|row| run(row, row + 1)).collect();
        assert!(apart == out, "rows of {rows}x{depth}x{width} alone differ");
    }
}
