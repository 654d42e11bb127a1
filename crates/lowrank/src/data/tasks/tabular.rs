//! Tasks whose examples are the rows of a table.

use std::path::{Path, PathBuf};

use super::files::{in_turn, together};
use super::labels::Target;
use super::table::{self, Format, Layout, Need, Role, Row};
use super::{PreviewedExample, Task, TaskInfo};
use crate::data::dataset::{Dataset, TokenizedDataset};
use crate::data::example::{Example, Examples};
use crate::data::reader::Reader;
use crate::models::Head;
use crate::{Error, Result};

/// A task over texts or pairs of texts, one a row.
pub struct TabularTask {
    pub(super) info: TaskInfo,
    pub(super) target: Target,
    pub(super) layout: Layout,
    /// What a file holds, by its name.
    pub(super) format: fn(&Path) -> Result<Format>,
}

impl TabularTask {
    fn read_rows(
        &self,
        path: &Path,
        layout: &Layout,
        limit: usize,
        target: Option<&Target>,
    ) -> Result<Examples> {
        let mut rows = Vec::new();
        let skipped = table::read(path, (self.format)(path)?, layout, limit, &mut |row| {
            rows.push(example(path, row, target)?);
            Ok(())
        })?;
        let skipped_because = skipped.first().map(ToString::to_string);
        Ok(Examples { rows, skipped: skipped.len(), skipped_because })
    }

    /// Reads the first `limit` labelled examples of a file (0: all).
    ///
    /// # Errors
    /// The file cannot be read or holds no rows; a row is malformed; a label is not of the task's set.
    pub fn read(&self, path: &Path, limit: usize) -> Result<Examples> {
        self.read_rows(path, &self.layout, limit, Some(&self.target))
    }

    /// As [`TabularTask::read`], without looking for labels.
    ///
    /// # Errors
    /// As [`TabularTask::read`], but for the labels.
    pub fn read_unlabelled(&self, path: &Path, limit: usize) -> Result<Examples> {
        self.read_rows(path, &unlabelled(&self.layout), limit, None)
    }
}

impl Task for TabularTask {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn dataset(
        &self,
        files: &[PathBuf],
        limit: usize,
        labelled: bool,
        reader: &Reader,
    ) -> Result<Box<dyn Dataset>> {
        let read = |path: &Path, limit| {
            if labelled { self.read(path, limit) } else { self.read_unlabelled(path, limit) }
        };
        let parts = in_turn(files, limit, read, |part: &Examples| part.rows.len())?;
        let tokenised = files.iter().zip(&parts).map(|(path, part)| tokenise(path, part, reader));
        let dataset = together(tokenised.collect::<Result<_>>()?, TokenizedDataset::append)?;
        reader.check_vocabulary(dataset.largest_id())?;
        Ok(Box::new(dataset))
    }

    fn preview(&self, path: &Path, count: usize, reader: &Reader) -> Result<Vec<PreviewedExample>> {
        let tokenizer = reader.tokenizer()?;
        let examples = self.read(path, count)?.rows.into_iter().map(|example| {
            let pair = example.text_pair.as_deref();
            let encoding = tokenizer.encode(&example.text, pair, reader.max_length)?;
            Ok(PreviewedExample {
                line: example.line,
                label: self.info.name_of(example.label),
                tokens: tokenizer.tokens(&encoding.ids),
                ids: encoding.ids,
                truncated: encoding.truncated,
                text: example.text,
                text_pair: example.text_pair,
                ..PreviewedExample::default()
            })
        });
        examples.collect()
    }
}

/// The examples of a file as tokens.
fn tokenise(path: &Path, examples: &Examples, reader: &Reader) -> Result<TokenizedDataset> {
    let mut dataset = TokenizedDataset::new(reader.tokenizer()?, examples, reader.max_length)?;
    let Some(line) = dataset.first_without_tokens else { return Ok(dataset) };
    let because = Error::row(path, line, "its text has no tokens, so that there is nothing to read");
    if reader.strict || dataset.is_empty() {
        return Err(because);
    }
    dataset.skipped_because.get_or_insert(because.to_string());
    Ok(dataset)
}

/// The facts of a task with these answers and metrics, the main one first.
pub(super) fn info(name: &str, target: &Target, metrics: &[&'static str]) -> TaskInfo {
    let labels = match target {
        Target::Classes(set) => set.names.clone(),
        Target::Score => Vec::new(),
    };
    TaskInfo {
        name: name.to_owned(),
        head: Head::SequenceClassification,
        num_labels: labels.len().max(1),
        regression: *target == Target::Score,
        positive: match target {
            Target::Classes(set) => set.positive(),
            Target::Score => 0,
        },
        labels,
        main_metric: metrics.first().copied().unwrap_or("loss"),
        metrics: metrics.to_vec(),
    }
}

/// The same columns without the label.
fn unlabelled(layout: &Layout) -> Layout {
    Layout { label: Role { need: Need::Ignored, ..layout.label.clone() }, ..layout.clone() }
}

/// The example of a row; without a target its label is not looked at.
fn example(path: &Path, row: Row<'_>, target: Option<&Target>) -> Result<Example> {
    let Row { line, text, pair, label } = row;
    let label = match (target, label) {
        (Some(target), Some(label)) => {
            Some(target.read(&label).map_err(|reason| Error::row(path, line, reason))?)
        }
        (Some(_), None) => return Err(Error::row(path, line, "it has no label")),
        (None, _) => None,
    };
    Ok(Example { text: text.into_owned(), text_pair: pair.map(|pair| pair.into_owned()), label, line })
}
