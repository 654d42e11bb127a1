//! The files of a data set: named one by one, found in a folder, or those of a data set of the Hub.

use std::path::{Path, PathBuf};

use crate::hub::{self, DatasetFolder, DatasetId};
use crate::{Error, Result};

/// The names of a split, in files and on the Hub.
pub(super) const TRAIN: &[&str] = &["train", "msr_paraphrase_train"];
pub(super) const VALIDATION: &[&str] =
    &["valid", "validation", "val", "dev", "dev_matched", "validation_matched"];
pub(super) const TEST: &[&str] = &["test", "test_matched", "msr_paraphrase_test"];
const EXTENSIONS: &[&str] = &["tsv", "jsonl", "csv", "json", "ndjson", "txt", "conll", "parquet"];

/// The files of a data set, of each part in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataFiles {
    /// What is trained on.
    pub train: Vec<PathBuf>,
    /// What is evaluated on.
    pub validation: Option<Vec<PathBuf>>,
    /// What is left for the end.
    pub test: Option<Vec<PathBuf>>,
}

/// The parts of a data set that there are.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub train: Option<Vec<PathBuf>>,
    pub validation: Option<Vec<PathBuf>>,
    pub test: Option<Vec<PathBuf>>,
}

impl DataFiles {
    /// The files that a run file's `data.train` and `data.validation` mean; each may be a file, a folder that holds
    /// `train`, `valid` (or `validation`, `dev`) and `test` files, or the id of a data set of the Hub.
    ///
    /// # Errors
    /// There is no such file, folder or data set, or it lacks what is asked of it.
    pub fn locate(train: &Path, validation: Option<&Path>) -> Result<Self> {
        let mut files = match parts(train)? {
            None => Self { train: existing(train)?, ..Self::default() },
            Some(parts) => parts.training(train)?,
        };
        if let Some(path) = validation {
            files.validation = Some(Self::evaluation(path)?);
        }
        Ok(files)
    }

    /// The files to evaluate on: `path` itself, or the validation files of a folder or of a data set of the Hub, and
    /// the test files of one that has no others.
    ///
    /// # Errors
    /// There is no such file, folder or data set, or it has no such files.
    pub fn evaluation(path: &Path) -> Result<Vec<PathBuf>> {
        match parts(path)? {
            None => existing(path),
            Some(Parts { validation: Some(files), .. }) => Ok(files),
            Some(Parts { test: Some(files), .. }) if is_hub_id(path) => Ok(files),
            Some(_) => Err(lacks(path, VALIDATION)),
        }
    }
}

impl Parts {
    /// The files of a run whose `data.train` is `path`.
    pub fn training(self, path: &Path) -> Result<DataFiles> {
        let train = self.train.ok_or_else(|| lacks(path, TRAIN))?;
        Ok(DataFiles { train, validation: self.validation, test: self.test })
    }
}

/// Whether a name that is no file or folder here means a data set of the Hub: it has the form of its ids, and is not
/// called as a file of data.
pub(crate) fn is_hub_id(path: &Path) -> bool {
    const FILES: &[&str] = &["bin", "gz", "png", "jpg", "jpeg", "webp"];
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let called_as_file = EXTENSIONS.iter().chain(FILES).any(|known| extension.eq_ignore_ascii_case(known));
    let id = path.to_str().filter(|_| path.is_relative() && !called_as_file).and_then(DatasetId::parse);
    // A word alone is a misspelt file rather than a data set, unless it is a known one: others have owners.
    id.is_some_and(|id| id.repository.contains('/')) && !path.exists()
}

/// The parts of a folder or of a data set of the Hub; none of what is a file, or nothing.
fn parts(path: &Path) -> Result<Option<Parts>> {
    if path.is_dir() {
        return Ok(Some(parts_of_folder(path)));
    }
    match path.to_str().filter(|_| is_hub_id(path)) {
        Some(name) => Ok(Some(hub::resolve_dataset(name)?.into())),
        None => Ok(None),
    }
}

/// A file for each part, or the files that a part is cut into, as on the Hub.
pub(super) fn parts_of_folder(folder: &Path) -> Parts {
    let cut = || folder.to_str().and_then(|name| hub::resolve_dataset(name).ok()).map(Parts::from);
    match find(folder, TRAIN) {
        None if find(folder, VALIDATION).is_none() => cut().unwrap_or_default(),
        train => Parts { train, validation: find(folder, VALIDATION), test: find(folder, TEST) },
    }
}

impl From<DatasetFolder> for Parts {
    fn from(found: DatasetFolder) -> Self {
        let part = |names| found.split(names).map(<[PathBuf]>::to_vec);
        Self { train: part(TRAIN), validation: part(VALIDATION), test: part(TEST) }
    }
}

fn find(folder: &Path, stems: &[&str]) -> Option<Vec<PathBuf>> {
    let named = |stem: &str| {
        EXTENSIONS
            .iter()
            .map(|extension| folder.join(format!("{stem}.{extension}")))
            .find(|path| path.is_file())
    };
    stems.iter().find_map(|stem| named(stem)).map(|file| vec![file])
}

/// What `read` makes of each of several files, until they have the first `limit` rows (0: all) together. `read` is told how
/// many are left, `count` tells how many it found.
pub(super) fn in_turn<T>(
    files: &[PathBuf],
    limit: usize,
    read: impl Fn(&Path, usize) -> Result<T>,
    count: impl Fn(&T) -> usize,
) -> Result<Vec<T>> {
    let (mut all, mut found) = (Vec::with_capacity(files.len()), 0);
    for path in files {
        if limit > 0 && found == limit {
            break;
        }
        let part = read(path, limit.saturating_sub(found))?;
        found += count(&part);
        all.push(part);
    }
    Ok(all)
}

/// What was read from several files in one.
///
/// # Errors
/// If there was no file.
pub(super) fn together<T>(parts: Vec<T>, append: impl Fn(&mut T, T)) -> Result<T> {
    let mut parts = parts.into_iter();
    let mut whole = parts.next().ok_or_else(|| Error::Usage("there is no file to read".into()))?;
    parts.for_each(|part| append(&mut whole, part));
    Ok(whole)
}

fn existing(path: &Path) -> Result<Vec<PathBuf>> {
    std::fs::metadata(path).map_err(Error::io(path))?;
    Ok(vec![path.to_path_buf()])
}

fn lacks(folder: &Path, stems: &[&str]) -> Error {
    let stems = stems.join(" or ");
    Error::file(
        folder,
        match is_hub_id(folder) {
            true => format!("this data set of the Hub has no split called {stems}"),
            false => format!("no {stems}.tsv, .jsonl, .csv or .parquet in this folder"),
        },
    )
}
