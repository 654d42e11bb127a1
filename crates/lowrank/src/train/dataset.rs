//! A run's task and data, as its model reads them.

use std::path::{Path, PathBuf};

use super::events::Observer;
use super::reading::{Noted, Reading};
use super::run_file::RunFile;
use crate::Result;
use crate::data::image::Augmentation;
use crate::data::{DataFiles, Dataset, Reader, Task, TaskOptions, tasks};
use crate::hub::{self, RepositoryKind};
use crate::models::{ModelConfig, ModelInfo};

/// The files of a run, and how they are read.
pub struct RunData {
    /// Where the rows are.
    pub files: DataFiles,
    /// How a row becomes an example.
    pub task: Box<dyn Task>,
}

impl RunData {
    /// Finds the files and opens the task. Its labels are those of the adapter that the run starts from, else in the
    /// order that the base model's configuration has them in, if it has the same.
    ///
    /// # Errors
    /// If a file is missing, or the labels of a table cannot be read from it.
    pub fn open(run: &RunFile, config: &ModelConfig) -> Result<Self> {
        let files = tasks::locate(&run.task, &run.data.train, run.data.validation.as_deref())?;
        let adapter = run.init_adapter_source().map(|name| hub::resolve(&name, RepositoryKind::Adapter));
        let noted = adapter.transpose()?.and_then(|folder| Noted::of(&folder.path)?.labels);
        let own = || tasks::has_labels(&run.task).then(|| config.labels.clone());
        let options = TaskOptions {
            columns: run.data.columns.clone(),
            source_prefix: run.data.source_prefix.clone(),
            labels: noted.or_else(own),
            regression: false,
            strict: run.data.strict,
            training_file: files.train.first().map(PathBuf::as_path),
            further_files: files.train.get(1..).unwrap_or_default(),
            model_labels: config.labels.clone(),
            null_threshold: 0.0,
        };
        let task = tasks::open(&run.task, &options)?;
        Ok(Self { files, task })
    }
}

/// How a run's examples are read for its model: what it asks for, but no longer than the model has positions.
pub(super) fn reader(run: &RunFile, folder: &Path, info: &ModelInfo, observer: &mut dyn Observer) -> Reader {
    let mut reader = Reading::of(run).reader(folder, info, observer);
    reader.strict = run.data.strict;
    reader.augmentation = Augmentation { crop_padding: run.data.random_crop, flip: run.data.random_flip };
    reader
}

/// Tells how many rows of the data (`what` of it) could not be used, and how many examples lost their ends, which are
/// `length` tokens long.
pub(super) fn note_losses(data: &dyn Dataset, what: &str, length: usize, observer: &mut dyn Observer) {
    let (skipped, truncated) = (data.skipped(), data.truncated());
    let space = if what.is_empty() { "" } else { " " };
    if truncated > 0 {
        observer.note(&format!("{truncated} examples of the {what}{space}data are cut to {length} tokens"));
    }
    if skipped > 0 {
        let because = data.skipped_because().map(|reason| format!(": {reason}")).unwrap_or_default();
        let more = if skipped > 1 && !because.is_empty() { ", and others" } else { "" };
        observer.note(&format!(
            "{skipped} examples of the {what}{space}data cannot be used and are left out{because}{more}"
        ));
    }
}
