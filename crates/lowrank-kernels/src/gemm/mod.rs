//! Matrix products: by a frozen weight that is prepared once ([`Weight`]), multiplied in whole numbers ([`Int8Weight`]) or
//! decoded in each product ([`Streamed`]), between any two f32 matrices ([`matmul`](matmul::matmul)), and the gradient of a
//! weight that is trained ([`weight_gradient`]).

pub mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod check;
#[cfg(any(test, target_arch = "x86_64"))]
mod decode;
#[cfg(any(test, target_arch = "x86_64"))]
mod driver;
pub mod eight_bits;
pub mod gradient;
pub mod int8;
mod kernel;
pub mod matmul;
#[cfg(target_arch = "x86_64")]
mod packed;
mod panels;
mod portable;
mod rows;
#[cfg(any(test, target_arch = "x86_64"))]
mod staging;
pub mod streamed;
#[cfg(any(test, target_arch = "x86_64"))]
mod tile;
mod turned;
pub mod weight;

pub use eight_bits::Int8Weight;
pub use gradient::weight_gradient;
pub use int8::{Int8, quantize};
pub use matmul::{Matrix, MatrixMut, matmul};
pub use streamed::{Stored, Streamed};
pub use weight::Weight;

/// Below this many floating-point operations a product stays on the calling thread: waking another takes a few
/// microseconds.
const PARALLEL_FLOPS: usize = 100_000;

/// The floating-point operations of a product, in a type that they fit.
fn flops(rows: usize, depth: usize, width: usize) -> usize {
    rows.saturating_mul(depth).saturating_mul(width).saturating_mul(2)
}
