//! From files to batches.

// The helpers of tests too may stop the test.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

mod batches;
mod chat;
mod image_sets;
mod images;
mod language;
mod language_files;
mod metrics;
mod parquet;
mod several_files;
mod stream;
mod tasks;
mod text_metrics;
mod tokenizer;

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
