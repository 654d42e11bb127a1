//! The rank of matrices: singular values, low-rank approximations, and where adapters lie.
//!
//! Everything is computed in f64 from what is stored. What an adapter adds to a weight is analysed from its factors; the
//! product is never formed.

mod approximation;
mod base;
mod file;
mod matrix;
mod overlap;
mod place;
pub mod plot;
mod product;
mod report;
mod spectrum;
mod table;
mod write;

pub use approximation::{ApproximationError, LowRank};
pub use file::{MatrixFile, Skipped, Subject};
pub use lowrank_kernels::svd::Svd;
pub use matrix::Matrix;
pub use overlap::{Overlap, Side, subspace_overlap};
pub use place::{Place, place_in_spectrum};
pub use product::{Product, product_spectrum};
pub use report::{Approximation, RankOptions, RankReport, TensorRank, rank};
pub use spectrum::{Spectrum, Tolerance};
pub use write::write_approximations;
