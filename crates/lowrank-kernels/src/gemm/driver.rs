//! The loops around a micro-kernel: cuts a product into tasks, and a task into tiles.
//!
//! Every element of the result is one chain of sums along the depth, in blocks of [`Tile::DEPTH`], whichever
//! task or tile it falls into: neither the number of threads nor the other rows can change its bits.

use std::any::TypeId;

use rayon::prelude::*;

use super::panels::Supply;
use super::staging::stage;
use super::tile::{Finish, Step, TILE_FLOATS, Tile};
use crate::columns::ColumnsMut;
use crate::element::Element;
use crate::parallel::flush_denormals;
use crate::rows::{Rows, RowsMut};
use crate::scratch;

/// Rows that cost about as much as making the panels that they meet.
const MADE_COST: usize = 16;
/// Rows that panels are made for at a time: more would not stay in the second-level cache.
const MADE_ROWS: usize = 128;

/// Sums of a tile, aligned to a cache line.
#[repr(align(64))]
struct TileSums([f32; TILE_FLOATS]);

/// `out = left·panels`, with `bias` added to each row, or to what `out` held with `accumulate`.
///
/// # Shapes
/// `left [M, depth]`, `bias [width]`, `out [M, width]`.
pub(super) fn multiply<K: Tile, T: Element, S: Supply<K::Panel>>(
    kernel: K,
    left: Rows<'_, T>,
    panels: &S,
    bias: Option<&[f32]>,
    accumulate: bool,
    out: RowsMut<'_, T>,
) {
    let (rows, depth, width) = (left.rows(), panels.depth(), panels.width());
    assert!(left.cols() == depth && out.rows() == rows && out.cols() == width);
    assert!(bias.is_none_or(|bias| bias.len() == width && !accumulate));
    if rows == 0 || width == 0 {
        return;
    }
    let (row_tiles, col_tiles) = (rows.div_ceil(K::ROWS), width.div_ceil(K::COLS));
    // Making a panel costs as much as some rows.
    let (worth, together) = if S::MADE { (rows.max(MADE_COST), MADE_ROWS) } else { (rows, 0) };
    let parallel = super::flops(worth, depth, width) >= K::PARALLEL_FLOPS;
    let chunks = rows.div_ceil(K::task_rows(depth).max(together));
    let mut groups = width.div_ceil(K::task_cols(depth));
    if parallel {
        // Enough tasks that no thread waits long for the last one.
        groups = groups.max((3 * rayon::current_num_threads()).div_ceil(chunks)).min(col_tiles);
    }
    let (row_step, col_step) = (row_tiles.div_ceil(chunks) * K::ROWS, col_tiles.div_ceil(groups) * K::COLS);
    let (chunks, groups) = (rows.div_ceil(row_step), width.div_ceil(col_step));
    let out = out.into_columns();
    let product = Product { kernel, left, panels, bias, accumulate, out };
    // Neighbouring tasks share their columns, whose panels are then still in the cache.
    let run = |index: usize| {
        let (row, col) = (index % chunks * row_step, index / chunks * col_step);
        // SAFETY: tasks have parts of the result of their own.
        unsafe { product.task((row, rows.min(row + row_step)), (col, width.min(col + col_step))) }
    };
    if parallel {
        (0..chunks * groups).into_par_iter().for_each(run);
    } else {
        (0..chunks * groups).for_each(run);
    }
}

/// A product to compute; `left`, `bias` and the result fit the panels.
struct Product<'a, K: Tile, T, S> {
    kernel: K,
    left: Rows<'a, T>,
    panels: &'a S,
    bias: Option<&'a [f32]>,
    accumulate: bool,
    out: ColumnsMut<'a, T>,
}

impl<K: Tile, T: Element, S: Supply<K::Panel>> Product<'_, K, T, S> {
    /// Computes the rows `rows.0..rows.1` and the columns `cols.0..cols.1`, of which the first starts a tile.
    ///
    /// # Safety
    /// Nothing else refers to this part of the result.
    unsafe fn task(&self, rows: (usize, usize), cols: (usize, usize)) {
        flush_denormals();
        let depth = self.panels.depth();
        let left = self.left.slice(rows.0, rows.1);
        let count = rows.1 - rows.0;
        let in_f32 = TypeId::of::<T>() == TypeId::of::<f32>();
        let held_stride = (cols.1 - cols.0).next_multiple_of(K::COLS);
        let holds = !in_f32 && depth > K::DEPTH;
        let held_len = if holds { count.next_multiple_of(K::ROW_MULTIPLE) * held_stride } else { 0 };
        let mut session = self.kernel.enter();
        let mut tile_sums = TileSums([0.0; TILE_FLOATS]);
        let made = if S::MADE {
            depth.min(K::DEPTH).next_multiple_of(K::LAYOUT.depth_multiple) * K::COLS
        } else {
            0
        };
        scratch::with_numbers(made, |room: &mut [K::Panel]| {
            scratch::with(held_len, |held| {
                for start in (0..depth.max(1)).step_by(K::DEPTH) {
                    let end = depth.min(start + K::DEPTH);
                    let (first, last) = (start == 0, end == depth);
                    stage::<K, T, _>(left, start, end, |staged| {
                        for col in (cols.0..cols.1).step_by(K::COLS) {
                            let (panel, panel_len) = self.panels.tile(K::LAYOUT, col, start..end, room);
                            let panel = panel.as_ptr();
                            let width = K::COLS.min(cols.1 - col);
                            for row in (0..count).step_by(K::ROWS) {
                                let height = K::ROWS.min(count - row);
                                let (left, left_stride) = staged.row(row);
                                // SAFETY: the tile lies inside this task's part.
                                let mut out = unsafe { self.out.block(rows.0 + row, col, height, width) };
                                let bias = self.bias.map(|bias| &bias[col..col + width]);
                                let depth = end - start;
                                let step = |sums: *mut f32, sums_stride, add| Step {
                                    rows: height,
                                    depth,
                                    left,
                                    left_stride,
                                    panel,
                                    panel_len,
                                    sums,
                                    sums_stride,
                                    add,
                                };
                                if in_f32 && width == K::COLS && K::ROW_MULTIPLE == 1 {
                                    if let (Some(bias), true) = (bias, first) {
                                        out.fill(bias);
                                    }
                                    let add = !first || self.accumulate || bias.is_some();
                                    let step = step(out.data().cast(), out.stride(), add);
                                    // SAFETY: `stage` laid out the rows, `tile` gave panels of these steps, and the
                                    // sums are the tile of the result, whose elements are f32.
                                    unsafe { K::run(&mut session, step) };
                                    continue;
                                }
                                let (sums, sums_stride): (&mut [f32], usize) = if holds {
                                    (&mut held[row * held_stride + col - cols.0..], held_stride)
                                } else {
                                    (&mut tile_sums.0, K::COLS)
                                };
                                let step = step(sums.as_mut_ptr(), sums_stride, holds && !first);
                                // SAFETY: as above; the sums have room for a whole tile.
                                unsafe { K::run(&mut session, step) };
                                if in_f32 || last {
                                    let bias = bias.filter(|_| first || holds);
                                    let add = self.accumulate || (in_f32 && !first);
                                    self.kernel.finish(Finish { sums, sums_stride, bias, add, out });
                                }
                            }
                        }
                    });
                }
            });
        });
    }
}
