//! Questions as windows that a model reads.

use super::collector::AnswerCollector;
use crate::Result;
use crate::data::batch::{Batch, TokenRows};
use crate::data::batches::Pass;
use crate::data::collector::Collector;
use crate::data::dataset::{Dataset, no_such_row};
use crate::data::example::{Labels, NOWHERE};
use crate::data::squad::{AnswerOptions, Questions, Version, Windows};
use crate::data::tasks::TaskInfo;
use crate::fnv::Fnv;

/// Questions and their windows; an example is a window.
pub(super) struct SquadDataset {
    pub questions: Questions,
    pub windows: Windows,
    pub version: Version,
    pub answers: AnswerOptions,
    /// Whether the answers are known.
    pub labelled: bool,
    /// Whether the model's answers are measured against these.
    pub measured: bool,
}

impl SquadDataset {
    /// Adds the questions of another file.
    pub fn append(&mut self, other: Self) {
        self.windows.append(other.windows, self.questions.rows.len());
        self.questions.append(other.questions);
    }
}

impl Dataset for SquadDataset {
    fn len(&self) -> usize {
        self.windows.len()
    }

    fn gather(&self, rows: &[u32], first: usize, _: Option<Pass>) -> Result<Batch> {
        let mut tokens = TokenRows::default();
        let (mut starts, mut ends) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for &row in rows {
            let window = self.windows.get(row as usize).ok_or_else(|| no_such_row(row, self.len()))?;
            tokens.push(window.ids, window.type_ids);
            let place = |place: usize| i64::try_from(place).unwrap_or(NOWHERE);
            starts.push(window.answer.map_or(NOWHERE, |(start, _)| place(start)));
            ends.push(window.answer.map_or(NOWHERE, |(_, end)| place(end)));
        }
        let labels = if self.labelled { Labels::Spans { starts, ends } } else { Labels::None };
        Batch::of_tokens(tokens, labels, first)
    }

    /// FNV-1a over the windows, and over what the answers are measured against.
    fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.add_word(self.windows.fingerprint());
        let answers = self.questions.rows.iter().filter(|_| self.measured);
        for answers in answers.map(|question| question.answers.as_deref().unwrap_or_default()) {
            hash.add_word(answers.len() as u64);
            answers.iter().for_each(|answer| hash.add_text(&answer.text));
        }
        hash.0
    }

    fn tokens(&self) -> usize {
        self.windows.tokens()
    }

    fn lengths(&self) -> Vec<usize> {
        self.windows.iter().map(|window| window.ids.len()).collect()
    }

    fn collector<'a>(&'a self, _: &'a TaskInfo) -> Box<dyn Collector + 'a> {
        Box::new(AnswerCollector::new(self))
    }

    fn questions(&self) -> usize {
        self.questions.rows.len()
    }

    fn skipped(&self) -> usize {
        self.questions.skipped.len() + self.windows.skipped.len()
    }

    fn skipped_because(&self) -> Option<String> {
        self.questions.skipped.iter().chain(&self.windows.skipped).next().map(ToString::to_string)
    }
}
