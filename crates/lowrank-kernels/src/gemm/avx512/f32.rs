//! Products in f32, of panels that hold f32 or bf16.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::{COLS, ROWS, TASK_ROWS, VECTORS};
use crate::element::Element;
use crate::gemm::panels::Layout;
use crate::gemm::tile::{Finish, Step, Tile, with_rows};
use crate::tier::Tier;

/// Exists only where the processor has the AVX-512 tier. `P`, f32 or bf16, is what panels hold.
#[derive(Clone, Copy, Debug)]
pub(in crate::gemm) struct Wide<P>(PhantomData<P>);

impl<P: Element> Wide<P> {
    /// The kernel, if the processor has it.
    pub fn detect() -> Option<Self> {
        Tier::Avx512.is_available().then_some(Self(PhantomData))
    }
}

impl<P: Element> Tile for Wide<P> {
    type Left = f32;
    type Panel = P;
    type Session = ();

    const LAYOUT: Layout = Layout { cols: COLS, group: 1, depth_multiple: 1, panel_multiple: 1 };
    const ROWS: usize = ROWS;
    // One block of a panel fills 36 KiB of the 48 KiB of first-level cache.
    const DEPTH: usize = 768 / size_of::<P>();

    fn task_rows(_depth: usize) -> usize {
        TASK_ROWS
    }

    fn task_cols(depth: usize) -> usize {
        super::task_cols(depth, size_of::<P>())
    }

    fn enter(self) {}

    unsafe fn run((): &mut (), step: Step<f32, P>) {
        // SAFETY: a `Wide` exists only where the instructions do; the rest is the caller's promise.
        unsafe { with_rows!(step.rows, 8 7 6 5 4 3 2, R => tile::<P, R>(step)) }
    }

    fn finish<T: Element>(self, finish: Finish<'_, T>) {
        // SAFETY: a `Wide` exists only where the instructions do.
        unsafe { super::finish(finish) }
    }
}

/// # Safety
/// As [`Tile::run`]; the processor has the AVX-512 tier.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<P: Element, const R: usize>(step: Step<f32, P>) {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; R];
    // SAFETY: the caller promises `R` rows and a panel of `depth` elements, and room for the sums.
    unsafe {
        for p in 0..step.depth {
            let mut columns = [_mm512_setzero_ps(); VECTORS];
            for (v, columns) in columns.iter_mut().enumerate() {
                let panel = step.panel.add(p * COLS + v * 16);
                *columns = match P::COMPUTE {
                    crate::Compute::F32 => _mm512_loadu_ps(panel.cast()),
                    crate::Compute::Bf16 => {
                        let halves = _mm256_loadu_si256(panel.cast());
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
                    }
                };
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*step.left.add(r * step.left_stride + p));
                for (sum, columns) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_fmadd_ps(value, columns, *sum);
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
