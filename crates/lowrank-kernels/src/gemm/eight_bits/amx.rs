//! The kernel on AMX: 32 rows by 32 columns, two by two tiles of sums, products of 8 bits by `tdpbssd`.

use super::driver::{Dot, Step, Sums};
use crate::gemm::amx::{TILE_BYTES, TILE_ROWS, Tiles, Unit, two_by_two};
use crate::gemm::panels::Layout;
use crate::gemm::tile;

/// Numbers of the sum in one tile.
const DEPTH: usize = TILE_BYTES;
/// Columns of one tile of sums.
const COLS: usize = TILE_BYTES / size_of::<i32>();

impl<U: Unit> Dot for Tiles<U> {
    type Left = i8;
    type Session = U;

    const LAYOUT: Layout = Layout { cols: COLS, group: 4, depth_multiple: DEPTH, panel_multiple: 2 };
    const ROWS: usize = 2 * TILE_ROWS;
    const ROW_MULTIPLE: usize = TILE_ROWS;
    // Rounding a row costs about as much as multiplying it by a few hundred columns; with fewer rows a panel from memory takes
    // longer than its products.
    const FEWEST_ROWS: Option<usize> = Some(128);

    // A quarter of 2 MiB of second-level cache.
    fn task_rows(depth: usize) -> usize {
        ((1 << 19) / depth.max(1)).clamp(64, 512)
    }

    fn enter(self) -> U {
        // SAFETY: a `Tiles` exists only where the unit does; the driver enters once and drops the session at the end of
        // the task, during which it starts no other.
        unsafe { U::configure() }
    }

    unsafe fn run(unit: &mut U, step: Step<i8>, sums: &mut Sums) {
        let Step { rows, depth, left, stride: left_stride, panel, panel_len } = step;
        // Sums of whole numbers are as long as floats.
        let (sums, sums_stride) = (sums.0.as_mut_ptr().cast(), Self::COLS);
        let step =
            tile::Step { rows, depth, left, left_stride, panel, panel_len, sums, sums_stride, add: false };
        // SAFETY: the caller promises rows rounded up to tiles of 16, a sum of whole tiles of 64, and two panels of it;
        // `Sums` has room for all four tiles.
        unsafe { two_by_two(unit, step) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{check_kernel, check_outliers};
    use crate::gemm::amx::{Emulated, Tiles};

    #[test]
    fn it_agrees_with_the_reference_on_an_emulated_unit() {
        check_kernel(Tiles::<Emulated>::new());
        check_outliers(Tiles::<Emulated>::new());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn it_agrees_with_the_reference_on_the_processor() {
        match crate::gemm::amx::Amx::detect_int8() {
            Some(kernel) => {
                check_kernel(kernel);
                check_outliers(kernel);
            }
            None => println!("skipped: this machine does not have AMX"),
        }
    }
}
