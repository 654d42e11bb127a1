//! Metrics and predictions over a data set.

use std::collections::BTreeMap;

use lowrank_kernels::parallel;

use super::classifier::Classifier;
use crate::data::{BatchPlan, Batches, Labels, Metrics, Position, TaskInfo, TokenizedDataset};
use crate::tape::AdapterId;
use crate::{Error, Result};

/// Metrics by their names; `loss` is among them.
pub type Scores = BTreeMap<String, f64>;

/// Sequences that are read at a time.
const BATCH_SIZE: usize = 64;

/// The logits of every example in the order of the data set, batch by batch.
///
/// # Errors
/// As [`Classifier::forward`], or what `each` gives: the rest is then left.
pub fn all_logits(
    classifier: &Classifier,
    adapter: Option<AdapterId>,
    dataset: &TokenizedDataset,
    mut each: impl FnMut(&Labels, &[f32]) -> Result<()>,
) -> Result<()> {
    let mut batches = Batches::new(dataset, BatchPlan::in_order(BATCH_SIZE), Position::default())?;
    for _ in 0..batches.steps_per_epoch() {
        for batch in batches.next_step()? {
            each(&batch.labels, &parallel::awake(|| classifier.logits(&batch, adapter))?)?;
        }
    }
    Ok(())
}

/// Evaluates a classifier: the mean loss, and the task's metrics. After each batch `progress` is told how many examples
/// are done; an error of its ends the evaluation.
///
/// # Errors
/// If an example has no label, as [`Classifier::forward`], or what `progress` gives.
pub fn evaluate(
    classifier: &Classifier,
    adapter: Option<AdapterId>,
    dataset: &TokenizedDataset,
    task: &TaskInfo,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Scores> {
    let mut metrics = Metrics::new(task);
    all_logits(classifier, adapter, dataset, |labels, logits| {
        metrics.add_loss(summed_loss(labels, logits)? / labels.len() as f64, labels.len());
        metrics.add(logits, labels)?;
        progress(metrics.examples())
    })?;
    Ok(metrics.compute().into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Cross-entropy or squared error, in f64, from logits that are numbers already.
fn summed_loss(labels: &Labels, logits: &[f32]) -> Result<f64> {
    match labels {
        Labels::Classes(classes) => {
            let width = logits.len() / classes.len().max(1);
            Ok(logits.chunks(width.max(1)).zip(classes).map(|(row, class)| cross_entropy(row, *class)).sum())
        }
        Labels::Scores(targets) => {
            Ok(logits.iter().zip(targets).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum())
        }
        Labels::None => Err(Error::Usage("these examples have no labels to evaluate against".into())),
    }
}

fn cross_entropy(logits: &[f32], class: i64) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    let own = usize::try_from(class).ok().and_then(|class| logits.get(class)).copied().unwrap_or(f32::NAN);
    sum.ln() - f64::from(own - largest)
}
