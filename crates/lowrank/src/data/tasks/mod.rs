//! Tasks: how a file becomes examples, and what is measured on them.

mod classification;
mod files;
mod glue;
mod labels;
pub mod language;
mod table;
mod tabular;

use std::path::Path;

pub use files::DataFiles;

use super::example::Examples;
use crate::{Error, Result};

/// A task's fixed facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInfo {
    /// Its name in a run file.
    pub name: String,
    /// The names of its labels in the order of their ids; empty in regression.
    pub labels: Vec<String>,
    /// The width of the model's output: the number of labels, 1 in regression.
    pub num_labels: usize,
    /// The class that F1 is of, where the task has that metric.
    pub positive: u32,
    /// Whether the labels are numbers to be met.
    pub regression: bool,
    /// The metric that says which of two models is better.
    pub main_metric: &'static str,
    /// All its metrics, the main one first.
    pub metrics: Vec<&'static str>,
}

/// A way to read examples.
pub trait Task: Send + Sync {
    /// What it is called, what its labels are and what is measured.
    fn info(&self) -> &TaskInfo;

    /// Reads the first `limit` labelled examples of a file (0: all).
    ///
    /// # Errors
    /// The file cannot be read or holds no rows; a row is malformed; a label is not of the task's set.
    fn read(&self, path: &Path, limit: usize) -> Result<Examples>;

    /// Reads the first `limit` examples of a file (0: all) without looking for labels.
    ///
    /// # Errors
    /// The file cannot be read or holds no rows; a row is malformed.
    fn read_unlabelled(&self, path: &Path, limit: usize) -> Result<Examples>;
}

/// The names of the columns to read; where one is absent the task's usual names are tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// The text, or the first of a pair.
    pub text: Option<String>,
    /// The second text of a pair; an empty name says that there is none.
    pub text_pair: Option<String>,
    /// The label.
    pub label: Option<String>,
}

/// What a task needs to know beyond its name.
#[derive(Debug, Clone, Default)]
pub struct TaskOptions<'a> {
    /// Where the texts and the label are.
    pub columns: Columns,
    /// The label set in the order of the model's ids, where a model has one.
    pub labels: Option<Vec<String>>,
    /// The model has a single output that meets a number.
    pub regression: bool,
    /// Whether a row that GLUE's published file has torn is an error, not left out.
    pub strict: bool,
    /// The file to learn the label set from, where `labels` is absent.
    pub training_file: Option<&'a Path>,
}

/// The tasks that there are.
pub const NAMES: [&str; 9] =
    ["sst2", "cola", "rte", "mrpc", "stsb", "qnli", "qqp", "mnli", classification::NAME];

/// Whether a task has labels of its own, not those of its data.
pub fn has_labels(name: &str) -> bool {
    name != classification::NAME
}

/// The task of this name.
///
/// # Errors
/// [`Error::UnknownName`] for a name that no task has; whatever reading the training file gives.
///
/// ```
/// use lowrank::data::{TaskOptions, tasks};
///
/// let task = tasks::open("sst2", &TaskOptions::default())?;
/// assert_eq!(task.info().labels, ["negative", "positive"]);
/// # Ok::<(), lowrank::Error>(())
/// ```
pub fn open(name: &str, options: &TaskOptions<'_>) -> Result<Box<dyn Task>> {
    if name == classification::NAME {
        return Ok(Box::new(classification::open(options)?));
    }
    match glue::open(name, options) {
        Some(task) => Ok(Box::new(task)),
        None => Err(Error::unknown("task", name, NAMES)),
    }
}
