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

/// The sums of a tile, row by row.
#[repr(align(64))]
pub(super) struct Sums(pub [i32; TILE]);

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
    unsafe fn run(
        self,
        rows: usize,
        pairs: usize,
        left: *const i16,
        stride: usize,
        panel: *const i8,
        sums: &mut Sums,
    );
}

/// A product with a weight in 8 bits, of which each output has a scale.
pub(super) struct Product<'a, T> {
    /// `[M, depth]`.
    pub left: Rows<'a, T>,
    /// `[depth, width]`.
    pub panels: &'a Panels<i8>,
    pub direction: Direction<'a>,
}

/// Which way the weight is multiplied.
pub(super) enum Direction<'a> {
    /// `out = scales∘(left·panels) + bias`, both `[width]`.
    Forward { scales: &'a [f32], bias: Option<&'a [f32]> },
    /// `out = (scales∘left)·panels`, `scales [depth]`, or added to what `out` held.
    Backward { scales: &'a [f32], accumulate: bool },
}

/// Computes a product into `out [M, width]`.
pub(super) fn multiply<K: Dot, T: Element>(kernel: K, product: &Product<'_, T>, out: RowsMut<'_, T>) {
    let (rows, depth, width) = (product.left.rows(), product.panels.depth(), product.panels.width());
    assert!(product.left.cols() == depth && out.rows() == rows && out.cols() == width);
    assert!(match product.direction {
        Direction::Forward { scales, bias } =>
            scales.len() == width && bias.is_none_or(|bias| bias.len() == width),
        Direction::Backward { scales, .. } => scales.len() == depth,
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
    let mut sums = Sums([0; TILE]);
    // Two numbers of 16 bits in the place of a float.
    scratch::with((count * padded).div_ceil(2), |whole| {
        let whole = &mut bytemuck::cast_slice_mut::<f32, i16>(whole)[..count * padded];
        scratch::with(count, |row_scales| {
            let left = product.left.slice(rows.0, rows.1);
            let (factors, columns, bias, add) = match product.direction {
                Direction::Forward { scales, bias } => (None, Some(scales), bias, false),
                Direction::Backward { scales, accumulate } => (Some(scales), None, None, accumulate),
            };
            round_rows(left, factors, levels(depth), padded, whole, row_scales);
            for col in (cols.0..cols.1).step_by(step) {
                let panel = &product.panels.values()[col / step * product.panels.panel_len()..];
                let width = step.min(cols.1 - col);
                for row in (0..count).step_by(K::ROWS) {
                    let height = K::ROWS.min(count - row);
                    let left = whole[row * padded..].as_ptr();
                    // SAFETY: `height` rows of `padded` numbers begin at `left`, and a panel of as many steps at `panel`.
                    unsafe { kernel.run(height, padded / 2, left, padded, panel.as_ptr(), &mut sums) };
                    let tile = Finished {
                        sums: &sums.0,
                        stride: step,
                        rows: &row_scales[row..row + height],
                        columns: columns.map(|columns| &columns[col..col + width]),
                        bias: bias.map(|bias| &bias[col..col + width]),
                        add,
                        place: (rows.0 + row, col, width),
                    };
                    // SAFETY: the place is in this task's part.
                    unsafe { finish(&tile, out) };
                }
            }
        });
    });
}

/// The whole sums of a tile on their way to the result: `out = rows∘columns∘sums [+ bias]`, or `out +=` that.
struct Finished<'a> {
    sums: &'a [i32],
    stride: usize,
    /// What each row is multiplied by.
    rows: &'a [f32],
    columns: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    add: bool,
    /// The first row and column, and how many columns.
    place: (usize, usize, usize),
}

/// Writes a tile.
///
/// # Safety
/// Nothing else refers to its place in `out`.
unsafe fn finish<T: Element>(tile: &Finished<'_>, out: &ColumnsMut<'_, T>) {
    finish_rows(tile, out);
}

multiversion! {
    fn finish_rows[V, T: Element](tile: &Finished<'_>, out: &ColumnsMut<'_, T>) {
        let (first, start, width) = tile.place;
        for ((i, row_scale), sums) in tile.rows.iter().enumerate().zip(tile.sums.chunks_exact(tile.stride)) {
            // SAFETY: the caller of `finish` promises that nothing else refers to the place.
            let out = unsafe { out.part(first + i, start, width) };
            let sums = &sums[..width];
            match (tile.columns, tile.bias, tile.add) {
                (Some(columns), Some(bias), _) => {
                    for (((out, sum), column), bias) in out.iter_mut().zip(sums).zip(columns).zip(bias) {
                        *out = T::round(*sum as f32 * (row_scale * column) + bias);
                    }
                }
                (Some(columns), None, _) => {
                    for ((out, sum), column) in out.iter_mut().zip(sums).zip(columns) {
                        *out = T::round(*sum as f32 * (row_scale * column));
                    }
                }
                (None, _, true) => {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = T::round(out.widen() + *sum as f32 * row_scale);
                    }
                }
                (None, _, false) => {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = T::round(*sum as f32 * row_scale);
                    }
                }
            }
        }
    }
}
