//! The kernel on AVX-512: eight rows by forty-eight columns, pairs by `vpdpwssd`.

use std::arch::x86_64::*;

use super::driver::{Dot, Step, Sums, pairs_of, task_rows_of_16_bits};
use crate::gemm::panels::Layout;
use crate::gemm::tile::with_rows;
use crate::tier::{Tier, has_avx512_vnni};

/// Vectors of 16 columns in a tile.
const VECTORS: usize = 3;
const COLS: usize = VECTORS * 16;

/// Exists only where the processor has the AVX-512 tier and VNNI.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vnni(());

impl Vnni {
    /// The kernel, if the processor has it.
    pub fn detect() -> Option<Self> {
        (Tier::Avx512.is_available() && has_avx512_vnni()).then_some(Self(()))
    }
}

impl Dot for Vnni {
    type Left = i16;
    type Session = Self;

    const LAYOUT: Layout = pairs_of(COLS);
    const ROWS: usize = 8;

    fn task_rows(depth: usize) -> usize {
        task_rows_of_16_bits(depth, Self::ROWS)
    }

    fn enter(self) -> Self {
        self
    }

    unsafe fn run(_: &mut Self, step: Step<i16>, sums: &mut Sums) {
        // SAFETY: a session exists only where the instructions do; the rest is the caller's promise.
        unsafe { with_rows!(step.rows, 8 7 6 5 4 3 2, R => tile::<R>(step, sums)) }
    }
}

/// # Safety
/// As [`Dot::run`] for `R` rows; the processor has the AVX-512 tier and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile<const R: usize>(step: Step<i16>, sums: &mut Sums) {
    let Step { depth, left, stride, panel, .. } = step;
    let mut totals = [[_mm512_setzero_si512(); VECTORS]; R];
    // SAFETY: the caller promises `R` rows and a panel of as many steps.
    unsafe {
        for pair in 0..depth / 2 {
            let packed = panel.add(pair * 2 * COLS).cast::<__m256i>();
            let mut columns = [_mm512_setzero_si512(); VECTORS];
            for (v, columns) in columns.iter_mut().enumerate() {
                *columns = _mm512_cvtepi8_epi16(_mm256_loadu_si256(packed.add(v)));
            }
            for (r, totals) in totals.iter_mut().enumerate() {
                let value = left.add(r * stride + 2 * pair).cast::<i32>().read_unaligned();
                let value = _mm512_set1_epi32(value);
                for (total, columns) in totals.iter_mut().zip(columns) {
                    *total = _mm512_dpwssd_epi32(*total, value, columns);
                }
            }
        }
    }
    for (sums, totals) in sums.0.chunks_exact_mut(COLS).zip(totals) {
        for (sums, total) in sums.chunks_exact_mut(16).zip(totals) {
            // SAFETY: there is room for sixteen sums.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), total) };
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_agrees_with_the_reference() {
        match super::Vnni::detect() {
            Some(kernel) => super::super::check::check_kernel(kernel),
            None => println!("skipped: this machine does not have AVX-512 VNNI"),
        }
    }
}
