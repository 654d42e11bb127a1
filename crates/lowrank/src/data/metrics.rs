//! What is measured: the metrics of GLUE and of generated text, under the names of Hugging Face's `evaluate`.
//!
//! Every metric is a finite number. Where one is not defined (no positive prediction, a constant, a prediction that
//! is not finite) it is 0, the value of a model that knows nothing; `scipy` gives NaN there, which JSON cannot hold.

mod bleu;
mod entities;
mod rouge;

pub use bleu::Bleu;
pub use entities::Entities;
pub use rouge::Rouge;

use super::example::Labels;
use super::tasks::TaskInfo;
use crate::{Error, Result};

/// Predictions beside their labels, gathered batch by batch.
#[derive(Debug, Clone)]
pub struct Metrics {
    names: Vec<&'static str>,
    num_labels: usize,
    regression: bool,
    positive: u32,
    predicted: Vec<u32>,
    expected: Vec<u32>,
    predicted_scores: Vec<f32>,
    expected_scores: Vec<f32>,
}

impl Metrics {
    /// No predictions yet.
    pub fn new(info: &TaskInfo) -> Self {
        Self {
            names: info.metrics.clone(),
            num_labels: info.num_labels,
            regression: info.regression,
            positive: info.positive,
            predicted: Vec::new(),
            expected: Vec::new(),
            predicted_scores: Vec::new(),
            expected_scores: Vec::new(),
        }
    }

    /// Adds the model's outputs for some examples.
    ///
    /// # Shapes
    /// `logits`: `[B, num_labels]`, `labels`: `[B]`.
    ///
    /// # Errors
    /// [`Error::Usage`] if these do not go together.
    pub fn add(&mut self, logits: &[f32], labels: &Labels) -> Result<()> {
        if logits.len() != labels.len() * self.num_labels {
            return Err(Error::Usage(format!(
                "{} logits for {} labelled examples of {} outputs",
                logits.len(),
                labels.len(),
                self.num_labels
            )));
        }
        match labels {
            Labels::Scores(scores) if self.regression => {
                self.predicted_scores.extend_from_slice(logits);
                self.expected_scores.extend_from_slice(scores);
            }
            Labels::Classes(classes) if !self.regression => {
                for (row, &class) in logits.chunks(self.num_labels.max(1)).zip(classes) {
                    let class = u32::try_from(class)
                        .map_err(|_| Error::Usage(format!("the label {class} is no class")))?;
                    self.predicted.push(argmax(row));
                    self.expected.push(class);
                }
            }
            _ => return Err(Error::Usage("labels of another kind than the task's".to_owned())),
        }
        Ok(())
    }

    /// The task's metrics, the main one first.
    pub fn compute(&self) -> Vec<(&'static str, f64)> {
        let (predicted, expected) = (&self.predicted, &self.expected);
        (self.names.iter())
            .map(|&name| {
                let value = match name {
                    "accuracy" => accuracy(predicted, expected),
                    "f1" => f1(predicted, expected, self.positive),
                    "matthews_correlation" => matthews_correlation(predicted, expected),
                    "pearson" => pearson(&self.predicted_scores, &self.expected_scores),
                    "spearmanr" => spearmanr(&self.predicted_scores, &self.expected_scores),
                    _ => 0.0,
                };
                (name, value)
            })
            .collect()
    }
}

/// The place of the largest; the first of equals.
pub fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (place, value) in row.iter().enumerate() {
        if *value > row[best] || row[best].is_nan() {
            best = place;
        }
    }
    u32::try_from(best).unwrap_or(u32::MAX)
}

/// The share of predictions that are right.
pub fn accuracy(predicted: &[u32], expected: &[u32]) -> f64 {
    let right = predicted.iter().zip(expected).filter(|(p, e)| p == e).count();
    ratio(right as f64, expected.len() as f64)
}

/// The harmonic mean of precision and recall of the class `positive`.
pub fn f1(predicted: &[u32], expected: &[u32], positive: u32) -> f64 {
    let is = |class: &&u32| **class == positive;
    let both = predicted.iter().zip(expected).filter(|(p, e)| is(p) && is(e)).count();
    let either = predicted.iter().filter(is).count() + expected.iter().filter(is).count();
    ratio(2.0 * both as f64, either as f64)
}

/// Matthews's correlation, of any number of classes.
///
/// # Source
/// Gorodkin's R_K, as `sklearn.metrics.matthews_corrcoef`.
pub fn matthews_correlation(predicted: &[u32], expected: &[u32]) -> f64 {
    let classes = predicted.iter().chain(expected).max().map_or(0, |&class| class as usize + 1);
    let mut of_class = vec![(0.0f64, 0.0f64); classes];
    let mut right = 0.0;
    for (&p, &e) in predicted.iter().zip(expected) {
        of_class[p as usize].0 += 1.0;
        of_class[e as usize].1 += 1.0;
        right += f64::from(u8::from(p == e));
    }
    let all = predicted.len().min(expected.len()) as f64;
    let sum = |term: fn(&(f64, f64)) -> f64| of_class.iter().map(term).sum::<f64>();
    let covariance = right * all - sum(|(p, e)| p * e);
    let (p, e) = (all * all - sum(|(p, _)| p * p), all * all - sum(|(_, e)| e * e));
    ratio(covariance, (p * e).sqrt())
}

/// Pearson's correlation.
pub fn pearson(predicted: &[f32], expected: &[f32]) -> f64 {
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    correlation(&wide(predicted), &wide(expected))
}

/// Spearman's rank correlation; equals share the mean of their ranks.
pub fn spearmanr(predicted: &[f32], expected: &[f32]) -> f64 {
    if predicted.iter().chain(expected).any(|value| value.is_nan()) {
        return 0.0;
    }
    correlation(&ranks(predicted), &ranks(expected))
}

fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let count = x.len().min(y.len()) as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / count, y.iter().sum::<f64>() / count);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mean_x, y - mean_y);
        xy += x * y;
        xx += x * x;
        yy += y * y;
    }
    ratio(xy, xx.sqrt() * yy.sqrt()).clamp(-1.0, 1.0)
}

fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    // Zeros of both signs are equal: the comparison is by value.
    for equals in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = first as f64 + (equals.len() + 1) as f64 / 2.0;
        for &place in equals {
            ranks[place] = mean;
        }
        first += equals.len();
    }
    ranks
}

fn ratio(part: f64, whole: f64) -> f64 {
    let ratio = part / whole;
    if ratio.is_finite() { ratio } else { 0.0 }
}
