//! The micro-kernel: 32 rows by 32 columns, two by two tiles of sums.

use std::marker::PhantomData;

use half::bf16;

use super::unit::{TILE_BYTES, TILE_ROWS, Unit};
use crate::element::Element;
use crate::gemm::panels::Layout;
use crate::gemm::tile::{Finish, Step, Tile};

/// Elements of the sum in one tile.
const DEPTH: usize = TILE_BYTES / size_of::<bf16>();
/// Columns of one tile of sums.
const COLS: usize = TILE_BYTES / size_of::<f32>();

/// The kernel on the unit `U`; exists only where the machine has the unit.
pub(in crate::gemm) struct Tiles<U>(PhantomData<fn() -> U>);

impl<U> Clone for Tiles<U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<U> Copy for Tiles<U> {}

impl<U> std::fmt::Debug for Tiles<U> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tiles")
    }
}

#[cfg(target_arch = "x86_64")]
impl Tiles<super::Processor> {
    /// The kernel, if the processor and the system offer the unit.
    pub fn detect() -> Option<Self> {
        crate::tier::Tier::Amx.is_available().then_some(Self(PhantomData))
    }

    /// The kernel, if the unit also multiplies 8 bits.
    pub fn detect_int8() -> Option<Self> {
        Self::detect().filter(|_| super::has_int8())
    }
}

#[cfg(test)]
impl Tiles<super::emulated::Emulated> {
    /// The kernel on the emulated unit.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<U: Unit> Tile for Tiles<U> {
    type Left = bf16;
    type Panel = bf16;
    type Session = U;

    const LAYOUT: Layout = Layout { cols: COLS, group: 2, depth_multiple: DEPTH, panel_multiple: 2 };
    const ROWS: usize = 2 * TILE_ROWS;
    const ROW_MULTIPLE: usize = TILE_ROWS;
    // The unit might be done with a product before its panels are made: never measured.
    const TURNS: bool = false;
    // Long enough that the sums of the usual models never leave the unit before they are finished.
    const DEPTH: usize = 4096;
    // Two microseconds of work.
    const PARALLEL_FLOPS: usize = 3_000_000;

    // The rows of a task fill a quarter of 2 MiB of second-level cache, its panels half of it: memory feeds
    // the unit only if what it delivers is used some two hundred times.
    fn task_rows(depth: usize) -> usize {
        ((1 << 18) / depth.max(1)).clamp(64, 512)
    }

    fn task_cols(depth: usize) -> usize {
        ((1 << 19) / depth.max(1)).max(64)
    }

    fn enter(self) -> U {
        // SAFETY: a `Tiles` exists only where the unit does; the driver enters once and drops the session at
        // the end of the task, during which it starts no other.
        unsafe { U::configure() }
    }

    unsafe fn run(unit: &mut U, step: Step<bf16, bf16>) {
        // SAFETY: as the caller promises.
        unsafe { two_by_two(unit, step) }
    }

    fn finish<T: Element>(self, finish: Finish<'_, T>) {
        U::finish(finish);
    }
}

/// What tiles of factors hold.
pub(in crate::gemm) trait Factor: Copy {
    /// The unit's product of such tiles: see [`Unit::dot`] and [`Unit::dot_int8`].
    fn dot<U: Unit, const SUMS: usize, const LEFT: usize, const RIGHT: usize>(unit: &mut U);
}

impl Factor for bf16 {
    #[inline(always)]
    fn dot<U: Unit, const SUMS: usize, const LEFT: usize, const RIGHT: usize>(unit: &mut U) {
        unit.dot::<SUMS, LEFT, RIGHT>();
    }
}

impl Factor for i8 {
    #[inline(always)]
    fn dot<U: Unit, const SUMS: usize, const LEFT: usize, const RIGHT: usize>(unit: &mut U) {
        unit.dot_int8::<SUMS, LEFT, RIGHT>();
    }
}

/// The product of up to 32 rows and two panels, in sums of four bytes each, of the type that [`Factor::dot`] adds up.
///
/// # Safety
/// As [`Tile::run`], with rows rounded up to tiles of 16 and the sum to tiles of 64 bytes.
#[inline(always)]
pub(in crate::gemm) unsafe fn two_by_two<U: Unit, F: Factor>(unit: &mut U, step: Step<F, F>) {
    let left_stride = step.left_stride * size_of::<F>();
    let (sums_stride, lower) = (step.sums_stride * size_of::<f32>(), step.rows > TILE_ROWS);
    // SAFETY: the caller promises rows rounded up to tiles of 16, a sum rounded up to whole tiles, two panels of it, and
    // room for the sums of the rounded rows.
    unsafe {
        let sums = |row: usize, col: usize| step.sums.add(row * step.sums_stride + col).cast::<u8>();
        if step.add {
            unit.load::<0>(sums(0, 0), sums_stride);
            unit.load::<1>(sums(0, COLS), sums_stride);
            if lower {
                unit.load::<2>(sums(TILE_ROWS, 0), sums_stride);
                unit.load::<3>(sums(TILE_ROWS, COLS), sums_stride);
            }
        } else {
            unit.zero::<0>();
            unit.zero::<1>();
            unit.zero::<2>();
            unit.zero::<3>();
        }
        for start in (0..step.depth).step_by(const { TILE_BYTES / size_of::<F>() }) {
            let left = step.left.add(start);
            let panel = step.panel.add(start * COLS);
            unit.load::<4>(left.cast(), left_stride);
            unit.load::<6>(panel.cast(), TILE_BYTES);
            F::dot::<U, 0, 4, 6>(unit);
            unit.load::<7>(panel.add(step.panel_len).cast(), TILE_BYTES);
            F::dot::<U, 1, 4, 7>(unit);
            if lower {
                unit.load::<5>(left.add(TILE_ROWS * step.left_stride).cast(), left_stride);
                F::dot::<U, 2, 5, 6>(unit);
                F::dot::<U, 3, 5, 7>(unit);
            }
        }
        unit.store::<0>(sums(0, 0), sums_stride);
        unit.store::<1>(sums(0, COLS), sums_stride);
        if lower {
            unit.store::<2>(sums(TILE_ROWS, 0), sums_stride);
            unit.store::<3>(sums(TILE_ROWS, COLS), sums_stride);
        }
    }
}
