//! The kernel on AVX-512: eight rows by forty-eight columns, pairs by `vpdpwssd`.

use std::arch::x86_64::*;

use super::driver::{Dot, Sums};
use crate::gemm::panels::Layout;
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
    const LAYOUT: Layout = Layout { cols: COLS, group: 2, depth_multiple: 2, panel_multiple: 1 };
    const ROWS: usize = 8;

    unsafe fn run(
        self,
        rows: usize,
        pairs: usize,
        left: *const i16,
        stride: usize,
        panel: *const i8,
        sums: &mut Sums,
    ) {
        // SAFETY: a `Vnni` exists only where the instructions do; the rest is the caller's promise.
        unsafe {
            match rows {
                8 => tile::<8>(pairs, left, stride, panel, sums),
                7 => tile::<7>(pairs, left, stride, panel, sums),
                6 => tile::<6>(pairs, left, stride, panel, sums),
                5 => tile::<5>(pairs, left, stride, panel, sums),
                4 => tile::<4>(pairs, left, stride, panel, sums),
                3 => tile::<3>(pairs, left, stride, panel, sums),
                2 => tile::<2>(pairs, left, stride, panel, sums),
                _ => tile::<1>(pairs, left, stride, panel, sums),
            }
        }
    }
}

/// # Safety
/// As [`Dot::run`] for `R` rows; the processor has the AVX-512 tier and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile<const R: usize>(
    pairs: usize,
    left: *const i16,
    stride: usize,
    panel: *const i8,
    sums: &mut Sums,
) {
    let mut totals = [[_mm512_setzero_si512(); VECTORS]; R];
    // SAFETY: the caller promises `R` rows and a panel of so many pairs.
    unsafe {
        for pair in 0..pairs {
            let step = panel.add(pair * 2 * COLS).cast::<__m256i>();
            let mut columns = [_mm512_setzero_si512(); VECTORS];
            for (v, columns) in columns.iter_mut().enumerate() {
                *columns = _mm512_cvtepi8_epi16(_mm256_loadu_si256(step.add(v)));
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
