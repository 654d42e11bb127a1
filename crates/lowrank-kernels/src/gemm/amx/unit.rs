//! What the kernel needs of a matrix unit.

use crate::element::Element;
use crate::gemm::tile::Finish;

/// Rows of a tile.
pub(in crate::gemm) const TILE_ROWS: usize = 16;
/// Bytes of a tile's row.
pub(in crate::gemm) const TILE_BYTES: usize = 64;

/// A thread's hold on eight tiles of 16 rows of 64 bytes, numbered 0 to 7; given back when dropped.
pub(crate) trait Unit: Sized {
    /// Whether the machine has it.
    fn is_available() -> bool;

    /// Takes hold of the unit.
    ///
    /// # Safety
    /// The machine has it, and this thread does not hold it already.
    unsafe fn configure() -> Self;

    /// Fills a tile with zeros.
    fn zero<const TILE: usize>(&mut self);

    /// Fills a tile from 16 rows of 64 bytes, `stride` bytes apart.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load<const TILE: usize>(&mut self, from: *const u8, stride: usize);

    /// Writes a tile to 16 rows of 64 bytes, `stride` bytes apart.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn store<const TILE: usize>(&mut self, to: *mut u8, stride: usize);

    /// Adds to a tile of 16 x 16 f32 the product of `LEFT`, 16 x 32 bf16, and `RIGHT`, whose row p holds for
    /// each of 16 columns the elements 2p and 2p + 1.
    fn dot<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self);

    /// Adds to a tile of 16 x 16 i32 the product of `LEFT`, 16 x 64 i8, and `RIGHT`, whose row p holds for each of 16
    /// columns the elements 4p to 4p + 3.
    fn dot_int8<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self);

    /// Writes finished sums to the result.
    fn finish<T: Element>(finish: Finish<'_, T>) {
        finish.plain();
    }
}
