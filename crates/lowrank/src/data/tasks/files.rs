//! The files of a data set: named one by one, or found in a folder.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

const TRAIN: &[&str] = &["train", "msr_paraphrase_train"];
const VALIDATION: &[&str] = &["valid", "validation", "val", "dev", "dev_matched", "validation_matched"];
const TEST: &[&str] = &["test", "test_matched", "msr_paraphrase_test"];
const EXTENSIONS: &[&str] = &["tsv", "jsonl", "csv", "json", "ndjson", "txt", "conll", "parquet"];

/// The files of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFiles {
    /// What is trained on.
    pub train: PathBuf,
    /// What is evaluated on.
    pub validation: Option<PathBuf>,
    /// What is left for the end.
    pub test: Option<PathBuf>,
}

impl DataFiles {
    /// The files that a run file's `data.train` and `data.validation` mean; each may be a file, or a folder that
    /// holds `train`, `valid` (or `validation`, `dev`) and `test` files.
    ///
    /// # Errors
    /// There is no such file or folder, or the folder lacks what is asked of it.
    pub fn locate(train: &Path, validation: Option<&Path>) -> Result<Self> {
        let mut files = if train.is_dir() {
            let found = find(train, TRAIN).ok_or_else(|| lacks(train, TRAIN))?;
            Self { train: found, validation: find(train, VALIDATION), test: find(train, TEST) }
        } else {
            Self { train: existing(train)?, validation: None, test: None }
        };
        if let Some(path) = validation {
            files.validation = Some(Self::evaluation(path)?);
        }
        Ok(files)
    }

    /// The file to evaluate on: `path` itself, or the validation file of a folder.
    ///
    /// # Errors
    /// There is no such file or folder, or the folder has no such file.
    pub fn evaluation(path: &Path) -> Result<PathBuf> {
        if path.is_dir() {
            find(path, VALIDATION).ok_or_else(|| lacks(path, VALIDATION))
        } else {
            existing(path)
        }
    }
}

fn find(folder: &Path, stems: &[&str]) -> Option<PathBuf> {
    let named = |stem: &str| {
        EXTENSIONS
            .iter()
            .map(|extension| folder.join(format!("{stem}.{extension}")))
            .find(|path| path.is_file())
    };
    stems.iter().find_map(|stem| named(stem))
}

fn existing(path: &Path) -> Result<PathBuf> {
    std::fs::metadata(path).map_err(Error::io(path))?;
    Ok(path.to_path_buf())
}

fn lacks(folder: &Path, stems: &[&str]) -> Error {
    Error::file(folder, format!("no {}.tsv, .jsonl, .csv or .parquet in this folder", stems.join(" or ")))
}
