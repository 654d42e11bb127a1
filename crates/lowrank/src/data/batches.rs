//! Ragged batches in a seeded order that can be entered anywhere.

use lowrank_kernels::random::Philox;

use super::dataset::TokenizedDataset;
use super::example::Labels;
use crate::{Error, Result};

/// Some examples side by side, without padding.
///
/// # Shapes
/// `B` sequences of `T` tokens together.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Token ids `[T]`.
    pub ids: Vec<u32>,
    /// Token types `[T]`.
    pub type_ids: Vec<u32>,
    /// The place of each token in its sequence `[T]`, from 0; the model adds its own start.
    pub position_ids: Vec<u32>,
    /// Where each sequence begins, and where the last one ends `[B + 1]`.
    pub offsets: Vec<usize>,
    /// The labels `[B]`.
    pub labels: Labels,
    /// The place of each sequence in the whole batch of its step `[B]`: the same however the step is divided, so
    /// that dropout is.
    pub examples: Vec<u32>,
}

impl Batch {
    /// The examples `rows` of `dataset` as one batch; the first is number `first` of its step.
    ///
    /// # Errors
    /// [`Error::Usage`] if the data set has no such row.
    pub fn gather(dataset: &TokenizedDataset, rows: &[u32], first: usize) -> Result<Self> {
        let mut batch = Self {
            ids: Vec::new(),
            type_ids: Vec::new(),
            position_ids: Vec::new(),
            offsets: vec![0],
            labels: Labels::None,
            examples: Vec::with_capacity(rows.len()),
        };
        let mut labels = Vec::with_capacity(rows.len());
        for (place, &row) in rows.iter().enumerate() {
            let Some(example) = dataset.get(row as usize) else {
                return Err(Error::Usage(format!(
                    "the data set has {} examples, no number {row}",
                    dataset.len()
                )));
            };
            batch.ids.extend_from_slice(example.ids);
            batch.type_ids.extend(example.type_ids.iter().map(|&id| u32::from(id)));
            batch.type_ids.resize(batch.ids.len(), 0);
            batch.position_ids.extend((0u32..).take(example.ids.len()));
            batch.offsets.push(batch.ids.len());
            batch.examples.push(to_u32(first + place)?);
            labels.push(example.label);
        }
        batch.labels = Labels::gather(labels);
        Ok(batch)
    }

    /// How many sequences it has.
    pub fn sequences(&self) -> usize {
        self.examples.len()
    }

    /// How many tokens all its sequences have together.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The length of its longest sequence.
    pub fn longest(&self) -> usize {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }
}

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
}

impl BatchPlan {
    /// Batches of `batch_size` in file order: for evaluation.
    pub fn in_order(batch_size: usize) -> Self {
        Self { batch_size, gradient_accumulation: 1, shuffle: false, seed: 0 }
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
#[derive(Debug)]
pub struct Batches<'a> {
    dataset: &'a TokenizedDataset,
    plan: BatchPlan,
    position: Position,
    order: Vec<u32>,
}

impl<'a> Batches<'a> {
    /// The steps from `position` on.
    ///
    /// # Errors
    /// [`Error::Usage`] for an empty data set or a position beyond the end of an epoch.
    pub fn new(dataset: &'a TokenizedDataset, plan: BatchPlan, position: Position) -> Result<Self> {
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
    /// As [`Batch::gather`].
    pub fn next_step(&mut self) -> Result<Vec<Batch>> {
        let size = self.plan.batch_size.max(1);
        let batches = (self.rows().chunks(size).enumerate())
            .map(|(number, rows)| Batch::gather(self.dataset, rows, number * size))
            .collect::<Result<_>>()?;
        self.position.step += 1;
        if self.position.step == self.steps_per_epoch() {
            self.position = Position { epoch: self.position.epoch + 1, step: 0 };
            self.order = self.plan.order(self.dataset.len(), self.position.epoch)?;
        }
        Ok(batches)
    }
}

fn to_u32(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::Usage(format!("{number} examples are too many")))
}
