//! The AVX-512 micro-kernels: eight rows by forty-eight columns, which divides the usual widths.

mod bf16;
mod f32;

pub(super) use bf16::Pairs;
pub(super) use f32::Wide;

use super::tile::Finish;
use crate::element::Element;

/// Rows of a tile.
const ROWS: usize = 8;
/// Vectors of 16 columns in a tile.
const VECTORS: usize = 3;
/// Columns of a tile.
const COLS: usize = VECTORS * 16;

/// Rows of a task; with one block of the sum they fill a tenth of the second-level cache.
const TASK_ROWS: usize = 128;

/// Columns of a task whose panels fill half of 2 MiB of second-level cache.
fn task_cols(depth: usize, value_bytes: usize) -> usize {
    ((1 << 20) / (depth.max(64) * value_bytes)).max(COLS)
}

/// [`Finish::plain`] compiled for AVX-512.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn finish<T: Element>(finish: Finish<'_, T>) {
    finish.plain();
}

#[cfg(test)]
mod tests {
    use super::super::check::{check_kernel, check_streamed};
    use super::*;
    use half::bf16;

    #[test]
    fn every_kernel_agrees_with_the_reference() {
        match Wide::<f32>::detect() {
            Some(kernel) => {
                check_kernel::<_, f32>(kernel);
                check_streamed::<_, f32>(kernel);
            }
            None => println!("skipped: this machine does not have AVX-512"),
        }
        if let Some(kernel) = Wide::<bf16>::detect() {
            check_kernel::<_, bf16>(kernel);
            check_streamed::<_, bf16>(kernel);
        }
        match Pairs::detect() {
            Some(kernel) => {
                check_kernel::<_, bf16>(kernel);
                check_streamed::<_, bf16>(kernel);
            }
            None => println!("skipped: this machine does not have AVX-512 BF16"),
        }
    }
}
