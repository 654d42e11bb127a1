//! The kernel on AVX2: six rows by sixteen columns, pairs by `vpmaddwd`.

use std::arch::asm;
use std::arch::x86_64::*;

use super::driver::{Dot, Step, Sums, pairs_of, task_rows_of_16_bits};
use crate::gemm::panels::Layout;
use crate::gemm::tile::with_rows;
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

/// All six rows of a tile. In assembly for where the loop begins, as in f32.
///
/// # Safety
/// As [`Dot::run`] for six rows; the processor has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn whole_tile(step: Step<i16>, sums: &mut Sums) {
    let Step { depth, left, stride, panel, .. } = step;
    let mut totals = [_mm256_setzero_si256(); 12];
    if depth > 1 {
        // SAFETY: the caller promises six rows, of which `lower` is the fourth, and a panel of as many steps; nothing is written.
        unsafe {
            asm!(
                ".p2align 6",
                "2:",
                "vpmovsxbw ymm12, [{panel}]",
                "vpmovsxbw ymm13, [{panel} + 16]",
                multiply_row!("{left}", "ymm0", "ymm1"),
                multiply_row!("{left} + {stride}", "ymm2", "ymm3"),
                multiply_row!("{left} + 2*{stride}", "ymm4", "ymm5"),
                multiply_row!("{lower}", "ymm6", "ymm7"),
                multiply_row!("{lower} + {stride}", "ymm8", "ymm9"),
                multiply_row!("{lower} + 2*{stride}", "ymm10", "ymm11"),
                "add {panel}, 32",
                "add {left}, 4",
                "add {lower}, 4",
                "dec {pairs}",
                "jnz 2b",
                pairs = inout(reg) depth / 2 => _,
                panel = inout(reg) panel => _,
                left = inout(reg) left => _,
                lower = inout(reg) left.add(3 * stride) => _,
                stride = in(reg) stride * size_of::<i16>(),
                inout("ymm0") totals[0],
                inout("ymm1") totals[1],
                inout("ymm2") totals[2],
                inout("ymm3") totals[3],
                inout("ymm4") totals[4],
                inout("ymm5") totals[5],
                inout("ymm6") totals[6],
                inout("ymm7") totals[7],
                inout("ymm8") totals[8],
                inout("ymm9") totals[9],
                inout("ymm10") totals[10],
                inout("ymm11") totals[11],
                out("ymm12") _,
                out("ymm13") _,
                out("ymm14") _,
                out("ymm15") _,
                options(nostack, readonly),
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
