//! SQuAD 1.1 and 2.0: an answer is a part of a context, or there is none.

mod collector;
mod dataset;
mod rows;

use std::path::{Path, PathBuf};

use super::files::{in_turn, together};
use super::{PreviewedExample, Task, TaskInfo, TaskOptions};
use crate::data::dataset::Dataset;
use crate::data::reader::Reader;
use crate::data::squad::{AnswerOptions, Purpose, ReadOptions, Version, WindowOptions, Windows};
use crate::models::Head;
use crate::{Error, Result};
use dataset::SquadDataset;

/// The tasks' names in a run file.
pub(super) const V1: &str = "squad";
pub(super) const V2: &str = "squad_v2";

/// Questions on contexts, in SQuAD's published JSON, or one a row as the Hub has them.
pub(super) struct SquadTask {
    info: TaskInfo,
    version: Version,
    answers: AnswerOptions,
}

impl SquadTask {
    pub fn new(name: &str, options: &TaskOptions<'_>) -> Self {
        let version = if name == V2 { Version::V2 } else { Version::V1 };
        let info = TaskInfo {
            name: name.to_owned(),
            head: Head::QuestionAnswering,
            labels: Vec::new(),
            num_labels: 2,
            positive: 0,
            regression: false,
            main_metric: "f1",
            metrics: vec!["f1", "exact_match"],
        };
        let null_threshold = (version == Version::V2).then_some(options.null_threshold);
        Self { info, version, answers: AnswerOptions { null_threshold, ..AnswerOptions::default() } }
    }

    fn read(&self, path: &Path, limit: usize, purpose: Purpose, reader: &Reader) -> Result<SquadDataset> {
        let options = ReadOptions { version: self.version, purpose, limit, strict: reader.strict };
        let questions = rows::read(path, &options)?;
        let cut = WindowOptions {
            max_length: reader.max_length,
            stride: reader.stride,
            spans: purpose != Purpose::Train,
        };
        let windows = Windows::new(reader.tokenizer()?, &questions, &cut)?;
        match windows.skipped.first() {
            Some(skipped) if reader.strict => return Err(Error::file(path, skipped.to_string())),
            Some(skipped) if windows.is_empty() => {
                let reason = format!("every question is too long for its windows; the first, {skipped}");
                return Err(Error::file(path, reason));
            }
            _ => {}
        }
        reader.check_vocabulary(windows.largest_id())?;
        let (version, answers) = (self.version, self.answers);
        let (labelled, measured) = (purpose != Purpose::Predict, purpose == Purpose::Evaluate);
        Ok(SquadDataset { questions, windows, version, answers, labelled, measured })
    }

    fn read_all(
        &self,
        files: &[PathBuf],
        limit: usize,
        purpose: Purpose,
        reader: &Reader,
    ) -> Result<Box<dyn Dataset>> {
        let read = |path: &Path, limit| self.read(path, limit, purpose, reader);
        let parts = in_turn(files, limit, read, |part| part.questions.rows.len())?;
        Ok(Box::new(together(parts, SquadDataset::append)?))
    }
}

impl Task for SquadTask {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    /// `limit` is of questions; each has a window or more.
    fn dataset(
        &self,
        files: &[PathBuf],
        limit: usize,
        labelled: bool,
        reader: &Reader,
    ) -> Result<Box<dyn Dataset>> {
        let purpose = if labelled { Purpose::Evaluate } else { Purpose::Predict };
        self.read_all(files, limit, purpose, reader)
    }

    fn training_set(&self, files: &[PathBuf], limit: usize, reader: &Reader) -> Result<Box<dyn Dataset>> {
        self.read_all(files, limit, Purpose::Train, reader)
    }

    /// Windows, of which a question may have several.
    fn preview(&self, path: &Path, count: usize, reader: &Reader) -> Result<Vec<PreviewedExample>> {
        let tokenizer = reader.tokenizer()?;
        let SquadDataset { questions, windows, .. } = self.read(path, count, Purpose::Train, reader)?;
        let mut examples: Vec<PreviewedExample> = Vec::new();
        let (mut of_question, mut number) = (usize::MAX, 0);
        for window in windows.iter().take(count) {
            let Some(question) = questions.rows.get(window.question) else { continue };
            number = if window.question == of_question { number + 1 } else { 1 };
            of_question = window.question;
            let answer = question.answers.as_ref().and_then(|answers| answers.first());
            let here = window.answer.filter(|(start, _)| *start != window.cls);
            examples.push(PreviewedExample {
                line: window.question + 1,
                id: Some(format!("{}, window {number}", question.id)),
                text: question.text.clone(),
                text_pair: Some(questions.context(question).to_owned()),
                label: answer.map_or_else(|| "no answer".to_owned(), |answer| answer.text.clone()),
                tokens: tokenizer.tokens(window.ids),
                ids: window.ids.to_vec(),
                answer: here.map(|(start, end)| [start, end]),
                ..PreviewedExample::default()
            });
        }
        Ok(examples)
    }
}
