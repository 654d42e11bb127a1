//! LoRA fine-tuning of transformer models on the machine you have.

pub mod error;
pub mod nearest;

pub use error::{Error, Result};
