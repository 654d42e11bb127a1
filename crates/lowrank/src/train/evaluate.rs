//! Metrics and predictions over a data set.

use lowrank_kernels::parallel;

use super::adapted_model::{AdaptedModel, loss};
use crate::Result;
use crate::data::{
    BatchPlan, Batches, Collector, Dataset, Outputs, Position, Scores, StepBatches, Steps, TaskInfo,
};
use crate::tape::{AdapterId, Tape};
use crate::tensor::DType;

/// Sequences that are read at a time.
const BATCH_SIZE: usize = 64;

/// Shows a model's outputs over a data set to a collector, batch by batch, and returns the mean loss over all targets, 0
/// where there are none. After each batch `progress` is told how many examples are done; an error of its ends the work.
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
    let batches = Batches::new(dataset, BatchPlan::in_order(BATCH_SIZE), Position::default())?;
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
            let logits = logits.map(|logits| logits.value().to_dtype(DType::F32));
            let (values, width) = match &logits {
                Some(logits) => (logits.as_slice::<f32>(), logits.shape().width()),
                None => (&[][..], 0),
            };
            collector.add(&rows, &batch, Outputs { logits: values, width, written: &[] })?;
            done += batch.sequences();
            progress(done)?;
        }
    }
    Ok(if targets > 0 { sum / targets as f64 } else { 0.0 })
}

/// Evaluates a model: the mean loss, and the task's metrics. After each batch `progress` is told how many examples are done;
/// an error of its ends the evaluation.
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
