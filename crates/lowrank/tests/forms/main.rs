//! Files of other people's forms: what `torch.save` writes, and adapters that are not PEFT's.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod convert;
mod gguf;
mod hostile_pickles;
mod initial;
mod pickle;

use std::path::PathBuf;

/// A file of `fixtures/forms`.
fn form(name: &str) -> PathBuf {
    common::fixtures().join("forms").join(name)
}
