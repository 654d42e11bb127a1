//! The loops around a kernel of whole numbers: cuts a product into tasks, brings a task's rows into 16 bits, and writes
//! its tiles.

use rayon::prelude::*;

use super::rows::{levels, round_rows};
use crate::columns::ColumnsMut;
use crate::element::Element;
use crate::gemm::panels::{Layout, Panels, Supply};
use crate::parallel::flush_denormals;
use crate::rows::{Rows, RowsMut};
use crate::scratch;

/// The most sums of a tile of any kernel.
pub(super) const TILE: usize = 8 * 48;
/// Whole numbers of a task's rows: with a panel they stay in the second-level cache.
const TASK_VALUES: usize = 1 << 16;
/// The most rows of a task.
const TASK_ROWS: usize = 192;
/// Length of the sum after which whole sums become floats: the longer, the fewer levels a row has.
const DEPTH: usize = 2048;
/// The most rows of a tile of any kernel.
const TILE_ROWS: usize = 8;

/// The sums of a tile, row by row.
#[repr(align(64))]
pub(super) struct Sums(pub [i32; TILE]);

/// Sums of several blocks of the depth.
#[repr(align(64))]
struct Totals([f32; TILE]);

/// The operands of one call of a kernel.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub rows: usize,
    pub pairs: usize,
    pub left: *const i16,
    pub stride: usize,
    pub panel: *const i8,
}

/// The panels of a kernel: pairs along the sum.
pub(super) const fn pairs_of(cols: usize) -> Layout {
    Layout { cols, group: 2, depth_multiple: 2, panel_multiple: 1 }
}

/// A kernel: whole products of a few rows and a few columns.
pub(super) trait Dot: Copy + Send + Sync {
    /// The panels that it reads: pairs along the sum.
    const LAYOUT: Layout;
    /// The most rows of a tile.
    const ROWS: usize;

    /// Assigns `rows` by `LAYOUT.cols` sums of `pairs` pairs of products.
    ///
    /// # Safety
    /// From `left`, `rows` rows of `2 · pairs` numbers can be read at `stride`, and from `panel` as many steps; `rows` is
    /// from 1 to [`Dot::ROWS`].
    unsafe fn run(self, step: Step, sums: &mut Sums);
}

/// A product with a weight in 8 bits, of which each output has a scale.
pub(super) struct Product<'a, T> {
    /// `[M, depth]`.
    pub left: Rows<'a, T>,
    /// `[depth, width]`.
    pub panels: &'a Panels<i8>,
    pub pass: Pass<'a>,
}

/// Which way the weight is multiplied.
pub(super) enum Pass<'a> {
    /// `out = scales∘((mask∘left)·panels) + bias`, `mask [depth]`, the others `[width]`.
    Forward { mask: Option<&'a [f32]>, scales: &'a [f32], bias: Option<&'a [f32]> },
    /// `out = (scales∘left)·panels`, `scales [depth]`, or added to what `out` held.
    Backward { scales: &'a [f32], accumulate: bool },
}

/// Computes a product into `out [M, width]`.
pub(super) fn multiply<K: Dot, T: Element>(kernel: K, product: &Product<'_, T>, out: RowsMut<'_, T>) {
    let (rows, depth, width) = (product.left.rows(), product.panels.depth(), product.panels.width());
    assert!(product.left.cols() == depth && out.rows() == rows && out.cols() == width);
    assert!(match product.pass {
        Pass::Forward { mask, scales, bias } => {
            let fits = |of_width: Option<&[f32]>| of_width.is_none_or(|values| values.len() == width);
            mask.is_none_or(|mask| mask.len() == depth) && fits(Some(scales)) && fits(bias)
        }
        Pass::Backward { scales, .. } => scales.len() == depth,
    });
    if rows == 0 || width == 0 {
        return;
    }
    let cols = K::LAYOUT.cols;
    let task_rows = (TASK_VALUES / depth.max(1)).clamp(2 * K::ROWS, TASK_ROWS);
    let (row_tiles, col_tiles) = (rows.div_ceil(K::ROWS), width.div_ceil(cols));
    let parallel = crate::gemm::flops(rows, depth, width) >= crate::gemm::PARALLEL_FLOPS;
    let chunks = rows.div_ceil(task_rows);
    // Enough tasks that no thread waits long for the last one.
    let groups =
        if parallel { (3 * rayon::current_num_threads()).div_ceil(chunks).min(col_tiles) } else { 1 };
    let (row_step, col_step) = (row_tiles.div_ceil(chunks) * K::ROWS, col_tiles.div_ceil(groups) * cols);
    let (chunks, groups) = (rows.div_ceil(row_step), width.div_ceil(col_step));
    let out = out.into_columns();
    let run = |index: usize| {
        let (row, col) = (index % chunks * row_step, index / chunks * col_step);
        let (rows, cols) = (row..rows.min(row + row_step), col..width.min(col + col_step));
        // SAFETY: tasks have parts of the result of their own.
        unsafe { task(kernel, product, (rows.start, rows.end), (cols.start, cols.end), &out) }
    };
    if parallel {
        (0..chunks * groups).into_par_iter().for_each(run);
    } else {
        (0..chunks * groups).for_each(run);
    }
}

/// Computes some rows and columns, of which the first starts a panel.
///
/// # Safety
/// Nothing else refers to this part of the result.
unsafe fn task<K: Dot, T: Element>(
    kernel: K,
    product: &Product<'_, T>,
    rows: (usize, usize),
    cols: (usize, usize),
    out: &ColumnsMut<'_, T>,
) {
    flush_denormals();
    let (count, depth, step) = (rows.1 - rows.0, product.panels.depth(), K::LAYOUT.cols);
    let padded = depth.next_multiple_of(K::LAYOUT.depth_multiple);
    let blocks = padded.div_ceil(DEPTH);
    let (mut sums, mut totals) = (Sums([0; TILE]), Totals([0.0; TILE]));
    // Two numbers of 16 bits in the place of a float.
    scratch::with((count * padded).div_ceil(2), |whole| {
        let whole = &mut bytemuck::cast_slice_mut::<f32, i16>(whole)[..count * padded];
        scratch::with(count, |row_scales| {
            let left = product.left.slice(rows.0, rows.1);
            let (factors, columns, bias, add) = match product.pass {
                Pass::Forward { mask, scales, bias } => (mask, Some(scales), bias, false),
                Pass::Backward { scales, accumulate } => (Some(scales), None, None, accumulate),
            };
            round_rows(left, factors, levels(depth.min(DEPTH)), padded, whole, row_scales);
            for col in (cols.0..cols.1).step_by(step) {
                let panel = &product.panels.values()[col / step * product.panels.panel_len()..];
                let width = step.min(cols.1 - col);
                for row in (0..count).step_by(K::ROWS) {
                    let height = K::ROWS.min(count - row);
                    for (block, start) in (0..padded.max(1)).step_by(DEPTH).enumerate() {
                        let steps = DEPTH.min(padded - start);
                        let left = whole[row * padded + start..].as_ptr();
                        let panel = panel[start * step..].as_ptr();
                        let operands = Step { rows: height, pairs: steps / 2, left, stride: padded, panel };
                        // SAFETY: `height` rows of `steps` numbers begin at `left`, `padded` apart, and a panel of as many
                        // steps at `panel`.
                        unsafe { kernel.run(operands, &mut sums) };
                        if blocks > 1 {
                            add_block(&sums.0, block == 0, &mut totals.0);
                        }
                    }
                    let mut places: [&mut [T]; TILE_ROWS] = Default::default();
                    for (i, place) in places[..height].iter_mut().enumerate() {
                        // SAFETY: the place is in this task's part, and no other row's.
                        *place = unsafe { out.part(rows.0 + row + i, col, width) };
                    }
                    let tile = Finished {
                        stride: step,
                        rows: &row_scales[row..row + height],
                        columns: columns.map(|columns| &columns[col..col + width]),
                        bias: bias.map(|bias| &bias[col..col + width]),
                        add,
                    };
                    if blocks > 1 {
                        finish(&totals.0, &tile, &mut places[..height]);
                    } else {
                        finish(&sums.0, &tile, &mut places[..height]);
                    }
                }
            }
        });
    });
}

multiversion! {
    /// Adds whole sums of a block to those of the blocks before.
    fn add_block[V](sums: &[i32], is_first: bool, totals: &mut [f32]) {
        if is_first {
            totals.iter_mut().zip(sums).for_each(|(total, sum)| *total = *sum as f32);
        } else {
            totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += *sum as f32);
        }
    }
}

/// The sum of a block, or of several.
trait Sum: Copy {
    fn wide(self) -> f32;
}

impl Sum for i32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self as f32
    }
}

impl Sum for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
}

/// How the sums of a tile come into the result: `out = rows∘columns∘sums [+ bias]`, or `out +=` that.
struct Finished<'a> {
    /// From one row of sums to the next.
    stride: usize,
    /// What each row is multiplied by.
    rows: &'a [f32],
    /// What each column is multiplied by, as the weight's rows are in the forward pass.
    columns: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    /// In the backward pass.
    add: bool,
}

multiversion! {
    fn finish[V, S: Sum, T: Element](sums: &[S], tile: &Finished<'_>, places: &mut [&mut [T]]) {
        for ((row_scale, sums), out) in tile.rows.iter().zip(sums.chunks_exact(tile.stride)).zip(places) {
            let sums = &sums[..out.len()];
            match (tile.columns, tile.bias, tile.add) {
                (Some(columns), Some(bias), _) => {
                    for (((out, sum), column), bias) in out.iter_mut().zip(sums).zip(columns).zip(bias) {
                        *out = T::round(sum.wide() * (row_scale * column) + bias);
                    }
                }
                (Some(columns), None, _) => {
                    for ((out, sum), column) in out.iter_mut().zip(sums).zip(columns) {
                        *out = T::round(sum.wide() * (row_scale * column));
                    }
                }
                (None, _, true) => {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = T::round(out.widen() + sum.wide() * row_scale);
                    }
                }
                (None, _, false) => {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = T::round(sum.wide() * row_scale);
                    }
                }
            }
        }
    }
}
