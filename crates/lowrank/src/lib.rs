//! LoRA fine-tuning of transformer models on the machine you have.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod analysis;
pub mod data;
pub mod demo;
pub mod error;
mod fnv;
mod foreign;
pub mod generate;
pub mod hub;
pub mod models;
pub mod nearest;
pub mod nn;
pub mod tape;
pub mod tensor;
#[doc(hidden)]
pub mod text;
pub mod train;

pub use error::{Error, Result};
pub use lowrank_kernels::parallel::{init_threads, threads};
pub use lowrank_kernels::{Compute, Tier};
