//! Tasks: how a file becomes examples, and what is measured on them.

mod classification;
mod columns;
mod files;
mod glue;
mod images;
mod labels;
pub mod language;
mod squad;
mod table;
mod tabular;
mod tagging;

use std::path::{Path, PathBuf};

pub use columns::Columns;
pub use files::DataFiles;
pub(crate) use files::is_hub_id;
pub use images::ImageTask;
pub use tabular::TabularTask;

use serde::Serialize;

use super::dataset::Dataset;
use super::example::Label;
use super::reader::Reader;
use crate::models::Head;
use crate::{Error, Result};

/// A task's fixed facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInfo {
    /// Its name in a run file.
    pub name: String,
    /// The head that it needs.
    pub head: Head,
    /// The names of its labels in the order of their ids; empty in regression.
    pub labels: Vec<String>,
    /// The width of the model's output: the number of labels, 1 in regression; 0 where it is the vocabulary's.
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

    /// Reads the first `limit` examples of files (0: all) for a model, the files in turn. Where they are not `labelled`,
    /// labels are not looked for.
    ///
    /// # Errors
    /// A file cannot be read or holds no rows; a row is malformed; a label is not of the task's set; the model has no
    /// tokeniser, or one that does not fit.
    fn dataset(
        &self,
        files: &[PathBuf],
        limit: usize,
        labelled: bool,
        reader: &Reader,
    ) -> Result<Box<dyn Dataset>>;

    /// As [`Task::dataset`] of labelled examples that a model is to learn from, where these differ from those that it is
    /// measured on.
    ///
    /// # Errors
    /// As [`Task::dataset`].
    fn training_set(&self, files: &[PathBuf], limit: usize, reader: &Reader) -> Result<Box<dyn Dataset>> {
        self.dataset(files, limit, true, reader)
    }

    /// The first `count` examples of a file as the model sees them.
    ///
    /// # Errors
    /// As [`Task::dataset`].
    fn preview(&self, path: &Path, count: usize, reader: &Reader) -> Result<Vec<PreviewedExample>>;
}

impl TaskInfo {
    /// A label as a person reads it; empty where there is none.
    pub fn name_of(&self, label: Option<Label>) -> String {
        match label {
            None => String::new(),
            Some(Label::Score(score)) => score.to_string(),
            Some(Label::Class(class)) => {
                self.labels.get(class as usize).cloned().unwrap_or_else(|| class.to_string())
            }
        }
    }
}

/// An example as its model sees it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PreviewedExample {
    /// Its line in the file, from 1.
    pub line: usize,
    /// Its name in the file, where it has one, and which of its windows this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its text.
    pub text: String,
    /// Its second text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// Its label, or its number.
    pub label: String,
    /// Its tokens as the vocabulary writes them.
    pub tokens: Vec<String>,
    /// Their ids.
    pub ids: Vec<u32>,
    /// For each token whether the loss is on it; empty where no token is trained.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trained: Vec<bool>,
    /// The places of the first and last token of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<[usize; 2]>,
    /// For each token its label, empty where it has none; empty where tokens have no labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether it lost its end.
    pub truncated: bool,
    /// What it is of, if it is an image: then it has no text and no tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PreviewedImage>,
}

/// An image as it lies in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PreviewedImage {
    /// Its file, and its number in a file of many.
    pub file: String,
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
}

/// What a task needs to know beyond its name.
#[derive(Debug, Clone, Default)]
pub struct TaskOptions<'a> {
    /// Where the texts and the label are.
    pub columns: Columns,
    /// What is put before each source of an encoder-decoder.
    pub source_prefix: String,
    /// The label set in the order of the model's ids, where a model has one.
    pub labels: Option<Vec<String>>,
    /// The model has a single output that meets a number.
    pub regression: bool,
    /// Whether a row that GLUE's published file has torn is an error, not left out.
    pub strict: bool,
    /// The file to learn the label set from, where `labels` is absent.
    pub training_file: Option<&'a Path>,
    /// The files after it, where a data set has several.
    pub further_files: &'a [PathBuf],
    /// The labels of the model's configuration, whose order a task takes that finds the same ones in its data.
    pub model_labels: Vec<String>,
    /// By how much "no answer" must be the better one to be said, where it may be.
    pub null_threshold: f64,
}

/// The tasks that there are.
pub const NAMES: [&str; 21] = [
    "sst2",
    "cola",
    "rte",
    "mrpc",
    "stsb",
    "qnli",
    "qqp",
    "mnli",
    classification::NAME,
    images::CIFAR10,
    images::MNIST,
    images::FOLDER,
    tagging::NAME,
    squad::V1,
    squad::V2,
    language::NAMES[0],
    language::NAMES[1],
    language::NAMES[2],
    language::NAMES[3],
    language::NAMES[4],
    language::NAMES[5],
];

/// The task whose examples are documents.
pub const TEXT: &str = language::TEXT;

/// Whether a task has labels of its own, not those of its data.
pub fn has_labels(name: &str) -> bool {
    !matches!(name, classification::NAME | tagging::NAME | images::FOLDER)
}

/// The longest example in tokens that a task has by itself, and by how many tokens the windows of a longer one overlap.
pub fn usual_length(name: &str) -> (usize, usize) {
    if [squad::V1, squad::V2].contains(&name) { (384, 128) } else { (128, 0) }
}

/// The head that a task needs.
///
/// # Errors
/// [`Error::UnknownName`] for a name that no task has.
pub fn head(name: &str) -> Result<Head> {
    if let Some(head) = language::head(name) {
        return Ok(head);
    }
    match name {
        images::CIFAR10 | images::MNIST | images::FOLDER => Ok(Head::ImageClassification),
        squad::V1 | squad::V2 => Ok(Head::QuestionAnswering),
        tagging::NAME => Ok(Head::TokenClassification),
        _ if NAMES.contains(&name) => Ok(Head::SequenceClassification),
        _ => Err(Error::unknown("task", name, NAMES)),
    }
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
    if let Some(task) = language::open(name, options) {
        return Ok(Box::new(task));
    }
    Ok(match name {
        squad::V1 | squad::V2 => Box::new(squad::SquadTask::new(name, options)),
        tagging::NAME => Box::new(tagging::open(options)?),
        _ => match ImageTask::open(name, options)? {
            Some(task) => Box::new(task),
            None => Box::new(open_tabular(name, options)?),
        },
    })
}

/// As [`open`], for a task whose examples are the rows of a table.
///
/// # Errors
/// As [`open`].
pub fn open_tabular(name: &str, options: &TaskOptions<'_>) -> Result<TabularTask> {
    if name == classification::NAME {
        return classification::open(options);
    }
    glue::open(name, options).ok_or_else(|| Error::unknown("task", name, NAMES))
}

/// The files of a task's training and validation data: as [`DataFiles::locate`], or in the form that the task's data
/// is published in.
///
/// # Errors
/// As [`DataFiles::locate`].
pub fn locate(name: &str, train: &Path, validation: Option<&Path>) -> Result<DataFiles> {
    images::locate(name, train, validation).unwrap_or_else(|| DataFiles::locate(train, validation))
}

/// The files to evaluate a task on: as [`DataFiles::evaluation`], or in the form that the task's data is published in.
///
/// # Errors
/// As [`DataFiles::evaluation`].
pub fn evaluation(name: &str, data: &Path) -> Result<Vec<PathBuf>> {
    images::evaluation(name, data).unwrap_or_else(|| DataFiles::evaluation(data))
}
