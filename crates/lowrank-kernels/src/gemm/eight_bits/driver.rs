//! The loops around a kernel of whole numbers: cuts a product into tasks, and writes their tiles.

use rayon::prelude::*;

use super::rounded::{Term, with_terms};
use super::rows::{CARRY, Whole};
use crate::columns::{Block, ColumnsMut};
use crate::element::Element;
use crate::gemm::panels::{Layout, Panels, Supply};
use crate::parallel::flush_denormals;
use crate::rows::{Rows, RowsMut};

/// The most sums of a tile of any kernel.
pub(super) const TILE: usize = 32 * 32;

/// The sums of a tile, row by row.
#[repr(align(64))]
pub(in crate::gemm) struct Sums(pub [i32; TILE]);

/// Sums of several blocks of the depth.
#[repr(align(64))]
struct Totals([f32; TILE]);

/// The operands of one call of a kernel.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Step<L> {
    pub rows: usize,
    pub depth: usize,
    pub left: *const L,
    pub stride: usize,
    pub panel: *const i8,
    /// From one panel of the tile to the next.
    pub panel_len: usize,
}

/// The panels of a kernel that reads pairs along the sum.
pub(super) const fn pairs_of(cols: usize) -> Layout {
    Layout { cols, group: 2, depth_multiple: 2, panel_multiple: 1 }
}

/// Rows of a task of a kernel whose rows have 16 bits, a multiple of those of its tile: with a panel they stay in the
/// second-level cache.
pub(super) fn task_rows_of_16_bits(depth: usize, tile: usize) -> usize {
    const TASK_VALUES: usize = 1 << 16;
    const TASK_ROWS: usize = 192;
    (TASK_VALUES / depth.max(1)).clamp(2 * tile, TASK_ROWS)
}

/// A kernel: whole products of a few rows and a few columns.
pub(in crate::gemm) trait Dot: Copy + Send + Sync {
    /// What it reads rows as.
    type Left: Whole;
    /// What it holds while a thread works on a task.
    type Session;

    /// The panels that it reads.
    const LAYOUT: Layout;
    /// Columns of a tile.
    const COLS: usize = Self::LAYOUT.cols * Self::LAYOUT.panel_multiple;
    /// The most rows of a tile.
    const ROWS: usize;
    /// Rows are read, and sums written, up to a multiple of this.
    const ROW_MULTIPLE: usize = 1;

    /// The fewest rows of a task, if rows are cut for the sake of threads before columns are.
    const FEWEST_ROWS: Option<usize> = None;

    /// Rows of a task for a sum of this length, so that they stay in the second-level cache.
    fn task_rows(depth: usize) -> usize;

    /// Prepares the thread for a task.
    fn enter(self) -> Self::Session;

    /// Assigns sums of `depth` products: `rows` rows of [`Dot::COLS`].
    ///
    /// # Safety
    /// From `left`, `rows` rounded up to `ROW_MULTIPLE` rows of `depth` numbers can be read at `stride`, and from each of
    /// the tile's panels, `panel_len` apart, as many steps; `depth` is a multiple of `LAYOUT.depth_multiple`, and `rows`
    /// from 1 to [`Dot::ROWS`].
    unsafe fn run(session: &mut Self::Session, step: Step<Self::Left>, sums: &mut Sums);
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
    let (row_tiles, col_tiles) = (rows.div_ceil(K::ROWS), width.div_ceil(K::COLS));
    let parallel = crate::gemm::flops(rows, depth, width) >= crate::gemm::PARALLEL_FLOPS;
    // Enough tasks that no thread waits long for the last one. Tasks of the same rows round them each for itself, so that rows
    // are cut before columns where that costs as much as their product.
    let enough = if parallel { 3 * rayon::current_num_threads() } else { 1 };
    let cuts = K::FEWEST_ROWS.map_or(1, |fewest| enough.min(rows / fewest));
    let chunks = rows.div_ceil(K::task_rows(depth)).max(cuts);
    let groups = enough.div_ceil(chunks).min(col_tiles);
    let (row_step, col_step) = (row_tiles.div_ceil(chunks) * K::ROWS, col_tiles.div_ceil(groups) * K::COLS);
    let (chunks, groups) = (rows.div_ceil(row_step), width.div_ceil(col_step));
    let out = out.into_columns();
    let run = |index: usize| {
        let (row, col) = (index % chunks * row_step, index / chunks * col_step);
        let (rows, cols) = ((row, rows.min(row + row_step)), (col, width.min(col + col_step)));
        // SAFETY: tasks have parts of the result of their own.
        unsafe { task(kernel, product, rows, cols, &out) }
    };
    if parallel {
        (0..chunks * groups).into_par_iter().for_each(run);
    } else {
        (0..chunks * groups).for_each(run);
    }
}

/// Computes some rows and columns, of which the first starts a tile.
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
    let panel_len = product.panels.panel_len();
    let panel = |col: usize| col.div_ceil(K::LAYOUT.cols) * panel_len;
    let last = panel(cols.1.next_multiple_of(K::COLS));
    let panels = (&product.panels.values()[panel(cols.0)..last], panel_len);
    let (factors, columns, bias, add) = match product.pass {
        Pass::Forward { mask, scales, bias } => (mask, Some(scales), bias, false),
        Pass::Backward { scales, accumulate } => (Some(scales), None, None, accumulate),
    };
    let depth_of_block = <K::Left as Whole>::DEPTH;
    with_terms::<K, T, _>(product.left.slice(rows.0, rows.1), factors, panels, |scales, terms| {
        let (mut sums, mut totals) = (Sums([0; TILE]), Totals([0.0; TILE]));
        let mut session = kernel.enter();
        // Rows of a term by the panels of a tile, from a step of the sum on.
        let mut run =
            |term: &Term<'_, K::Left>, (row, height), panels: &[i8], start: usize, sums: &mut Sums| {
                let operands = Step {
                    rows: height,
                    depth: depth_of_block.min(term.depth - start),
                    left: term.left[row * term.stride + start..].as_ptr(),
                    stride: term.stride,
                    panel: panels[start * K::LAYOUT.cols..].as_ptr(),
                    panel_len: term.panel_len,
                };
                // SAFETY: so many rows of as many numbers begin at `left`, and panels of as many steps at `panel`, as `with_terms`
                // lays them out.
                unsafe { K::run(&mut session, operands, sums) };
            };
        let from = |term: &Term<'_, K::Left>, col: usize| col / K::LAYOUT.cols * term.panel_len;
        let is_one_block = terms.len() == 1 && terms[0].depth <= depth_of_block;
        for col in (0..cols.1 - cols.0).step_by(K::COLS) {
            let (first, width) =
                (&terms[0].panels[from(&terms[0], col)..], K::COLS.min(cols.1 - cols.0 - col));
            let place = cols.0 + col..cols.0 + col + width;
            let columns = columns.map(|columns| &columns[place.clone()]);
            let bias = bias.map(|bias| &bias[place]);
            for row in (0..rows.1 - rows.0).step_by(K::ROWS) {
                let height = K::ROWS.min(rows.1 - rows.0 - row);
                // SAFETY: the tile lies inside this task's part.
                let out = unsafe { out.block(rows.0 + row, cols.0 + col, height, width) };
                let tile = Finished { stride: K::COLS, rows: &scales[row..row + height], columns, bias, add };
                if is_one_block {
                    run(&terms[0], (row, height), first, 0, &mut sums);
                    finish(&sums.0, &tile, out);
                    continue;
                }
                let totals = &mut totals.0[..height * K::COLS];
                totals.fill(0.0);
                for (term, factor) in terms.iter().zip([1.0, CARRY]) {
                    let panels = &term.panels[from(term, col)..];
                    for start in (0..term.depth).step_by(depth_of_block) {
                        run(term, (row, height), panels, start, &mut sums);
                        add_block(&sums.0[..totals.len()], factor, totals);
                    }
                }
                finish(totals, &tile, out);
            }
        }
    });
}

multiversion! {
    /// Adds whole sums of a block, so many times, to those of the blocks before.
    fn add_block[V](sums: &[i32], factor: f32, totals: &mut [f32]) {
        totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += factor * *sum as f32);
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
    fn finish[V, S: Sum, T: Element](sums: &[S], tile: &Finished<'_>, block: Block<'_, T>) {
        let mut block = block;
        for (i, (row_scale, sums)) in tile.rows.iter().zip(sums.chunks_exact(tile.stride)).enumerate() {
            let out = block.row(i);
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
