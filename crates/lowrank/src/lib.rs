//! LoRA fine-tuning of transformer models on the machine you have.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod data;
pub mod error;
pub mod hub;
pub mod models;
pub mod nearest;
pub mod nn;
pub mod tape;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};
