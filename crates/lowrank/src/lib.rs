//! LoRA fine-tuning of transformer models on the machine you have.

pub mod data;
pub mod error;
pub mod hub;
pub mod nearest;

pub use error::{Error, Result};
