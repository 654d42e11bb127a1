//! LoRA adapters: which layers, how they begin, PEFT's files.

mod attach;
mod config;
pub mod convert;
mod count;
mod file;
mod hold;
mod initialise;
mod join;
mod layers;
mod matcher;
mod merge;
mod peft_config;
mod principal;
mod targets;
mod tokens;
pub mod tools;
mod tree;

pub use attach::{Plan, attach, detach, for_each_leaf_mut, is_attached, plan, set_trainable};
pub use config::{Bias, Distribution, Init, LoraConfig, Targets, TokenIndices};
pub use count::{Grouped, ParameterCount};
pub use file::{AdapterFile, peft_key, save, tensors};
pub(crate) use file::{PREFIX, put_in_file_shapes};
pub use hold::{Held, hold};
pub use join::{join, scale};
pub use layers::Adapted;
pub(crate) use merge::{Changes, Pair, Product, not_finite, sum, write_rows};
pub use merge::{Merged, merge};
pub(crate) use peft_config::fan_in_fan_out;
pub use peft_config::read_config;
pub use targets::{Targeted, target_modules};
pub use tokens::TrainedTokens;
pub use tree::Tree;
