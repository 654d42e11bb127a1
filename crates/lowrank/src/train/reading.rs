//! How a run's examples were read: what its result is asked with.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::events::Observer;
use super::run_file::RunFile;
use crate::data::{Columns, Reader, tasks};
use crate::hub::SUMMARY_FILE;
use crate::models::{Head, ModelInfo};
use crate::{Error, Result};

/// How examples are read, which decides what a model sees of them: `data` in `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Where the texts and the label are in a table.
    #[serde(default)]
    pub columns: Columns,
    /// The longest example in tokens.
    pub max_length: usize,
    /// By how many tokens the windows of a longer text overlap, where the task cuts windows.
    pub stride: usize,
    /// What is put before each source of an encoder-decoder.
    pub source_prefix: String,
    /// Whether documents follow one another in blocks of one length.
    pub packing: bool,
}

impl Reading {
    /// What a task does by itself.
    pub fn usual(task: &str) -> Self {
        let (max_length, stride) = tasks::usual_length(task);
        Self { max_length, stride, packing: true, ..Self::default() }
    }

    /// What a run says.
    pub(super) fn of(run: &RunFile) -> Self {
        let data = &run.data;
        Self {
            columns: data.columns.clone(),
            max_length: data.max_length,
            stride: data.stride,
            source_prefix: data.source_prefix.clone(),
            packing: data.packing,
        }
    }

    /// Checks the values that a task gives a meaning to, and that there are no others.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self, task: &str) -> Result<()> {
        let (_, usual_stride) = tasks::usual_length(task);
        let foreign = [
            ("stride", self.stride > 0 && usual_stride == 0, "cuts no windows"),
            (
                "source_prefix",
                !self.source_prefix.is_empty() && tasks::head(task)? != Head::Seq2SeqLm,
                "has no sources",
            ),
            ("packing", !self.packing && task != tasks::TEXT, "packs no documents"),
        ];
        if let Some((key, _, reason)) = foreign.into_iter().find(|(_, given, _)| *given) {
            return Err(Error::setting(key, format!("{task} {reason}; leave it out")));
        }
        let Self { stride, max_length, .. } = *self;
        if stride > 0 && stride >= max_length {
            let reason =
                format!("{stride} is not below the longest example, {max_length} tokens (max_length)");
            return Err(Error::setting("stride", reason));
        }
        Ok(())
    }

    /// A reader for a model, which tells where the model has fewer positions than are asked for.
    pub(super) fn reader(&self, folder: &Path, info: &ModelInfo, observer: &mut dyn Observer) -> Reader {
        let asked = self.max_length;
        if info.max_length > 0 && asked > info.max_length {
            observer.note(&format!("max_length {asked} is cut to the model's {} positions", info.max_length));
        }
        let mut reader = Reader::new(folder, info, asked);
        reader.stride = self.stride;
        reader.packing = self.packing;
        reader
    }
}

/// What the summary in a run's folder says of how its result is to be asked. Adapters from elsewhere have none.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Noted {
    /// The names of the labels in the order of their ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    task: Option<String>,
    data: Option<Reading>,
}

impl Noted {
    /// Reads the summary, where there is one.
    pub fn of(folder: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(folder.join(SUMMARY_FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// What is still so of a model that the run's adapter was merged into: the task, and how its examples were read. Its
    /// labels are in the model's configuration.
    pub fn of_merged(self) -> Option<Self> {
        self.data.is_some().then_some(Self { labels: None, ..self })
    }

    /// How the run's examples were read, if it was of this task.
    pub fn reading(self, task: &str) -> Option<Reading> {
        self.data.filter(|_| self.task.as_deref() == Some(task))
    }
}
