//! Readers of files that others wrote, under thousands of files that are nearly right: each reads them or says in a
//! sentence what is wrong with which file. None panics, ends the program, or takes memory that the file does not have.
//!
//! The same functions are libFuzzer's targets, in `fuzz/`.
#![allow(clippy::unwrap_used, missing_docs)]

mod mutator;
#[path = "../../../../fuzz/src/lib.rs"]
mod readers;
mod regressions;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use mutator::Mutator;

/// Files for each reader, at most.
const FILES: usize = 3000;
/// How long a reader is tried, at most; what is slow has fewer files. `FUZZ_SECONDS` says another time, with as many files
/// as there is time for.
const SECONDS: u64 = 4;
/// Files that a reader has in that time, be the machine ever so busy.
const LEAST: usize = 20;
/// No file here asks for more than this.
const MOST_MEMORY: u64 = 2 << 30;
/// No file here takes longer, be the machine ever so busy.
const LONGEST: Duration = Duration::from_secs(20);

/// Tries a reader with its seeds, one of which it must accept, and with changes of them.
fn fuzz(name: &str) {
    let reader = readers::reader(name);
    let seeds = readers::seeds::of(name);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let accepted = seeds.iter().filter(|seed| readers::run(reader, seed).is_ok()).count();
    assert!(accepted > 0, "{name} accepts no seed");
    let before = peak_memory();
    let begin = Instant::now();
    let longer = std::env::var("FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let time = Duration::from_secs(longer.unwrap_or(SECONDS));
    for number in 0..longer.map_or(FILES, |_| usize::MAX) {
        let bytes = Mutator::new(number as u64).mutated(&seeds);
        let begun = Instant::now();
        let wrong = match panics(reader, &bytes) {
            true => "it panicked",
            false if begun.elapsed() > LONGEST => "it took too long",
            false if peak_memory() > before + MOST_MEMORY => "it took too much memory",
            false => {
                if begin.elapsed() > time {
                    return assert!(number >= LEAST, "{name}: {number} files in {time:?}");
                }
                continue;
            }
        };
        let kept = std::env::temp_dir().join(format!("lowrank-{name}-{number}"));
        fs::write(&kept, &bytes).unwrap();
        panic!("{name}, file {number}: {wrong}; it is kept in {}", kept.display());
    }
}

/// Whether a reader panics on a file.
fn panics(reader: &readers::Reader, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| drop(readers::run(reader, bytes)))).is_err()
}

/// What libFuzzer came to in ten minutes of each: a file for every branch that it reached.
#[test]
fn kept_files_are_read_or_refused() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/kept");
    for name in ["safetensors", "pickle", "adapter_config", "run_file"] {
        let reader = readers::reader(name);
        let mut files: Vec<_> =
            fs::read_dir(kept.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(files.len() > 20, "{name} has {} files", files.len());
        for file in files {
            assert!(!panics(reader, &fs::read(&file).unwrap()), "{name} panicked on {}", file.display());
        }
    }
}

/// The most address space that this process ever had: what is asked for counts, be it used or not.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

macro_rules! fuzzed {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name));
        })*

        #[test]
        fn every_reader_is_tried() {
            let names: Vec<&str> = readers::READERS.iter().map(|reader| reader.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

fuzzed! {
    safetensors index pickle adapter adapter_config kohya loralib mlx mlx_config model_config run_file tokenizer
    tokenizer_config chat_template jsonl csv tsv parquet squad picture processor
}
