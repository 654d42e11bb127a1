//! A run's task and data, as its model reads them.

use std::path::Path;

use super::events::Observer;
use super::run_file::RunFile;
use crate::data::{DataFiles, Task, TaskOptions, TokenizedDataset, Tokenizer, tasks};
use crate::hub::{self, RepositoryKind, SUMMARY_FILE};
use crate::models::{EncoderConfig, ModelInfo};
use crate::{Error, Result};

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
    pub fn open(run: &RunFile, config: &EncoderConfig) -> Result<Self> {
        let files = DataFiles::locate(&run.data.train, run.data.validation.as_deref())?;
        let adapter = run.init_adapter_source().map(|name| hub::resolve(&name, RepositoryKind::Adapter));
        let noted = adapter.transpose()?.and_then(|folder| labels_of_run(&folder.path));
        let own = || tasks::has_labels(&run.task).then(|| config.labels.clone());
        let options = TaskOptions {
            columns: run.data.columns.clone(),
            labels: noted.or_else(own),
            regression: false,
            strict: run.data.strict,
            training_file: Some(&files.train),
        };
        let task = tasks::open(&run.task, &options)?;
        Ok(Self { files, task })
    }

    /// Reads and tokenises one of the files.
    ///
    /// # Errors
    /// As [`Task::read`] and [`tokenize`].
    pub fn dataset(
        &self,
        path: &Path,
        limit: usize,
        max_length: usize,
        tokenizer: &Tokenizer,
        info: &ModelInfo,
    ) -> Result<TokenizedDataset> {
        let examples = self.task.read(path, limit)?;
        tokenize(tokenizer, &examples, max_length, info)
    }
}

/// The labels in the summary of the run that made an adapter. An adapter from elsewhere has none.
pub(super) fn labels_of_run(folder: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(folder.join(SUMMARY_FILE)).ok()?;
    let summary: serde_json::Value = serde_json::from_str(&text).ok()?;
    summary.get("labels")?.as_array()?.iter().map(|label| label.as_str().map(str::to_owned)).collect()
}

/// Tokenises examples for a model.
///
/// # Errors
/// If the tokeniser gives an id that the model's table does not have.
pub fn tokenize(
    tokenizer: &Tokenizer,
    examples: &crate::data::Examples,
    max_length: usize,
    info: &ModelInfo,
) -> Result<TokenizedDataset> {
    let dataset = TokenizedDataset::new(tokenizer, examples, max_length)?;
    match dataset.largest_id() {
        Some(id) if id as usize >= info.vocab_size => Err(Error::Usage(format!(
            "the tokenizer gives the id {id}, but the model's vocabulary has {} entries: they do not belong together",
            info.vocab_size
        ))),
        _ => Ok(dataset),
    }
}

/// The longest sequence of a run: what it asks for, but no longer than the model's positions.
pub fn max_length(asked: usize, info: &ModelInfo, observer: &mut dyn Observer) -> usize {
    if asked > info.max_length {
        observer.note(&format!("max_length {asked} is cut to the model's {} positions", info.max_length));
    }
    asked.min(info.max_length)
}
