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
        let most = i64::from(levels(depth));
        let number = |i: usize, seed: usize| ((i * 7919 + seed) % 1009) as i64;
        // Each row has its largest magnitude, so that it is its own whole row.
        let left: Vec<f32> =
            (0..rows * stride)
                .map(|i| {
                    if i % stride == 0 { most as f32 } else { (number(i, 1) - 504).clamp(-most, most) as f32 }
                })
                .collect();
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
