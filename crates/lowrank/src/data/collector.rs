//! What becomes of a model's outputs: metrics and answers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::batch::Batch;
use super::metrics::{Metrics, argmax};
use super::squad::Candidate;
use super::tasks::TaskInfo;
use crate::Result;

/// Metrics by their names; `loss` is among them where there are labels.
pub type Scores = BTreeMap<String, f64>;

/// Takes a model's outputs over a data set, batch by batch.
pub trait Collector {
    /// Takes the outputs for the examples `rows` of the data set.
    ///
    /// # Errors
    /// If they do not fit the examples.
    fn add(&mut self, rows: &[u32], batch: &Batch, outputs: Outputs<'_>) -> Result<()>;

    /// The task's metrics. `loss` is the mean over all targets.
    ///
    /// # Errors
    /// If the outputs are not those of all examples.
    fn scores(&self, loss: f64) -> Result<Scores>;

    /// The answer to each example, in the order of the file.
    ///
    /// # Errors
    /// As [`Collector::scores`].
    fn predictions(&self) -> Result<Vec<Prediction>>;

    /// How many new tokens the model is to write for each example; absent: its logits say all.
    fn writes(&self) -> Option<usize> {
        None
    }

    /// The tokens that end what the model writes, beside the model's own.
    fn ends(&self) -> &[u32] {
        &[]
    }

    /// Whether [`Collector::add`] reads logits.
    fn reads_logits(&self) -> bool {
        true
    }
}

/// A model's outputs for a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outputs<'a> {
    /// `[B, width]`, or `[T, width]` of a head on tokens.
    pub logits: &'a [f32],
    /// The number of outputs in a row.
    pub width: usize,
    /// What the model wrote for each example.
    pub written: &'a [Vec<u32>],
}

/// The answer to one example.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Prediction {
    /// A class.
    Class {
        /// The example's line in its file, from 1.
        line: usize,
        /// The class.
        label: String,
        /// Its probability.
        probability: f64,
        /// The model's outputs.
        logits: Vec<f32>,
    },
    /// The class of an image.
    Image {
        /// The image's file, and its number in a file of many.
        image: String,
        /// The class.
        label: String,
        /// Its probability.
        probability: f64,
        /// The model's outputs.
        logits: Vec<f32>,
    },
    /// A number.
    Score {
        /// The example's line in its file, from 1.
        line: usize,
        /// The number.
        score: f32,
        /// The model's outputs.
        logits: Vec<f32>,
    },
    /// A part of a text.
    Answer {
        /// The question's id in its file.
        id: String,
        /// The answer; empty: there is none.
        answer: String,
        /// Its probability among the best answers.
        probability: f64,
        /// The score of "no answer" less the best answer's; only where there may be none.
        #[serde(skip_serializing_if = "Option::is_none")]
        null_odds: Option<f64>,
        /// The best answers, the best first; an empty text is "no answer".
        n_best: Vec<Candidate>,
    },
    /// A class for each word.
    Tags {
        /// The example's line in its file, from 1.
        line: usize,
        /// The class of each word; none for one that the model did not see, being cut off or without a token.
        tags: Vec<Option<String>>,
    },
    /// What the model wrote.
    Text {
        /// The example's line in its file, from 1.
        line: usize,
        /// The text, without the token that ends it.
        text: String,
    },
}

/// The collector of tasks that give each example a class or a number.
pub(crate) struct Classification<'a> {
    task: &'a TaskInfo,
    /// Each example's line.
    lines: Vec<usize>,
    metrics: Metrics,
    logits: Vec<f32>,
}

impl<'a> Classification<'a> {
    pub(crate) fn new(task: &'a TaskInfo, lines: Vec<usize>) -> Self {
        Self { task, lines, metrics: Metrics::new(task), logits: Vec::new() }
    }
}

impl Collector for Classification<'_> {
    fn add(&mut self, _: &[u32], batch: &Batch, outputs: Outputs<'_>) -> Result<()> {
        self.logits.extend_from_slice(outputs.logits);
        if batch.labels.is_empty() { Ok(()) } else { self.metrics.add(outputs.logits, &batch.labels) }
    }

    fn scores(&self, loss: f64) -> Result<Scores> {
        let mut scores: Scores =
            self.metrics.compute().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        scores.insert("loss".to_owned(), loss);
        Ok(scores)
    }

    fn predictions(&self) -> Result<Vec<Prediction>> {
        let rows = self.logits.chunks(self.task.num_labels.max(1)).zip(&self.lines);
        Ok(rows.map(|(row, line)| predict_one(row, *line, &self.task.labels)).collect())
    }
}

fn predict_one(logits: &[f32], line: usize, names: &[String]) -> Prediction {
    let logits = logits.to_vec();
    if names.is_empty() {
        return Prediction::Score { line, score: logits.first().copied().unwrap_or(f32::NAN), logits };
    }
    let class = argmax(&logits) as usize;
    let label = names.get(class).cloned().unwrap_or_else(|| class.to_string());
    Prediction::Class { line, label, probability: softmax_of(&logits, class), logits }
}

/// The probability of one class.
pub(super) fn softmax_of(logits: &[f32], class: usize) -> f64 {
    let own = logits.get(class).copied().unwrap_or(f32::NAN);
    1.0 / logits.iter().map(|logit| f64::from(logit - own).exp()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_its_label_and_probability_or_its_number() {
        let names = ["no".to_owned(), "yes".to_owned()];
        let Prediction::Class { line, label, probability, .. } = predict_one(&[0.0, 3f32.ln()], 7, &names)
        else {
            panic!("a class");
        };
        assert_eq!((line, label.as_str()), (7, "yes"));
        assert!((probability - 0.75).abs() < 1e-6);
        let number = predict_one(&[2.5], 1, &[]);
        assert_eq!(number, Prediction::Score { line: 1, score: 2.5, logits: vec![2.5] });
    }
}
