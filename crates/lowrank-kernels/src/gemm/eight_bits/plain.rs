//! The kernel in plain Rust.

use super::driver::{Dot, Step, Sums, pairs_of, task_rows_of_16_bits};
use crate::gemm::panels::Layout;

const COLS: usize = 16;

/// No instructions beyond the baseline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain;

impl Dot for Plain {
    type Left = i16;
    type Session = ();

    const LAYOUT: Layout = pairs_of(COLS);
    const ROWS: usize = 4;

    fn task_rows(depth: usize) -> usize {
        task_rows_of_16_bits(depth, Self::ROWS)
    }

    fn enter(self) {}

    unsafe fn run(_: &mut (), step: Step<i16>, sums: &mut Sums) {
        let Step { rows, depth, left, stride, panel, .. } = step;
        // SAFETY: the caller promises as many steps of the panel.
        let panel = unsafe { std::slice::from_raw_parts(panel, depth * COLS) };
        for (row, sums) in sums.0.chunks_exact_mut(COLS).take(rows).enumerate() {
            // SAFETY: the caller promises as many numbers of each row.
            let left = unsafe { std::slice::from_raw_parts(left.add(row * stride), depth) };
            let mut totals = [0_i32; COLS];
            for (pair, step) in left.chunks_exact(2).zip(panel.chunks_exact(2 * COLS)) {
                let (first, second) = (i32::from(pair[0]), i32::from(pair[1]));
                for (total, column) in totals.iter_mut().zip(step.chunks_exact(2)) {
                    *total += first * i32::from(column[0]) + second * i32::from(column[1]);
                }
            }
            sums.copy_from_slice(&totals);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_agrees_with_the_reference() {
        super::super::check::check_kernel(super::Plain);
    }
}
