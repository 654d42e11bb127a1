//! Arithmetic on slices: the kernels of `lowrank`.
//!
//! Each kernel is a safe function that checks its lengths once. This is the only crate of the workspace with
//! `unsafe` code or processor intrinsics. Conventions: matrices are row-major; rows of activations are
//! [`Element`]s (f32 or bf16), everything that is accumulated, trained or reduced is f32; a sum over rows uses
//! fixed blocks added in index order, so that results do not depend on the number of threads. Gradients of
//! parameters are added to what is there, gradients of activations are assigned.

#[macro_use]
mod simd;
mod columns;
mod compiled;
mod math;
mod scratch;
mod tile;

pub mod activation;
pub mod attention;
pub mod dropout;
pub mod element;
pub mod elementwise;
pub mod embedding;
pub mod gated;
pub mod gemm;
pub mod loss;
pub mod low_rank;
pub mod magnitude;
pub mod memory;
pub mod mixture;
pub mod norm;
pub mod optimizer;
pub mod parallel;
pub mod patches;
pub mod random;
pub mod rms_norm;
pub mod rotary;
pub mod row_ops;
pub mod rows;
pub mod svd;
pub mod tier;
pub mod unfold;

pub use activation::Activation;
pub use columns::ColumnsMut;
pub use dropout::{Dropout, DropoutKey, RowId};
pub use element::{Compute, Element, Source};
pub use rows::{Rows, RowsMut};
pub use tier::{Tier, TierError};
