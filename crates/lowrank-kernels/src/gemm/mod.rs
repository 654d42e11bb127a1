//! Matrix products: by a frozen weight that is prepared once ([`Weight`]), between any two f32 matrices
//! ([`matmul`](matmul::matmul)), and the gradient of a weight that is trained ([`weight_gradient`]).

pub mod amx;
pub mod gradient;
pub mod matmul;
mod portable;
mod rows;
mod scratch;
pub mod weight;

pub use gradient::weight_gradient;
pub use matmul::{Matrix, MatrixMut, matmul};
pub use weight::{Source, Weight};

/// Below this many floating-point operations a product stays on the calling thread: waking another costs more.
const PARALLEL_FLOPS: usize = 100_000;

/// Whether a product of `rows`, `depth` and `width` is worth several threads.
fn worth_threads(rows: usize, depth: usize, width: usize) -> bool {
    rows.saturating_mul(depth).saturating_mul(width).saturating_mul(2) >= PARALLEL_FLOPS
}
