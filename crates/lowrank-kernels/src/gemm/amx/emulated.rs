//! The matrix unit in plain Rust, after the manual's description of its instructions.

use half::bf16;

use super::unit::{TILE_BYTES, TILE_ROWS, Unit};
use crate::element::Element;

/// Eight tiles.
pub(in crate::gemm) struct Emulated([[[u8; TILE_BYTES]; TILE_ROWS]; 8]);

impl Unit for Emulated {
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
        for row in 0..TILE_ROWS {
            let left: &[bf16; 32] = bytemuck::cast_ref(&self.0[LEFT][row]);
            let mut sums: [f32; 16] = bytemuck::cast(self.0[SUMS][row]);
            for (col, sum) in sums.iter_mut().enumerate() {
                let (mut even, mut odd) = (0.0, 0.0);
                for (pair, left) in left.chunks_exact(2).enumerate() {
                    let right: &[bf16; 32] = bytemuck::cast_ref(&self.0[RIGHT][pair]);
                    even += left[0].widen() * right[2 * col].widen();
                    odd += left[1].widen() * right[2 * col + 1].widen();
                }
                *sum += even + odd;
            }
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
