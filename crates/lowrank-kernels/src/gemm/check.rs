//! Runs a micro-kernel through the driver against a plain f64 reference.

use super::decode::Decoded;
use super::driver::multiply;
use super::int8::{Int8, quantize};
use super::panels::Panels;
use super::streamed::{Stored, Streamed};
use super::tile::Tile;
use crate::element::{Compute, Element, Source};
use crate::memory::Buffer;
use crate::rows::{Rows, RowsMut};
use crate::tier::Tier;

/// (rows, depth, width): around the tiles of every kernel, and past the block of the sum.
fn shapes<K: Tile>() -> Vec<(usize, usize, usize)> {
    let (rows, cols, step) = (K::ROWS, K::COLS, K::LAYOUT.depth_multiple);
    vec![
        (0, 3, 3),
        (1, 1, 1),
        (rows, step, cols),
        (rows + 1, 2 * step + 1, cols + 1),
        (2 * rows - 1, 3 * step, 2 * cols - 1),
        (rows / 2 + 1, 33, cols / 2),
        (K::task_rows(70) + 3, 70, cols + 5),
        (3, K::DEPTH + step, 5),
        (rows + 3, K::DEPTH + 1, cols + 1),
    ]
}

/// Deterministic values between -1 and 1 with few significant bits, so that they are exact in every type.
fn values<T: Element>(len: usize, seed: usize) -> Vec<T> {
    (0..len).map(|i| T::round(((i * 37 + seed) % 127) as f32 / 64.0 - 1.0)).collect()
}

/// Products with bias, and added to what is there, in strided rows; rows alone have the same bits.
pub(super) fn check_kernel<K: Tile, T: Element>(kernel: K) {
    for (rows, depth, width) in shapes::<K>() {
        let (stride, out_stride) = (depth + 3, width + 2);
        let left = values::<T>(rows * stride, 1);
        let right = values::<K::Panel>(depth * width, 2);
        let bias = values::<f32>(width, 3);
        let panels = Panels::new(K::LAYOUT, depth, width, |w, d, into| {
            (d..).zip(into).for_each(|(d, into)| *into = right[d * width + w]);
        });
        let transpose = Panels::new(K::LAYOUT, width, depth, |d, w, into| {
            (w..).zip(into).for_each(|(w, into)| *into = right[d * width + w]);
        });
        let before = values::<T>(rows * out_stride, 4);
        for accumulate in [false, true] {
            let bias = Some(&bias[..]).filter(|_| !accumulate);
            let run = |rows: usize| {
                let mut out = before.clone();
                let left = Rows::new(&left, rows, depth, stride);
                let place = RowsMut::new(&mut out, rows, width, out_stride);
                multiply(kernel, left, &panels, bias, accumulate, place);
                out
            };
            let out = run(rows);
            let whole = Rows::new(&left, rows, depth, stride);
            let mut turned = before.clone();
            let place = RowsMut::new(&mut turned, rows, width, out_stride);
            multiply(kernel, whole, &transpose.turned(0..width, Buffer::uninit), bias, accumulate, place);
            assert!(out == turned, "{rows}x{depth}x{width} by the panels of the transpose");
            for tiles in (1..3).filter(|_| accumulate) {
                let mut turned = before.clone();
                let place = RowsMut::new(&mut turned, rows, width, out_stride);
                transpose.in_strips(tiles, place, |panels, place| {
                    multiply(kernel, whole, panels, None, true, place);
                });
                assert!(out == turned, "{rows}x{depth}x{width} by {tiles} tiles of the transpose at a time");
            }
            for i in 0..out.len() {
                let (row, col) = (i / out_stride, i % out_stride);
                if col >= width {
                    assert_eq!(out[i], before[i], "written outside of {rows}x{depth}x{width}");
                    continue;
                }
                let start = bias.map_or(before[i].widen(), |bias| bias[col]);
                let factors = (0..depth).map(|d| (left[row * stride + d], right[d * width + col]));
                let products = factors.map(|(l, r)| f64::from(l.widen()) * f64::from(r.widen()));
                let sum = products.sum::<f64>() + f64::from(start);
                let tolerance = if T::COMPUTE == Compute::F32 { 1e-6 } else { 2f64.powi(-8) };
                let (bound, actual) =
                    (tolerance * sum.abs() + 2e-7 * depth as f64, f64::from(out[i].widen()));
                assert!(
                    (actual - sum).abs() <= bound,
                    "{rows}x{depth}x{width}, row {row}, column {col}: {actual} instead of {sum}"
                );
            }
            for fewer in [1, rows / 2, rows.saturating_sub(1)].into_iter().filter(|&fewer| fewer < rows) {
                let len = fewer * out_stride;
                assert!(run(fewer)[..len] == out[..len], "{fewer} rows of {rows}x{depth}x{width} differ");
            }
        }
    }
}

/// Panels that are made while the product goes on give the bits of panels that were there before it.
pub(super) fn check_streamed<K: Tile, T: Element>(kernel: K) {
    for (rows, inputs, outputs) in shapes::<K>() {
        let mut source = values::<f32>(outputs * inputs, 5);
        // Two outlier columns, if the weight is wide enough for them.
        for k in [inputs / 2, inputs - 1] {
            (0..outputs).for_each(|n| source[n * inputs + k] = 20.0 + (n % 5) as f32);
        }
        let (mut bytes, mut scales) = (vec![0; source.len()], vec![0.0; outputs]);
        let made = quantize(Source::F32(&source), outputs, inputs, &mut bytes, &mut scales);
        let (columns, outliers) = made.expect("finite values");
        let int8 = Int8 { values: &bytes, scales: &scales, columns: &columns, outliers: &outliers };
        for stored in [Stored::Int8(int8), Stored::Float(Source::F32(&source))] {
            let weight = Streamed::with_tier(Tier::Plain, T::COMPUTE, stored, outputs, inputs);
            for forward in [true, false] {
                let decoded = Decoded { weight: &weight, forward };
                let (depth, width) = if forward { (inputs, outputs) } else { (outputs, inputs) };
                let panels = Panels::new(K::LAYOUT, depth, width, |w, d, into: &mut [K::Panel]| {
                    for (d, into) in (d..).zip(into) {
                        let mut value = [0.0];
                        let (n, k) = if forward { (w, d) } else { (d, w) };
                        weight.read(n, k, &mut value);
                        *into = K::Panel::round(value[0]);
                    }
                });
                let left = values::<T>(rows * depth, 6);
                let left = Rows::dense(&left, rows, depth);
                let (mut expected, mut actual) =
                    (vec![T::round(0.0); rows * width], vec![T::round(f32::NAN); rows * width]);
                multiply(kernel, left, &panels, None, false, RowsMut::dense(&mut expected, rows, width));
                multiply(kernel, left, &decoded, None, false, RowsMut::dense(&mut actual, rows, width));
                assert!(expected == actual, "{rows} rows, {outputs} x {inputs}, forward {forward}");
            }
        }
    }
}
