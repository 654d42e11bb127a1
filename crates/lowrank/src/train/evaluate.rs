//! Metrics and predictions over a data set.

use lowrank_kernels::parallel;

use super::adapted_model::{AdaptedModel, loss};
use super::writing::write;
use crate::Result;
use crate::data::{
    BatchPlan, Batches, Collector, Dataset, Outputs, Position, Scores, StepBatches, Steps, TaskInfo,
};
use crate::tape::{AdapterId, Tape};
use crate::tensor::DType;

/// Sequences that are read at a time.
const BATCH_SIZE: usize = 64;

/// Logits that there is memory for at a time, where each token has as many as the vocabulary.
const MOST_LOGITS: usize = 1 << 26;

/// Shows a model's outputs over a data set to a collector, batch by batch, and what it writes where the collector asks for
/// that: its likeliest tokens. Returns the mean loss over all targets, 0 where there are none. After each batch
/// `progress` is told how many examples are done; an error of its ends the work.
///
/// # Errors
/// As [`AdaptedModel::forward`], or what the collector or `progress` gives.
pub fn collect(
    adapted: &AdaptedModel,
    adapter: Option<AdapterId>,
    dataset: &dyn Dataset,
    collector: &mut dyn Collector,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<f64> {
    let batches =
        Batches::new(dataset, BatchPlan::in_order(batch_size(adapted, dataset)), Position::default())?;
    let count = batches.steps_per_epoch();
    batches.ahead(count, |steps| collect_steps(adapted, adapter, steps, count, collector, progress))
}

fn collect_steps(
    adapted: &AdaptedModel,
    adapter: Option<AdapterId>,
    steps: &mut Steps<'_>,
    count: usize,
    collector: &mut dyn Collector,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<f64> {
    let (mut sum, mut targets, mut done) = (0.0, 0, 0);
    let reads_logits = collector.reads_logits();
    let writes = match collector.writes() {
        Some(most) => Some((most, [&adapted.end_tokens()?, collector.ends()].concat())),
        None => None,
    };
    for _ in 0..count {
        let StepBatches { rows, batches } = steps.next_step()?;
        for batch in batches {
            let count = batch.labels.len();
            let mut tape = Tape::inference(adapted.compute());
            let (mean, logits) = parallel::awake(|| {
                if !reads_logits {
                    let mean = (count > 0).then(|| adapted.loss(&mut tape, &batch, adapter, count as f32));
                    return Ok::<_, crate::Error>((mean.transpose()?, None));
                }
                let logits = adapted.forward(&mut tape, &batch, adapter)?;
                let mean = (count > 0).then(|| loss(&mut tape, &logits, &batch.labels, count as f32));
                Ok((mean.transpose()?, Some(logits)))
            })?;
            if let Some(mean) = mean {
                sum += f64::from(mean.value().as_slice::<f32>()[0]) * count as f64;
                targets += count;
            }
            let written = match &writes {
                Some((most, ends)) => parallel::awake(|| write(adapted, adapter, &batch, *most, ends))?,
                None => Vec::new(),
            };
            let logits = logits.map(|logits| logits.value().to_dtype(DType::F32));
            let (values, width) = match &logits {
                Some(logits) => (logits.as_slice::<f32>(), logits.shape().width()),
                None => (&[][..], 0),
            };
            collector.add(&rows, &batch, Outputs { logits: values, width, written: &written })?;
            done += batch.sequences();
            progress(done)?;
        }
    }
    Ok(if targets > 0 { sum / targets as f64 } else { 0.0 })
}

/// Sequences that are read at a time: fewer where their logits would be too many.
fn batch_size(adapted: &AdaptedModel, dataset: &dyn Dataset) -> usize {
    let info = adapted.model().info();
    if !info.kind.is_language_model() {
        return BATCH_SIZE;
    }
    let longest = dataset.lengths().into_iter().max().unwrap_or(0);
    (MOST_LOGITS / longest.saturating_mul(info.vocab_size).max(1)).clamp(1, BATCH_SIZE)
}

/// Evaluates a model: the mean loss, and the task's metrics. After each batch `progress` is told how many examples are
/// done; an error of its ends the evaluation.
///
/// # Errors
/// As [`collect`].
pub fn evaluate(
    adapted: &AdaptedModel,
    adapter: Option<AdapterId>,
    dataset: &dyn Dataset,
    task: &TaskInfo,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Scores> {
    let mut collector = dataset.collector(task);
    let loss = collect(adapted, adapter, dataset, &mut *collector, progress)?;
    collector.scores(loss)
}
