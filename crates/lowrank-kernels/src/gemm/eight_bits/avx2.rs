//! The kernel on AVX2: six rows by sixteen columns, pairs by `vpmaddwd`.

use std::arch::x86_64::*;

use super::driver::{Dot, Step, Sums, pairs_of, task_rows_of_16_bits};
use crate::gemm::panels::Layout;
use crate::gemm::tile::{six_rows, with_rows};
use crate::tier::has_avx2;

const COLS: usize = 16;

/// Exists only where the processor has AVX2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The kernel, if the processor has it.
    pub fn detect() -> Option<Self> {
        has_avx2().then_some(Self(()))
    }
}

impl Dot for Avx2 {
    type Left = i16;
    type Session = Self;

    const LAYOUT: Layout = pairs_of(COLS);
    const ROWS: usize = 6;

    fn task_rows(depth: usize) -> usize {
        task_rows_of_16_bits(depth, Self::ROWS)
    }

    fn enter(self) -> Self {
        self
    }

    unsafe fn run(_: &mut Self, step: Step<i16>, sums: &mut Sums) {
        // SAFETY: a session exists only where the instructions do; the rest is the caller's promise.
        unsafe {
            if step.rows == Self::ROWS {
                return whole_tile(step, sums);
            }
            with_rows!(step.rows, 5 4 3 2, R => tile::<R>(step, sums));
        }
    }
}

/// Multiplies one row's pair at `$address` by the panel's sixteen, in ymm12 and ymm13, and adds to the row's sums.
macro_rules! multiply_row {
    ($address:literal, $sums:literal, $more_sums:literal) => {
        concat!(
            "vpbroadcastd ymm14, [",
            $address,
            "]\nvpmaddwd ymm15, ymm14, ymm12\nvpmaddwd ymm14, ymm14, ymm13\nvpaddd ",
            $sums,
            ", ",
            $sums,
            ", ymm15\nvpaddd ",
            $more_sums,
            ", ",
            $more_sums,
            ", ymm14"
        )
    };
}

/// All six rows of a tile.
///
/// # Safety
/// As [`Dot::run`] for six rows; the processor has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn whole_tile(step: Step<i16>, sums: &mut Sums) {
    let Step { depth, left, stride, panel, .. } = step;
    let mut totals = [_mm256_setzero_si256(); 12];
    if depth > 1 {
        // SAFETY: the caller promises six rows and a panel of as many steps.
        unsafe {
            six_rows!(
                multiply_row, "vpmovsxbw ymm12, [{panel}]\nvpmovsxbw ymm13, [{panel} + 16]", "32";
                depth / 2, left, stride * size_of::<i16>(), panel, totals
            );
        }
    }
    store(totals.as_chunks().0, sums);
}

/// The last rows of a task.
///
/// # Safety
/// As [`Dot::run`] for `R` rows; the processor has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn tile<const R: usize>(step: Step<i16>, sums: &mut Sums) {
    let Step { depth, left, stride, panel, .. } = step;
    let mut totals = [[_mm256_setzero_si256(); 2]; R];
    // SAFETY: the caller promises `R` rows and a panel of as many steps.
    unsafe {
        for pair in 0..depth / 2 {
            let packed = panel.add(pair * 2 * COLS).cast::<__m128i>();
            let columns = [
                _mm256_cvtepi8_epi16(_mm_loadu_si128(packed)),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(packed.add(1))),
            ];
            for (r, totals) in totals.iter_mut().enumerate() {
                let value = left.add(r * stride + 2 * pair).cast::<i32>().read_unaligned();
                let value = _mm256_set1_epi32(value);
                totals[0] = _mm256_add_epi32(totals[0], _mm256_madd_epi16(value, columns[0]));
                totals[1] = _mm256_add_epi32(totals[1], _mm256_madd_epi16(value, columns[1]));
            }
        }
    }
    store(&totals, sums);
}

#[target_feature(enable = "avx2")]
fn store(totals: &[[__m256i; 2]], sums: &mut Sums) {
    for (sums, totals) in sums.0.chunks_exact_mut(COLS).zip(totals) {
        for (sums, &total) in sums.chunks_exact_mut(8).zip(totals) {
            // SAFETY: there is room for eight sums.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), total) };
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_agrees_with_the_reference() {
        match super::Avx2::detect() {
            Some(kernel) => super::super::check::check_kernel(kernel),
            None => println!("skipped: this machine does not have AVX2"),
        }
    }
}
