//! The portable tier's f32 micro-kernel on x86 processors with AVX2 and FMA: six rows by sixteen columns.

use std::arch::x86_64::*;

use super::panels::Layout;
use super::tile::{Step, Tile, with_rows};
use crate::tier::has_avx2;

/// Exists only where the processor has AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The kernel, if the processor has it.
    pub fn detect() -> Option<Self> {
        has_avx2().then_some(Self(()))
    }
}

impl Tile for Avx2 {
    type Left = f32;
    type Panel = f32;
    type Session = ();

    const LAYOUT: Layout = Layout { cols: 16, group: 1, depth_multiple: 1, panel_multiple: 1 };
    const ROWS: usize = 6;
    // One block of a panel fills 24 KiB of the 32 KiB of first-level cache.
    const DEPTH: usize = 384;

    fn task_rows(_depth: usize) -> usize {
        120
    }

    fn task_cols(depth: usize) -> usize {
        ((1 << 19) / depth.max(64)).max(16)
    }

    fn enter(self) {}

    unsafe fn run((): &mut (), step: Step<f32, f32>) {
        // SAFETY: an `Avx2` exists only where the instructions do; the rest is the caller's promise.
        unsafe { with_rows!(step.rows, 6 5 4 3 2, R => tile::<R>(step)) }
    }
}

/// # Safety
/// As [`Tile::run`]; the processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize>(step: Step<f32, f32>) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: the caller promises `R` rows and a panel of `depth` elements, and room for the sums.
    unsafe {
        for p in 0..step.depth {
            let panel = step.panel.add(p * 16);
            let columns = [_mm256_loadu_ps(panel), _mm256_loadu_ps(panel.add(8))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = _mm256_broadcast_ss(&*step.left.add(r * step.left_stride + p));
                sums[0] = _mm256_fmadd_ps(value, columns[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(value, columns[1], sums[1]);
            }
        }
        for (r, row) in sums.iter().enumerate() {
            for (half, &sum) in row.iter().enumerate() {
                let out = step.sums.add(r * step.sums_stride + half * 8);
                let start = if step.add { _mm256_loadu_ps(out) } else { _mm256_setzero_ps() };
                _mm256_storeu_ps(out, _mm256_add_ps(start, sum));
            }
        }
    }
}
