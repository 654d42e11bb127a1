//! Arithmetic on slices: the kernels of `lowrank`.
//!
//! Each kernel is a safe function that checks its lengths once. This is the only crate of the workspace with
//! `unsafe` code or processor intrinsics. Conventions: matrices are row-major; rows of activations are
//! [`Element`]s (f32 or bf16), everything that is accumulated, trained or reduced is f32; a sum over rows uses
//! fixed blocks added in index order, so that results do not depend on the number of threads.

pub mod element;
pub mod gemm;
pub mod rows;
pub mod tier;

pub use element::{Compute, Element};
pub use rows::{Rows, RowsMut};
pub use tier::{Tier, TierError};
