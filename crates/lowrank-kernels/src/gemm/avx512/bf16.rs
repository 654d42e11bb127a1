//! Products of bf16 pairs with `vdpbf16ps`.

use std::arch::x86_64::*;
use std::mem::transmute;

use half::bf16;

use super::{COLS, ROWS, TASK_ROWS, VECTORS};
use crate::element::Element;
use crate::gemm::panels::Layout;
use crate::gemm::tile::{Finish, Step, Tile, with_rows};
use crate::tier::{Tier, has_avx512_bf16};

/// Exists only where the processor has the AVX-512 tier and `vdpbf16ps`.
#[derive(Clone, Copy, Debug)]
pub(in crate::gemm) struct Pairs(());

impl Pairs {
    /// The kernel, if the processor has it.
    pub fn detect() -> Option<Self> {
        (Tier::Avx512.is_available() && has_avx512_bf16()).then_some(Self(()))
    }
}

impl Tile for Pairs {
    type Left = bf16;
    type Panel = bf16;
    type Session = ();

    const LAYOUT: Layout = Layout { cols: COLS, group: 2, depth_multiple: 2, panel_multiple: 1 };
    const ROWS: usize = ROWS;
    // One block of a panel fills 36 KiB of the 48 KiB of first-level cache.
    const DEPTH: usize = 384;

    fn task_rows(_depth: usize) -> usize {
        TASK_ROWS
    }

    fn task_cols(depth: usize) -> usize {
        super::task_cols(depth, size_of::<bf16>())
    }

    fn enter(self) {}

    unsafe fn run((): &mut (), step: Step<bf16, bf16>) {
        // SAFETY: a `Pairs` exists only where the instructions do; the rest is the caller's promise.
        unsafe { with_rows!(step.rows, 8 7 6 5 4 3 2, R => tile::<R>(step)) }
    }

    fn finish<T: Element>(self, finish: Finish<'_, T>) {
        // SAFETY: a `Pairs` exists only where the instructions do.
        unsafe { super::finish(finish) }
    }
}

/// # Safety
/// As [`Tile::run`]; the processor has the AVX-512 tier and `vdpbf16ps`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile<const R: usize>(step: Step<bf16, bf16>) {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; R];
    // SAFETY: the caller promises `R` rows and a panel of `depth` elements rounded up to pairs, and room for the
    // sums. The transmutes are between vectors of 64 bytes for which every pattern is valid.
    unsafe {
        for pair in 0..step.depth.div_ceil(2) {
            let mut columns = [_mm512_setzero_si512(); VECTORS];
            for (v, columns) in columns.iter_mut().enumerate() {
                *columns = _mm512_loadu_si512(step.panel.add((pair * COLS + v * 16) * 2).cast());
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let values = step.left.add(r * step.left_stride + pair * 2);
                let values = _mm512_set1_epi32(values.cast::<i32>().read_unaligned());
                for (sum, columns) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_dpbf16_ps(
                        *sum,
                        transmute::<__m512i, __m512bh>(values),
                        transmute::<__m512i, __m512bh>(columns),
                    );
                }
            }
        }
        for (r, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                let out = step.sums.add(r * step.sums_stride + v * 16);
                let start = if step.add { _mm512_loadu_ps(out) } else { _mm512_setzero_ps() };
                _mm512_storeu_ps(out, _mm512_add_ps(start, sum));
            }
        }
    }
}
