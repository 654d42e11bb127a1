//! Model and adapter folders that are wrong: one clear sentence each, with the file and the key, and no panic.
#![allow(clippy::unwrap_used, missing_docs)]

mod adapters;
#[path = "../common/mod.rs"]
mod common;
mod models;
mod settings;

use std::path::Path;

use lowrank::Result;
use lowrank::hub::{Checkpoint, Tensors, to_tensor, write_tensors};

/// The error's sentence, which must be one, and hold all of `parts`.
fn assert_refused<T>(result: Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted where {parts:?} should be said") };
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.trim().is_empty(), "not a sentence: {text:?}");
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// Changes the tensors of a safetensors file.
fn change(path: &Path, change: impl FnOnce(&mut Tensors)) {
    let mut tensors = Tensors::new();
    let file = Checkpoint::open_file(path).unwrap();
    for name in file.names() {
        // A copy: the file is about to be replaced.
        tensors.insert(name.to_owned(), to_tensor(name, &file.get(name).unwrap()).unwrap());
    }
    change(&mut tensors);
    write_tensors(path, &tensors).unwrap();
}
