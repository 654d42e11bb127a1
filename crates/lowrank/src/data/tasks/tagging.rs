//! A class for each word of a text: named entities, parts of speech.

mod collector;
mod dataset;
mod rows;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::files::{in_turn, together};
use super::labels::{LabelSet, Target, several};
use super::{PreviewedExample, Task, TaskInfo, TaskOptions};
use crate::data::dataset::Dataset;
use crate::data::example::Label;
use crate::data::reader::Reader;
use crate::models::Head;
use crate::{Error, Result};
use dataset::TaggedDataset;
use rows::{Roles, Tagged};

/// The task's name in a run file.
pub(super) const NAME: &str = "token-classification";

/// Texts as lists of words with a label each, in JSON lines or Parquet, or a word a line with its label as CoNLL has
/// them.
pub(super) struct TaggingTask {
    info: TaskInfo,
    labels: Target,
    roles: Roles,
}

/// The task with the label set of the options, else that of their training file.
pub(super) fn open(options: &TaskOptions<'_>) -> Result<TaggingTask> {
    let roles = Roles::new(&options.columns);
    let names = match (&options.labels, options.training_file) {
        (Some(labels), _) if !labels.is_empty() => labels.clone(),
        (_, Some(path)) => discover(path, options.further_files, &roles, &options.model_labels)?,
        _ => return Err(Error::Usage(format!("{NAME} needs a label set or a file to learn it from"))),
    };
    let info = TaskInfo {
        name: NAME.to_owned(),
        head: Head::TokenClassification,
        num_labels: names.len(),
        labels: names.clone(),
        positive: 1,
        regression: false,
        main_metric: "f1",
        metrics: vec!["f1", "accuracy"],
    };
    Ok(TaggingTask { info, labels: Target::Classes(LabelSet::new(names)), roles })
}

/// The label set of some files: the names that a Parquet file tells, else what is written in it, sorted, or in the model's
/// order where these are the model's own.
///
/// # Source
/// `run_ner.py`; numbers are sorted as such, and mean the model's labels where these are no numbers and suffice.
fn discover(path: &Path, further: &[PathBuf], roles: &Roles, model: &[String]) -> Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for path in std::iter::once(path).chain(further.iter().map(PathBuf::as_path)) {
        let told = rows::read(path, roles, 0, true, &mut |row| {
            found.extend(row.tags.unwrap_or_default());
            Ok(())
        })?;
        if let Some(names) = told {
            return Ok(names);
        }
    }
    let mut names: Vec<String> = found.into_iter().collect();
    let numbers: Option<Vec<usize>> = names.iter().map(|name| name.parse().ok()).collect();
    let generic = model.iter().all(|name| name.starts_with("LABEL_"));
    if let Some(numbers) = numbers {
        let largest = numbers.into_iter().max().unwrap_or(0);
        if !generic && largest < model.len() && model.iter().all(|name| name.parse::<usize>().is_err()) {
            return Ok(model.to_vec());
        }
        names.sort_by_key(|name| name.parse::<usize>().unwrap_or(usize::MAX));
    }
    let as_set = |names: &[String]| names.iter().cloned().collect::<HashSet<_>>();
    if names.len() == model.len() && as_set(&names) == as_set(model) {
        return Ok(model.to_vec());
    }
    several(path, names)
}

impl TaggingTask {
    /// The classes of a row's words.
    fn classes(&self, path: &Path, row: &Tagged) -> Result<Option<Vec<u32>>> {
        let Some(tags) = &row.tags else { return Ok(None) };
        let class = |tag: &String| match self.labels.read(tag) {
            Ok(Label::Class(class)) => Ok(class),
            Ok(Label::Score(_)) => Err(Error::row(path, row.line, "its labels are no classes")),
            Err(reason) => Err(Error::row(path, row.line, reason)),
        };
        tags.iter().map(class).collect::<Result<Vec<u32>>>().map(Some)
    }

    fn read(&self, path: &Path, limit: usize, labelled: bool, reader: &Reader) -> Result<TaggedDataset> {
        let (mut rows, mut wordless) = (Vec::new(), Vec::new());
        rows::read(path, &self.roles, limit, labelled, &mut |row| {
            if row.words.is_empty() {
                wordless.push(Error::row(path, row.line, "it has no words"));
            } else {
                rows.push((self.classes(path, &row)?, row));
            }
            match wordless.pop_if(|_| reader.strict) {
                Some(error) => Err(error),
                None => Ok(()),
            }
        })?;
        let mut dataset = TaggedDataset::new(reader.tokenizer()?, path, &rows, reader.max_length)?;
        wordless.into_iter().for_each(|error| dataset.skip(error));
        if dataset.is_empty() {
            return Err(Error::file(path, "no row of it has words"));
        }
        reader.check_vocabulary(dataset.largest_id())?;
        Ok(dataset)
    }
}

impl Task for TaggingTask {
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
        let read = |path: &Path, limit| self.read(path, limit, labelled, reader);
        let parts = in_turn(files, limit, read, |part| part.lines.len() + part.skipped)?;
        Ok(Box::new(together(parts, TaggedDataset::append)?))
    }

    fn preview(&self, path: &Path, count: usize, reader: &Reader) -> Result<Vec<PreviewedExample>> {
        let tokenizer = reader.tokenizer()?;
        let mut examples = Vec::new();
        rows::read(path, &self.roles, count, true, &mut |row| {
            let encoded = tokenizer.encode_words(&row.words, reader.max_length)?;
            let classes = self.classes(path, &row)?.unwrap_or_default();
            let mut tags = vec![String::new(); encoded.ids.len()];
            for [token, word] in encoded.firsts {
                let class = classes.get(word as usize).copied().map(Label::Class);
                if let Some(tag) = tags.get_mut(token as usize) {
                    *tag = self.info.name_of(class);
                }
            }
            examples.push(PreviewedExample {
                line: row.line,
                text: row.words.join(" "),
                tokens: tokenizer.tokens(&encoded.ids),
                ids: encoded.ids,
                truncated: encoded.truncated,
                tags,
                ..PreviewedExample::default()
            });
            Ok(())
        })?;
        Ok(examples)
    }
}
