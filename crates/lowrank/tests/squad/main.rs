//! SQuAD against Transformers' question answering examples and the official scripts.

// The helpers of tests too may stop the test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use lowrank::data::squad::{Purpose, ReadOptions, Version};
use serde_json::Value;

mod answers;
mod reading;
mod scores;
mod windows;

/// `squad.json` of the golden fixtures.
fn golden(part: &str) -> Option<Value> {
    let path = fixtures("squad.json")?;
    let mut golden: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    Some(golden[part].take())
}

/// The golden fixtures, or one of them.
fn fixtures(name: &str) -> Option<PathBuf> {
    present(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fixtures").join(name))
}

/// A file of the public data beside the repository: `../shared`, or wherever `LOWRANK_SHARED` says.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    present(std::env::var_os("LOWRANK_SHARED").map_or_else(beside, PathBuf::from).join(name))
}

fn present(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("LOWRANK_REQUIRE_SHARED").is_none(), "there is no {}", path.display());
    eprintln!("skipped: there is no {}", path.display());
    None
}

fn options(version: Version, purpose: Purpose) -> ReadOptions {
    ReadOptions { version, purpose, limit: 0, strict: false }
}
