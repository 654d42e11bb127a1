//! One optimiser step, and what to say when it goes wrong.

use std::time::{Duration, Instant};

use lowrank_kernels::{Compute, parallel};

use super::adapted_model::AdaptedModel;
use super::optimizer::AdamW;
use super::schedule::Schedule;
use crate::data::Batch;
use crate::nn::{for_each_active, for_each_trained_mut};
use crate::tape::{AdapterId, Gradients, Tape, is_finite};
use crate::{Error, Result};

/// Trains what is trainable in a model, step by step.
///
/// ```no_run
/// # use lowrank::train::{AdamW, AdamWConfig, AdaptedModel, Schedule, ScheduleKind, Trainer};
/// # fn example(mut adapted: AdaptedModel, batch: lowrank::data::Batch) -> lowrank::Result<()> {
/// let schedule = Schedule {
///     kind: ScheduleKind::Linear,
///     warmup_steps: 6,
///     total_steps: 100,
///     base_learning_rate: 1e-3,
/// };
/// let mut trainer = Trainer::new(AdamW::new(AdamWConfig::default()), schedule, 42);
/// let adapter = adapted.first_adapter();
/// let step = trainer.step(&mut adapted, adapter, &[batch])?;
/// println!("loss {}", step.loss);
/// # Ok(())
/// # }
/// ```
pub struct Trainer {
    optimizer: AdamW,
    schedule: Schedule,
    seed: u64,
    gradient_checkpointing: bool,
    gradients: Gradients,
    /// The adapters of the steps so far, of which every trained tensor is known to get a gradient.
    reached: Vec<Option<AdapterId>>,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The mean loss over the step's targets.
    pub loss: f64,
    /// The norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// The learning rate that was used.
    pub learning_rate: f64,
    /// The tokens that were read.
    pub tokens: usize,
    /// The sequences that were read.
    pub examples: usize,
    /// The time that it took.
    pub time: Duration,
}

impl Trainer {
    /// A trainer. `seed` is the dropout's.
    pub fn new(optimizer: AdamW, schedule: Schedule, seed: u64) -> Self {
        let (gradients, reached) = (Gradients::new(), Vec::new());
        Self { optimizer, schedule, seed, gradient_checkpointing: false, gradients, reached }
    }

    /// Keeps of each layer its inputs alone, and runs it again in the backward pass, as [`Tape::checkpointing`]: the same
    /// bits from less memory in more time.
    #[must_use]
    pub fn with_gradient_checkpointing(mut self, gradient_checkpointing: bool) -> Self {
        self.gradient_checkpointing = gradient_checkpointing;
        self
    }

    /// The optimiser, for checkpoints.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The optimiser, to restore one.
    pub fn optimizer_mut(&mut self) -> &mut AdamW {
        &mut self.optimizer
    }

    /// How many steps were taken.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// One step on the micro-batches of one whole batch: equal to the step on the whole. Of what is trained, that
    /// moves which the batch reads under `adapter`; other adapters can be trained in turn with it.
    ///
    /// # Errors
    /// If something that is trained is not reached by an adapter's first backward pass, or a number is not finite:
    /// then the error names the first tensor that went wrong, and nothing was changed.
    pub fn step(
        &mut self,
        adapted: &mut AdaptedModel,
        adapter: Option<AdapterId>,
        batches: &[Batch],
    ) -> Result<Step> {
        parallel::awake(|| self.step_in_pool(adapted, adapter, batches))
    }

    fn step_in_pool(
        &mut self,
        adapted: &mut AdaptedModel,
        adapter: Option<AdapterId>,
        batches: &[Batch],
    ) -> Result<Step> {
        let start = Instant::now();
        let targets: usize = batches.iter().map(|batch| batch.labels.len()).sum();
        let (compute, step) = (adapted.compute(), self.steps());
        self.gradients.clear();
        let mut total = 0.0;
        for batch in batches {
            let mut tape =
                Tape::training(compute, self.seed, step).checkpointing(self.gradient_checkpointing);
            let loss = adapted.loss(&mut tape, batch, adapter, targets as f32)?;
            total += f64::from(loss.value().as_slice::<f32>()[0]);
            tape.backward(&loss, &mut self.gradients)?;
        }
        if !self.reached.contains(&adapter) {
            self.check_reach(adapted, adapter)?;
            self.reached.push(adapter);
        }
        if !total.is_finite() {
            return Err(self.diagnose(adapted, adapter, batches, compute));
        }
        let learning_rate = self.schedule.at(step as usize);
        let grad_norm = self.optimizer.step(adapted.model_mut(), &self.gradients, learning_rate);
        if !grad_norm.is_finite() {
            return Err(self.diagnose(adapted, adapter, batches, compute));
        }
        Ok(Step {
            loss: total,
            grad_norm,
            learning_rate,
            tokens: batches.iter().map(|batch| adapted.tokens(batch)).sum(),
            examples: batches.iter().map(Batch::sequences).sum(),
            time: start.elapsed(),
        })
    }

    /// Every trained tensor that holds under `adapter` must have a gradient, if only of zeros.
    fn check_reach(&self, adapted: &AdaptedModel, adapter: Option<AdapterId>) -> Result<()> {
        let mut missed = None;
        for_each_active(adapted.model(), adapter, |name, leaf| {
            if missed.is_none() && leaf.is_trainable() && self.gradients.get(leaf).is_none() {
                missed = Some(name.to_owned());
            }
        });
        match missed {
            None => Ok(()),
            Some(name) => Err(Error::Usage(format!("{name} is to be trained, but no gradient reaches it"))),
        }
    }

    /// Finds the first tensor that is not finite: a parameter, then the forward pass in its order, then a gradient.
    fn diagnose(
        &self,
        adapted: &mut AdaptedModel,
        adapter: Option<AdapterId>,
        batches: &[Batch],
        compute: Compute,
    ) -> Error {
        let step = self.steps() as usize + 1;
        let not_finite =
            |tensor: String| Error::NotFinite { step, tensor, advice: "lower the learning rate".into() };
        let mut parameter = None;
        let mut gradient = None;
        for_each_trained_mut(adapted.model_mut(), |name, leaf| {
            if parameter.is_none() && !is_finite(leaf.value()) {
                parameter = Some(name.to_owned());
            }
            let finite = self.gradients.get(leaf).is_none_or(|g| g.iter().all(|x| x.is_finite()));
            if gradient.is_none() && !finite {
                gradient = Some(format!("the gradient of {name}"));
            }
        });
        if let Some(name) = parameter {
            return not_finite(name);
        }
        for batch in batches {
            let mut tape = Tape::training(compute, self.seed, self.steps())
                .checked()
                .checkpointing(self.gradient_checkpointing);
            let result = adapted.loss(&mut tape, batch, adapter, 1.0);
            if let Err(Error::NotFinite { tensor, .. }) = result {
                return not_finite(tensor);
            }
        }
        not_finite(gradient.unwrap_or_else(|| "the loss".to_owned()))
    }
}
