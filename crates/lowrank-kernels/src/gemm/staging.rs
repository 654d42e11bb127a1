//! Brings rows into the form that a micro-kernel reads: in place where they have it, else through a copy.

use super::tile::Tile;
use crate::element::Element;
use crate::rows::Rows;
use crate::scratch;

/// A block of rows as a kernel reads them: those before `copied_from` in place, the others from a copy.
pub(super) struct Staged<'a, L> {
    in_place: Option<Rows<'a, L>>,
    depth_start: usize,
    copied_from: usize,
    copy: &'a [L],
    copy_stride: usize,
}

impl<L> Staged<'_, L> {
    /// Where row `row` starts, and the stride from there on.
    #[inline]
    pub fn row(&self, row: usize) -> (*const L, usize) {
        match &self.in_place {
            Some(rows) if row < self.copied_from => {
                (rows.data()[row * rows.stride() + self.depth_start..].as_ptr(), rows.stride())
            }
            _ => (self.copy[(row - self.copied_from) * self.copy_stride..].as_ptr(), self.copy_stride),
        }
    }
}

/// Calls `work` with the elements `start..end` of each row, readable in whole tiles of the kernel `K`.
///
/// Copied are: rows of another type; rows whose part is not a whole number of the kernel's steps, padded with
/// zeros; and the last tile where its rows are not a whole number of the kernel's units, likewise padded.
pub(super) fn stage<K: Tile, T: Element, R>(
    rows: Rows<'_, T>,
    start: usize,
    end: usize,
    work: impl FnOnce(&Staged<'_, K::Left>) -> R,
) -> R {
    let (count, depth) = (rows.rows(), end - start);
    let padded = depth.next_multiple_of(K::LAYOUT.depth_multiple);
    let in_place = rows.cast::<K::Left>().filter(|_| padded == depth);
    let copied_from = match in_place {
        Some(_) if count.is_multiple_of(K::ROW_MULTIPLE) => count,
        Some(_) => count / K::ROWS * K::ROWS,
        None => 0,
    };
    let copy_rows = (count - copied_from).next_multiple_of(K::ROW_MULTIPLE);
    scratch::with_numbers(copy_rows * padded, |copy: &mut [K::Left]| {
        for (i, copy) in copy.chunks_exact_mut(padded.max(1)).enumerate() {
            let filled = if copied_from + i < count { depth } else { 0 };
            if filled > 0 {
                let row = &rows.row(copied_from + i)[start..end];
                copy.iter_mut().zip(row).for_each(|(copy, value)| *copy = K::Left::round(value.widen()));
            }
            copy[filled..].fill(K::Left::round(0.0));
        }
        work(&Staged { in_place, depth_start: start, copied_from, copy, copy_stride: padded })
    })
}
