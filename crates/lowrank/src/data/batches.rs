//! Data sets in a seeded order that can be entered anywhere.

use lowrank_kernels::random::Philox;

use super::Dataset;
use super::batch::Batch;
use crate::{Error, Result};

/// How a data set is cut into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPlan {
    /// Sequences in a batch.
    pub batch_size: usize,
    /// Batches in a step.
    pub gradient_accumulation: usize,
    /// Whether each epoch has an order of its own; file order otherwise.
    pub shuffle: bool,
    /// What the orders come from.
    pub seed: u64,
    /// In training, the seed of what changes an example from one pass to the next: crops, flips.
    pub pass: Option<u64>,
}

/// A pass over a data set in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// The seed of the run.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: usize,
}

impl BatchPlan {
    /// Batches of `batch_size` in file order: for evaluation.
    pub fn in_order(batch_size: usize) -> Self {
        Self { batch_size, gradient_accumulation: 1, shuffle: false, seed: 0, pass: None }
    }

    /// The examples of a step.
    fn step_size(&self) -> usize {
        self.batch_size.max(1).saturating_mul(self.gradient_accumulation.max(1))
    }

    /// The steps of an epoch over this many examples; the last one may be smaller.
    pub fn steps_per_epoch(&self, examples: usize) -> usize {
        examples.div_ceil(self.step_size())
    }

    /// The order of the examples in an epoch: it depends on the seed, the epoch and the number of examples only.
    ///
    /// # Errors
    /// [`Error::Usage`] for 2³² examples or more.
    pub fn order(&self, examples: usize, epoch: usize) -> Result<Vec<u32>> {
        let mut order: Vec<u32> = (0..to_u32(examples)?).collect();
        if self.shuffle {
            Philox::new(self.seed, ORDER_STREAMS + epoch as u64).shuffle(&mut order);
        }
        Ok(order)
    }
}

/// The streams of a seed that order epochs: far from those that initialise a model.
const ORDER_STREAMS: u64 = 1 << 32;

/// A place in the sequence of steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: usize,
    /// The step in the epoch, from 0.
    pub step: usize,
}

/// The steps over a data set, epoch after epoch without an end.
///
/// From the same plan and [`Position`] come the same batches, whoever came there and how.
pub struct Batches<'a> {
    dataset: &'a dyn Dataset,
    plan: BatchPlan,
    position: Position,
    order: Vec<u32>,
}

impl std::fmt::Debug for Batches<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batches({:?} at {:?})", self.plan, self.position)
    }
}

impl<'a> Batches<'a> {
    /// The steps from `position` on.
    ///
    /// # Errors
    /// [`Error::Usage`] for an empty data set or a position beyond the end of an epoch.
    pub fn new(dataset: &'a dyn Dataset, plan: BatchPlan, position: Position) -> Result<Self> {
        if dataset.is_empty() {
            return Err(Error::Usage("there are no examples to make batches of".to_owned()));
        }
        let steps = plan.steps_per_epoch(dataset.len());
        if position.step >= steps {
            return Err(Error::Usage(format!("an epoch has {steps} steps, no number {}", position.step)));
        }
        let order = plan.order(dataset.len(), position.epoch)?;
        Ok(Self { dataset, plan, position, order })
    }

    /// What they are batches of.
    pub(super) fn dataset(&self) -> &dyn Dataset {
        self.dataset
    }

    /// Where the next step is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.plan.steps_per_epoch(self.dataset.len())
    }

    /// The rows of the data set in the next step.
    pub fn rows(&self) -> &[u32] {
        let size = self.plan.step_size();
        let start = self.position.step * size;
        &self.order[start..start.saturating_add(size).min(self.order.len())]
    }

    /// The batches of the next step, at most `gradient_accumulation` of them, and moves on.
    ///
    /// # Errors
    /// As [`Dataset::gather`].
    pub fn next_step(&mut self) -> Result<Vec<Batch>> {
        let size = self.plan.batch_size.max(1);
        let pass = self.plan.pass.map(|seed| Pass { seed, epoch: self.position.epoch });
        let batches = (self.rows().chunks(size).enumerate())
            .map(|(number, rows)| self.dataset.gather(rows, number * size, pass))
            .collect::<Result<_>>()?;
        self.position.step += 1;
        if self.position.step == self.steps_per_epoch() {
            self.position = Position { epoch: self.position.epoch + 1, step: 0 };
            self.order = self.plan.order(self.dataset.len(), self.position.epoch)?;
        }
        Ok(batches)
    }
}

pub(super) fn to_u32(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::Usage(format!("{number} examples are too many")))
}
