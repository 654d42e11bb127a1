//! Panels of a transposed matrix, made from the matrix's own.

#[cfg(any(test, not(target_arch = "x86_64")))]
use std::array::from_fn;
use std::ops::Range;

use bytemuck::{Pod, cast_slice, cast_slice_mut};
use rayon::prelude::*;

use super::panels::{Panels, Supply};
use crate::memory::Buffer;
use crate::rows::RowsMut;

/// Bytes of a row of a block.
pub(super) const ROW: usize = 16;
/// The most bytes of the rows that become a panel: 48 of as many elements of four bytes.
const EDGE: usize = 48 * 48 * 4;
/// The most bytes of a panel's steps that are written together.
const STEPS: usize = 48 * ROW;
/// Elements that are not worth a second thread.
const SERIAL: usize = 1 << 15;
/// Bytes of a weight whose other form is made at a time: no large weight is there twice, and what is made is still in a cache
/// when it is multiplied.
const STRIP: usize = 4 << 20;
/// Tiles in a strip for each thread, or its last ones would keep one thread busy and the others waiting.
const STRIP_TILES: usize = 3;

impl<V: Pod + Send + Sync> Panels<V> {
    /// Calls `product` with all parts of the transpose, and the columns of `out` that are theirs.
    pub fn by_transpose<T>(&self, out: RowsMut<'_, T>, product: impl FnMut(&Self, RowsMut<'_, T>)) {
        let tile = self.layout().cols * self.layout().panel_multiple;
        let column = (self.width() * size_of::<V>()).max(1);
        let least = (STRIP / column).max(STRIP_TILES * rayon::current_num_threads() * tile);
        let strips = out.cols().div_ceil(least).max(1);
        self.in_strips(out.cols().div_ceil(strips).div_ceil(tile).max(1), out, product);
    }

    /// As [`Panels::by_transpose`], so many tiles at a time.
    pub fn in_strips<T>(
        &self,
        tiles: usize,
        mut out: RowsMut<'_, T>,
        mut product: impl FnMut(&Self, RowsMut<'_, T>),
    ) {
        let width = out.cols();
        assert_eq!(width, self.depth(), "the result is not as wide as the transpose");
        if out.rows() == 0 {
            return;
        }
        let strip = tiles * self.layout().cols * self.layout().panel_multiple;
        for start in (0..width).step_by(strip) {
            let end = width.min(start + strip);
            product(&self.turned(start..end, Buffer::uninit), out.reborrow().narrow(start, end - start));
        }
    }

    /// The transpose, of which the columns are these rows, from the start of a tile to that of another or to the last row.
    ///
    /// Blocks are turned in registers: a frozen weight may be kept once, and its other form made for each product, from the
    /// pool, where the next one's goes into its place.
    pub fn turned(&self, rows: Range<usize>, memory: impl Fn(usize) -> Buffer) -> Self {
        let layout = self.layout();
        let tile = layout.cols * layout.panel_multiple;
        debug_assert!(rows.start.is_multiple_of(tile), "rows from {} on", rows.start);
        debug_assert!(rows.end.is_multiple_of(tile) || rows.end == self.depth(), "rows to {}", rows.end);
        let mut turned = Self::of(layout, self.width(), rows.len(), memory);
        let len = turned.panel_len().max(1);
        let worth = if rows.len() * self.width() > SERIAL { 1 } else { usize::MAX };
        let panels = turned.values_mut().par_chunks_exact_mut(len).with_min_len(worth).enumerate();
        panels.for_each(|(panel, values)| {
            let row = rows.start + panel * layout.cols;
            match (size_of::<V>(), layout.group, layout.cols) {
                (4, 1, 16) => self.turned_panel::<4, 1, 16>(row, values),
                (4, 1, 48) => self.turned_panel::<4, 1, 48>(row, values),
                (2, 1, 48) => self.turned_panel::<8, 1, 48>(row, values),
                (2, 2, 16) => self.turned_panel::<4, 2, 16>(row, values),
                (2, 2, 48) => self.turned_panel::<4, 2, 48>(row, values),
                (1, 2, 16) => self.turned_panel::<8, 2, 16>(row, values),
                (1, 2, 48) => self.turned_panel::<8, 2, 48>(row, values),
                (1, 4, 16) => self.turned_panel::<4, 4, 16>(row, values),
                _ => unreachable!("no kernel reads {} bytes as {layout:?}", size_of::<V>()),
            }
        });
        turned
    }

    /// The panel whose `COLS` columns are the rows from `row` on, in blocks of `SIDE` columns by `SIDE` groups of `GROUP`
    /// rows.
    fn turned_panel<const SIDE: usize, const GROUP: usize, const COLS: usize>(
        &self,
        row: usize,
        to: &mut [V],
    ) {
        let size = const { size_of::<V>() };
        // Bytes of one group of rows, and of all groups that become the panel, but for what follows in the last.
        let line = COLS * size * GROUP;
        let bytes = (COLS / GROUP - 1) * line + ROW;
        let (from, to) = (cast_slice::<V, u8>(self.values()), cast_slice_mut::<V, u8>(to));
        let (len, rows) = (self.panel_len() * size, self.panel_len() / COLS);
        let mut padded = None;
        for (step, to) in (0..).step_by(SIDE).zip(to.chunks_mut(SIDE / GROUP * line)) {
            let place = step / COLS * len + row / GROUP * line + step % COLS * size * GROUP;
            let strip = match from.get(place..place + bytes) {
                Some(strip) if row + COLS <= rows => strip,
                _ => {
                    // Some rows do not exist, or the steps pad the sum.
                    let lines = rows.saturating_sub(row) / GROUP;
                    let padded = padded.get_or_insert([0; EDGE]);
                    edge(from.get(place..).unwrap_or(&[]), lines, line, padded);
                    &padded[..bytes]
                }
            };
            if to.len() == SIDE / GROUP * line {
                turned_strip::<SIDE, GROUP, COLS>(strip, size, to);
            } else {
                let mut steps = [0; STEPS];
                turned_strip::<SIDE, GROUP, COLS>(strip, size, &mut steps);
                to.copy_from_slice(&steps[..to.len()]);
            }
        }
    }
}

/// `SIDE` steps of a panel, from the parts of its columns' groups that these are.
#[inline(always)]
fn turned_strip<const SIDE: usize, const GROUP: usize, const COLS: usize>(
    strip: &[u8],
    size: usize,
    to: &mut [u8],
) {
    let line = COLS * size * GROUP;
    let to = &mut to[..SIDE / GROUP * line];
    for block in (0..COLS).step_by(SIDE * GROUP) {
        let mut rows = [[0; ROW]; SIDE];
        for (i, row) in rows.iter_mut().enumerate() {
            row.copy_from_slice(&strip[(block / GROUP + i) * line..][..ROW]);
        }
        for (i, group) in turned_block::<SIDE>(rows).chunks_exact(GROUP).enumerate() {
            let to = &mut to[i * line + block * size * GROUP..][..GROUP * ROW];
            if GROUP == 1 {
                to.copy_from_slice(&group[0]);
            } else if GROUP == 2 {
                to.copy_from_slice(shuffled(group[0], group[1], size).as_flattened());
            } else {
                let (even, odd) = (shuffled(group[0], group[2], size), shuffled(group[1], group[3], size));
                for (half, to) in to.chunks_exact_mut(2 * ROW).enumerate() {
                    to.copy_from_slice(shuffled(even[half], odd[half], size).as_flattened());
                }
            }
        }
    }
}

/// Copies the beginnings of the first lines, or zeros for those that do not exist.
fn edge(from: &[u8], lines: usize, line: usize, to: &mut [u8; EDGE]) {
    for (i, to) in to.chunks_mut(line).take(lines).enumerate() {
        match from.get(i * line..i * line + ROW) {
            Some(from) => to[..ROW].copy_from_slice(from),
            None => to[..ROW].fill(0),
        }
    }
}

/// The transpose of a square block, of which each row is `SIDE` elements in 16 bytes.
#[inline(always)]
pub(super) fn turned_block<const SIDE: usize>(mut rows: [[u8; ROW]; SIDE]) -> [[u8; ROW]; SIDE] {
    // A round of shuffling rows i and i + SIDE / 2 together rotates the bits of each element's place, row and column, by one.
    for _ in 0..SIDE.ilog2() {
        // Loops in the place of `from_fn`, which is not always inlined.
        let before = rows;
        for (i, pair) in rows.chunks_exact_mut(2).enumerate() {
            pair.copy_from_slice(&shuffled(before[i], before[i + SIDE / 2], ROW / SIDE));
        }
    }
    rows
}

/// Elements of `size` bytes of two rows in turn: those of the lower halves, and those of the upper ones.
#[inline(always)]
fn shuffled(first: [u8; ROW], second: [u8; ROW], size: usize) -> [[u8; ROW]; 2] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        let (first, second): (__m128i, __m128i) = (bytemuck::cast(first), bytemuck::cast(second));
        // SAFETY: SSE2 is part of x86-64.
        let (lower, upper) = unsafe {
            match size {
                1 => (_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second)),
                2 => (_mm_unpacklo_epi16(first, second), _mm_unpackhi_epi16(first, second)),
                _ => (_mm_unpacklo_epi32(first, second), _mm_unpackhi_epi32(first, second)),
            }
        };
        [bytemuck::cast(lower), bytemuck::cast(upper)]
    }
    #[cfg(not(target_arch = "x86_64"))]
    from_fn(|half| {
        from_fn(|i| {
            let row = if i / size % 2 == 0 { &first } else { &second };
            row[half * ROW / 2 + i / (2 * size) * size + i % size]
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::panels::Layout;
    use super::*;

    /// All of a matrix's transpose, and parts of it, are as if they had been packed.
    fn check<V: Pod + Send + Sync + PartialEq>(layout: Layout, value: impl Fn(usize, usize) -> V + Sync) {
        let side = layout.cols * layout.panel_multiple;
        for (depth, width) in
            [(1, 1), (5, 3), (19, 37), (side + 1, 2 * side - 1), (200, 130), (96, 96), (3, 300)]
        {
            let matrix = Panels::new(layout, depth, width, |w, d, into: &mut [V]| {
                (d..).zip(into).for_each(|(d, into)| *into = value(d, w));
            });
            let first = side.min(depth);
            for (start, end) in [(0, depth), (0, first), (first, depth)] {
                if start == depth && depth % side != 0 {
                    continue;
                }
                let packed = Panels::new(layout, width, end - start, |d, w, into: &mut [V]| {
                    (w..).zip(into).for_each(|(w, into)| *into = value(start + d, w));
                });
                let turned = matrix.turned(start..end, Buffer::uninit);
                assert!(turned.values() == packed.values(), "{layout:?}, {depth}x{width}, {start} to {end}");
                assert_eq!((turned.depth(), turned.width()), (width, end - start));
            }
        }
    }

    #[test]
    fn panels_are_those_of_the_transpose() {
        let layout = |cols, group, depth_multiple, panel_multiple| Layout {
            cols,
            group,
            depth_multiple,
            panel_multiple,
        };
        for cols in [16, 48] {
            check(layout(cols, 1, 1, 1), |d, w| (1 + d * 300 + w) as f32);
            check(layout(cols, 2, 2, 1), |d, w| (1 + d * 300 + w) as u16);
            check(layout(cols, 2, 2, 1), |d, w| (1 + d * 3 + w * 7) as i8);
        }
        check(layout(48, 1, 1, 1), |d, w| (1 + d * 300 + w) as u16);
        check(layout(16, 2, 32, 2), |d, w| (1 + d * 300 + w) as u16);
        check(layout(16, 4, 64, 2), |d, w| (1 + d * 3 + w * 7) as i8);
    }

    #[test]
    fn a_turned_block_is_the_transpose() {
        let block: [[u8; ROW]; ROW] = from_fn(|i| from_fn(|j| (i * ROW + j) as u8));
        let bytes = turned_block(block);
        for (i, j) in (0..ROW).flat_map(|i| (0..ROW).map(move |j| (i, j))) {
            assert_eq!(bytes[i][j], block[j][i], "{i}, {j}");
        }
    }
}
