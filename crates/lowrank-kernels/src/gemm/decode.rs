//! Panels of a stored weight, made while a product goes on.

use std::array::from_fn;
use std::ops::Range;

use half::bf16;

use super::int8::Int8;
use super::panels::{Layout, Supply, fill};
use super::streamed::{Stored, Streamed};
use super::turned::turned_block;
use crate::element::Element;

/// Rows and columns of the blocks that 8-bit values are turned in.
const SIDE: usize = 16;

/// The right factor of `x·Wᵀ` (`forward`), or of `dy·W`.
pub(super) struct Decoded<'a> {
    pub weight: &'a Streamed<'a>,
    pub forward: bool,
}

impl<V: Element> Supply<V> for Decoded<'_> {
    const MADE: bool = true;

    fn depth(&self) -> usize {
        if self.forward { self.weight.inputs() } else { self.weight.outputs() }
    }

    fn width(&self) -> usize {
        if self.forward { self.weight.outputs() } else { self.weight.inputs() }
    }

    fn tile<'a>(
        &'a self,
        layout: Layout,
        col: usize,
        steps: Range<usize>,
        room: &'a mut [V],
    ) -> (&'a [V], usize) {
        let len = steps.len().next_multiple_of(layout.depth_multiple) * layout.cols;
        let room = &mut room[..len * layout.panel_multiple];
        for (panel, values) in room.chunks_exact_mut(len.max(1)).enumerate() {
            let width = Supply::<V>::width(self);
            let columns =
                (col + panel * layout.cols).min(width)..(col + (panel + 1) * layout.cols).min(width);
            match self.weight.stored() {
                Stored::Int8(int8) => self.int8(int8, layout, columns, steps.clone(), values),
                Stored::Float(_) if self.forward => {
                    fill(
                        layout,
                        steps.len(),
                        columns,
                        |w, d, into| self.down(w, steps.start + d, into),
                        values,
                    );
                }
                Stored::Float(_) => self.across(layout, columns, steps.clone(), values),
            }
        }
        (room, len)
    }
}

impl Decoded<'_> {
    /// Consecutive values of row `n`.
    fn down<V: Element>(&self, n: usize, k: usize, into: &mut [V]) {
        let mut wide = [0.0; super::panels::PACK_DEPTH];
        let wide = &mut wide[..into.len()];
        self.weight.read(n, k, wide);
        into.iter_mut().zip(wide).for_each(|(into, wide)| *into = V::round(*wide));
    }

    /// A panel whose rows are rows of the weight.
    fn across<V: Element>(
        &self,
        layout: Layout,
        columns: Range<usize>,
        steps: Range<usize>,
        values: &mut [V],
    ) {
        values.fill(V::round(0.0));
        let mut wide = [0.0; super::panels::PACK_DEPTH];
        let wide = &mut wide[..columns.len()];
        for (d, n) in steps.enumerate() {
            self.weight.read(n, columns.start, wide);
            let row = &mut values[d / layout.group * layout.group * layout.cols + d % layout.group..];
            row.iter_mut().step_by(layout.group).zip(&*wide).for_each(|(into, wide)| *into = V::round(*wide));
        }
    }

    /// A panel of 8-bit values.
    fn int8<V: Element>(
        &self,
        int8: &Int8<'_>,
        layout: Layout,
        columns: Range<usize>,
        steps: Range<usize>,
        values: &mut [V],
    ) {
        let inputs = self.weight.inputs();
        let row = |n: usize, part: Range<usize>| &int8.values[n * inputs + part.start..n * inputs + part.end];
        for strip in (0..layout.cols).step_by(SIDE) {
            let start = (columns.start + strip).min(columns.end);
            let strip_columns = start..(start + SIDE).min(columns.end);
            let out = &mut values[strip * layout.group..];
            let shape = Strip { cols: layout.cols, pairs: layout.group == 2, rounds: self.weight.rounds() };
            if self.forward {
                let mut scales = [0.0; SIDE];
                scales[..strip_columns.len()].copy_from_slice(&int8.scales[strip_columns.clone()]);
                let rows = from_fn(|i| match strip_columns.clone().nth(i) {
                    Some(n) => row(n, steps.clone()),
                    None => &[],
                });
                down_strip(&rows, &scales, shape, out);
            } else {
                let part = &int8.values[steps.start * inputs..steps.end * inputs];
                across_strip(part, inputs, strip_columns, &int8.scales[steps.clone()], shape, out);
            }
        }
        let (rows, kept) =
            if self.forward { (columns.clone(), steps.clone()) } else { (steps.clone(), columns.clone()) };
        let first = int8.columns.partition_point(|&k| (k as usize) < kept.start);
        for (j, &k) in int8.columns.iter().enumerate().skip(first) {
            let k = k as usize;
            if k >= kept.end {
                break;
            }
            for n in rows.clone() {
                let (d, w) = if self.forward { (k, n) } else { (n, k) };
                let (d, w) = (d - steps.start, w - columns.start);
                let at = d / layout.group * layout.group * layout.cols + w * layout.group + d % layout.group;
                values[at] = V::round(int8.outliers[n * int8.columns.len() + j].widen());
            }
        }
    }
}

/// How a strip of 16 columns lies in its panel.
#[derive(Clone, Copy)]
struct Strip {
    cols: usize,
    /// Two steps of the sum lie next to each other.
    pairs: bool,
    /// Values are rounded to bf16.
    rounds: bool,
}

multiversion! {
    /// A strip whose columns are rows of the weight; each as long as the panel has steps, or empty.
    fn down_strip[V, P: Element](rows: &[&[i8]; SIDE], scales: &[f32; SIDE], strip: Strip, out: &mut [P]) {
        let len = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        for d in (0..len.max(1)).step_by(SIDE) {
            let mut block = [[0; SIDE]; SIDE];
            for (to, row) in block.iter_mut().zip(rows) {
                match row.get(d..d + SIDE) {
                    Some(values) => to.copy_from_slice(values),
                    None => {
                        let values = row.get(d..).unwrap_or(&[]);
                        to[..values.len()].copy_from_slice(values);
                    }
                }
            }
            let block = bytemuck::cast(turned_block::<SIDE>(bytemuck::cast(block)));
            place(&block, &[*scales; SIDE], strip, &mut out[d * strip.cols..]);
        }
        let done = len.max(1).next_multiple_of(SIDE);
        clear(done, strip, out);
    }
}

multiversion! {
    /// A strip whose rows are rows of the weight.
    fn across_strip[V, P: Element](
        values: &[i8],
        inputs: usize,
        columns: Range<usize>,
        scales: &[f32],
        strip: Strip,
        out: &mut [P],
    ) {
        for d in (0..scales.len().max(1)).step_by(SIDE) {
            let (mut block, mut factors) = ([[0; SIDE]; SIDE], [[0.0; SIDE]; SIDE]);
            let scales = scales.get(d..).unwrap_or(&[]);
            for (i, scale) in scales.iter().take(SIDE).enumerate() {
                let row = &values[(d + i) * inputs..][..inputs];
                match row.get(columns.start..columns.start + SIDE) {
                    Some(part) if columns.len() == SIDE => block[i].copy_from_slice(part),
                    _ => block[i][..columns.len()].copy_from_slice(&row[columns.clone()]),
                }
                factors[i] = [*scale; SIDE];
            }
            place(&block, &factors, strip, &mut out[d * strip.cols..]);
        }
        let done = scales.len().max(1).next_multiple_of(SIDE);
        clear(done, strip, out);
    }
}

/// Zeros in the steps from `done` on, which pad the sum.
#[inline(always)]
fn clear<P: Element>(done: usize, strip: Strip, out: &mut [P]) {
    let (group, width) = if strip.pairs { (2, 2 * SIDE) } else { (1, SIDE) };
    for row in out.get_mut(done * strip.cols..).unwrap_or(&mut []).chunks_mut(group * strip.cols) {
        let width = width.min(row.len());
        row[..width].fill(P::round(0.0));
    }
}

/// Writes 16 steps of a strip, or as many as `out` has room for.
#[inline(always)]
fn place<P: Element>(block: &[[i8; SIDE]; SIDE], factors: &[[f32; SIDE]; SIDE], strip: Strip, out: &mut [P]) {
    if strip.rounds && size_of::<P>() == size_of::<f32>() {
        place_as(block, factors, strip, out, |value| P::round(bf16::round(value).widen()));
    } else {
        place_as(block, factors, strip, out, P::round);
    }
}

#[inline(always)]
fn place_as<P: Element>(
    block: &[[i8; SIDE]; SIDE],
    factors: &[[f32; SIDE]; SIDE],
    strip: Strip,
    out: &mut [P],
    round: impl Fn(f32) -> P,
) {
    if strip.pairs {
        for (pair, out) in out.chunks_mut(2 * strip.cols).take(SIDE / 2).enumerate() {
            let (even, odd) = (2 * pair, 2 * pair + 1);
            let out = &mut out[..2 * SIDE];
            for j in 0..SIDE {
                out[2 * j] = round(factors[even][j] * f32::from(block[even][j]));
                out[2 * j + 1] = round(factors[odd][j] * f32::from(block[odd][j]));
            }
        }
    } else {
        for ((values, factors), out) in block.iter().zip(factors).zip(out.chunks_mut(strip.cols)) {
            let out = &mut out[..SIDE];
            for j in 0..SIDE {
                out[j] = round(factors[j] * f32::from(values[j]));
            }
        }
    }
}
