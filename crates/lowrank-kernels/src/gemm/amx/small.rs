//! Products of small matrices in working memory, as attention has them.

use bytemuck::{cast_slice, cast_slice_mut};
use half::bf16;

use super::kernel::two_by_two;
use super::unit::{TILE_BYTES, TILE_ROWS, Unit};
use crate::gemm::tile::Step;
use crate::gemm::turned::{ROW, turned_block};
use crate::rows::{Rows, RowsMut};

/// Columns of a panel.
pub(crate) const PANEL: usize = TILE_BYTES / size_of::<f32>();
/// Sums are taken, and columns computed, in multiples of this.
pub(crate) const MULTIPLE: usize = 2 * PANEL;

/// A thread's hold on the unit for such products.
pub(crate) struct TileProducts<U>(U);

/// A right factor `[depth, width]`: panels of [`PANEL`] columns, in which pairs of elements along the depth are neighbours.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    /// The panels, one after the other.
    values: &'a [bf16],
    /// Length of a column.
    depth: usize,
    /// Elements from one panel to the next.
    panel_len: usize,
}

impl<'a> Right<'a> {
    /// The factor that is packed in `values`, with columns of `depth`.
    pub(crate) fn new(values: &'a [bf16], depth: usize) -> Self {
        Self { values, depth, panel_len: depth * PANEL }
    }

    /// The factor without its first rows, an even number, and columns, a number of panels.
    #[inline(always)]
    pub(crate) fn from(self, [row, col]: [usize; 2]) -> Self {
        assert!(row.is_multiple_of(2) && row <= self.depth && col.is_multiple_of(PANEL));
        let values = &self.values[col / PANEL * self.panel_len + row * PANEL..];
        Self { values, depth: self.depth - row, ..self }
    }
}

impl<U: Unit> TileProducts<U> {
    /// Takes hold of the unit.
    ///
    /// # Safety
    /// This thread does not hold it already, nor takes hold of it again meanwhile.
    ///
    /// # Panics
    /// If the machine does not have it.
    pub(crate) unsafe fn new() -> Self {
        assert!(U::is_available(), "this machine does not have the unit");
        // SAFETY: the machine has it; the rest is the caller's promise.
        Self(unsafe { U::configure() })
    }

    /// `out = left·right`, or `out += left·right` with `add`, in f32.
    ///
    /// # Shapes
    /// `left [rows, depth]` and `out [rows, width]` at their strides, with rows up to a multiple of 16 that may be read, and
    /// are written. `depth` and `width` are multiples of [`MULTIPLE`].
    ///
    /// # Panics
    /// If a matrix is shorter than that.
    pub(crate) fn multiply(
        &mut self,
        [rows, depth, width]: [usize; 3],
        (left, left_stride): (&[bf16], usize),
        right: Right,
        (out, stride): (&mut [f32], usize),
        add: bool,
    ) {
        if rows == 0 || width == 0 {
            return;
        }
        let padded = rows.next_multiple_of(TILE_ROWS);
        assert!(depth.is_multiple_of(MULTIPLE) && width.is_multiple_of(MULTIPLE));
        assert!(depth <= right.depth, "steps of the sum");
        // The views check that they are as large.
        let left = Rows::new(left, padded, depth, left_stride);
        let panels = Rows::new(right.values, width / PANEL, depth * PANEL, right.panel_len);
        let mut out = RowsMut::new(out, padded, width, stride);
        for row in (0..rows).step_by(2 * TILE_ROWS) {
            for col in (0..width).step_by(MULTIPLE) {
                // SAFETY: all rows, rounded up to tiles, and all columns of two panels are in the views; the depth is a number
                // of tiles.
                unsafe {
                    let step = Step {
                        rows: (rows - row).min(2 * TILE_ROWS),
                        depth,
                        left: left.data().as_ptr().add(row * left_stride),
                        left_stride,
                        panel: panels.data().as_ptr().add(col / PANEL * right.panel_len),
                        panel_len: right.panel_len,
                        sums: out.data().as_mut_ptr().add(row * stride + col),
                        sums_stride: stride,
                        add,
                    };
                    two_by_two(&mut self.0, step);
                }
            }
        }
    }
}

/// Makes a right factor of rows along the depth: pairs of them become neighbours.
///
/// # Shapes
/// `rows [depth, width]`, dense; `width` is a multiple of [`PANEL`] and `depth` even; `panels` is as long.
#[inline(always)]
pub(crate) fn pack(rows: &[bf16], width: usize, panels: &mut [bf16]) {
    let (rows, panels) = (cast_slice::<_, u16>(rows), cast_slice_mut::<_, u32>(panels));
    let pairs = rows.len() / (2 * width);
    for (col, panel) in (0..width).step_by(PANEL).zip(panels.chunks_exact_mut(pairs * PANEL)) {
        for (pair, to) in rows.chunks_exact(2 * width).zip(panel.chunks_exact_mut(PANEL)) {
            let (first, second) = (&pair[col..][..PANEL], &pair[width + col..][..PANEL]);
            for (to, (&first, &second)) in to.iter_mut().zip(first.iter().zip(second)) {
                *to = u32::from(first) | u32::from(second) << 16;
            }
        }
    }
}

/// Makes a right factor of its columns.
///
/// # Shapes
/// `columns [width, depth]`, dense; `width` is a multiple of [`PANEL`] and `depth` of 8; `panels` is as long.
#[inline(always)]
pub(crate) fn pack_columns(columns: &[bf16], depth: usize, panels: &mut [bf16]) {
    let len = depth * PANEL;
    for (columns, panel) in columns.chunks_exact(len).zip(panels.chunks_exact_mut(len)) {
        turn::<4>(cast_slice(columns), depth * size_of::<bf16>(), cast_slice_mut(panel));
    }
}

/// `to[j, i] = from[i, j]` for the 32 rows of `from`.
///
/// # Shapes
/// `from [32, width]`, dense; `width` is a multiple of 8; `to [width, 32]`.
#[inline(always)]
pub(crate) fn transpose(from: &[bf16], to: &mut [bf16]) {
    turn::<8>(cast_slice(from), from.len() / MULTIPLE * size_of::<bf16>(), cast_slice_mut(to));
}

/// The transpose, of elements of which `SIDE` are 16 bytes, in rows of a tile's length.
#[inline(always)]
fn turn<const SIDE: usize>(from: &[u8], stride: usize, to: &mut [u8]) {
    for (place, to) in (0..).step_by(ROW).zip(to.chunks_exact_mut(SIDE * TILE_BYTES)) {
        for part in 0..TILE_BYTES / ROW {
            let mut block = [[0; ROW]; SIDE];
            for (i, row) in block.iter_mut().enumerate() {
                row.copy_from_slice(&from[(part * SIDE + i) * stride + place..][..ROW]);
            }
            for (row, to) in turned_block::<SIDE>(block).iter().zip(to.chunks_exact_mut(TILE_BYTES)) {
                to[part * ROW..][..ROW].copy_from_slice(row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::emulated::Emulated;
    use super::*;
    use crate::element::Element;

    /// Small whole numbers, whose products bf16 and f32 hold exactly.
    fn numbers(len: usize, seed: usize) -> Vec<bf16> {
        (0..len).map(|i| bf16::round(((i * 7 + i / 5 + seed) % 13) as f32 - 6.0)).collect()
    }

    fn at(matrix: &[bf16], row: usize, stride: usize, col: usize) -> f32 {
        matrix[row * stride + col].widen()
    }

    #[test]
    fn a_product_is_that_of_its_factors_however_they_are_packed() {
        for (rows, depth, width) in [(1_usize, 32, 32), (16, 64, 32), (17, 32, 96), (50, 96, 64)] {
            let padded = rows.next_multiple_of(16);
            let (left, right) = (numbers(padded * depth, 1), numbers(depth * width, 5));
            let columns: Vec<bf16> =
                (0..width * depth).map(|i| right[i % depth * width + i / depth]).collect();
            let (mut straight, mut turned) = (vec![bf16::ONE; depth * width], vec![bf16::ONE; depth * width]);
            pack(&right, width, &mut straight);
            pack_columns(&columns, depth, &mut turned);
            assert_eq!(straight, turned);
            // SAFETY: the emulated unit is there, and each is another.
            let mut unit = unsafe { TileProducts::<Emulated>::new() };
            let (mut out, right_factor) = (vec![f32::NAN; padded * width], Right::new(&straight, depth));
            for add in [false, true] {
                unit.multiply([rows, depth, width], (&left, depth), right_factor, (&mut out, width), add);
            }
            for (i, j) in (0..rows).flat_map(|i| (0..width).map(move |j| (i, j))) {
                let sum: f32 = (0..depth).map(|d| at(&left, i, depth, d) * at(&right, d, width, j)).sum();
                assert_eq!(out[i * width + j], 2.0 * sum, "{rows}x{depth}x{width}: {i}, {j}");
            }
            // Steps from the eighteenth on, and the last columns.
            if depth > 32 {
                let part = right_factor.from([18, width - 32]);
                unit.multiply([rows, 32, 32], (&left[18..], depth), part, (&mut out, width), false);
                for (i, j) in (0..rows).flat_map(|i| (0..32).map(move |j| (i, j))) {
                    let product = |d| at(&left, i, depth, d) * at(&right, d, width, width - 32 + j);
                    assert_eq!(out[i * width + j], (18..50).map(product).sum::<f32>());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "steps of the sum")]
    fn steps_that_a_panel_does_not_have_are_refused() {
        // SAFETY: the emulated unit is there, and this one is the only one.
        let mut unit = unsafe { TileProducts::<Emulated>::new() };
        let (left, right) = (numbers(16 * 64, 1), numbers(64 * 64, 5));
        let part = Right::new(&right, 64).from([18, 0]);
        unit.multiply([16, 64, 32], (&left, 64), part, (&mut [0.0; 16 * 32], 32), false);
    }

    #[test]
    fn a_transpose_has_rows_in_the_place_of_columns() {
        let from = numbers(32 * 40, 3);
        let mut to = vec![bf16::ONE; 40 * 32];
        transpose(&from, &mut to);
        for (i, j) in (0..32).flat_map(|i| (0..40).map(move |j| (i, j))) {
            assert_eq!(to[j * 32 + i], from[i * 40 + j]);
        }
    }
}
