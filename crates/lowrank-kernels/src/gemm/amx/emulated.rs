//! The matrix unit in plain Rust, after the manual's description of its instructions.

use half::bf16;

use super::unit::{TILE_BYTES, TILE_ROWS, Unit};
use crate::element::Element;

/// Eight tiles.
pub(crate) struct Emulated([[[u8; TILE_BYTES]; TILE_ROWS]; 8]);

impl Unit for Emulated {
    fn is_available() -> bool {
        true
    }

    unsafe fn configure() -> Self {
        Self([[[0; TILE_BYTES]; TILE_ROWS]; 8])
    }

    fn zero<const TILE: usize>(&mut self) {
        self.0[TILE] = [[0; TILE_BYTES]; TILE_ROWS];
    }

    unsafe fn load<const TILE: usize>(&mut self, from: *const u8, stride: usize) {
        for (i, row) in self.0[TILE].iter_mut().enumerate() {
            // SAFETY: the caller promises 16 rows of 64 readable bytes.
            unsafe { row.as_mut_ptr().copy_from(from.add(i * stride), TILE_BYTES) };
        }
    }

    unsafe fn store<const TILE: usize>(&mut self, to: *mut u8, stride: usize) {
        for (i, row) in self.0[TILE].iter().enumerate() {
            // SAFETY: the caller promises 16 rows of 64 writable bytes.
            unsafe { to.add(i * stride).copy_from(row.as_ptr(), TILE_BYTES) };
        }
    }

    fn dot<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        // The first and the second of each pair, apart and widened once, so that the compiler has loops that it vectorises.
        let mut right = [[[0.0; 16]; 2]; TILE_ROWS];
        for (right, row) in right.iter_mut().zip(&self.0[RIGHT]) {
            let row: &[bf16; 32] = bytemuck::cast_ref(row);
            for (col, pair) in row.chunks_exact(2).enumerate() {
                (right[0][col], right[1][col]) = (pair[0].widen(), pair[1].widen());
            }
        }
        for row in 0..TILE_ROWS {
            let left: &[bf16; 32] = bytemuck::cast_ref(&self.0[LEFT][row]);
            let (mut even, mut odd) = ([0.0; 16], [0.0; 16]);
            for (left, right) in left.chunks_exact(2).zip(&right) {
                let (first, second) = (left[0].widen(), left[1].widen());
                even.iter_mut().zip(&right[0]).for_each(|(sum, right)| *sum += first * right);
                odd.iter_mut().zip(&right[1]).for_each(|(sum, right)| *sum += second * right);
            }
            let mut sums: [f32; 16] = bytemuck::cast(self.0[SUMS][row]);
            sums.iter_mut().zip(even).zip(odd).for_each(|((sum, even), odd)| *sum += even + odd);
            self.0[SUMS][row] = bytemuck::cast(sums);
        }
    }

    fn dot_int8<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        for row in 0..TILE_ROWS {
            let left: &[i8; 64] = bytemuck::cast_ref(&self.0[LEFT][row]);
            let mut sums: [i32; 16] = bytemuck::cast(self.0[SUMS][row]);
            for (four, left) in left.chunks_exact(4).enumerate() {
                let right: &[i8; 64] = bytemuck::cast_ref(&self.0[RIGHT][four]);
                for (sum, right) in sums.iter_mut().zip(right.chunks_exact(4)) {
                    *sum += left.iter().zip(right).map(|(&l, &r)| i32::from(l) * i32::from(r)).sum::<i32>();
                }
            }
            self.0[SUMS][row] = bytemuck::cast(sums);
        }
    }
}
