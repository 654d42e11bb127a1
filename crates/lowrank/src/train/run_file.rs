//! The run file: what to train, on what, and how.

mod builder;
mod check;
mod effective;
mod lora;
mod sections;
#[cfg(test)]
mod tests;
mod values;

use std::path::{Path, PathBuf};

pub use builder::RunFileBuilder;
use lowrank_kernels::Compute;

use super::adapted_model::default_compute;
use super::rates::LearningRates;
use super::schedule::{Schedule, ScheduleKind};
use crate::Result;
use crate::adapter::LoraConfig;
use crate::data::Columns;
use crate::models::{HeadStyle, LoadIn, Operands};

/// A run: the keys of a run file, checked, with the defaults where the file has none.
///
/// ```no_run
/// use lowrank::train::RunFile;
///
/// let mut run = RunFile::read("run.toml")?;
/// run.train.epochs = 1;
/// # Ok::<(), lowrank::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RunFile {
    /// The base model as it was written: a folder, or a Hub id. It goes into `adapter_config.json` like this.
    pub model: String,
    /// The task's name.
    pub task: String,
    /// The folder that the run fills.
    pub output: PathBuf,
    /// The adapter to start from: a folder, or a Hub id.
    pub init_adapter: Option<String>,
    /// What is trained.
    pub method: Method,
    /// What the frozen weights are loaded as.
    pub load_in: LoadIn,
    /// The layers of the head.
    pub head: HeadStyle,
    /// `[data]`.
    pub data: DataSection,
    /// `[lora]`.
    pub lora: LoraConfig,
    /// The keys of `[lora]` that the run gives itself: those that an `init_adapter` must agree with.
    pub lora_given: Vec<String>,
    /// `[train]`.
    pub train: TrainSection,
    source: Source,
}

/// Where a run was read from.
#[derive(Clone, Debug, Default)]
struct Source {
    /// The folder that the paths of the run are relative to.
    folder: PathBuf,
    /// The text, where it was read from one.
    text: Option<String>,
}

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// A LoRA adapter and the head.
    #[default]
    Lora,
    /// The whole model.
    Full,
}

impl Method {
    /// Every method, under its name in a run file.
    pub const NAMES: [(&'static str, Self); 2] = [("lora", Self::Lora), ("full", Self::Full)];
}

/// The data of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSection {
    /// The training file, a folder that holds one, or the id of a data set of the Hub.
    pub train: PathBuf,
    /// The validation file, a folder that holds one, or the id of a data set of the Hub.
    pub validation: Option<PathBuf>,
    /// Where the texts and the label are in a table.
    pub columns: Columns,
    /// The longest example in tokens; what is beyond is cut off.
    pub max_length: usize,
    /// By how many tokens the windows of a long text overlap.
    pub stride: usize,
    /// What is put before each source of an encoder-decoder.
    pub source_prefix: String,
    /// Whether documents follow one another in blocks of one length; else each is an example of its own.
    pub packing: bool,
    /// The number of training rows to read; 0: all.
    pub limit: usize,
    /// Whether an example that cannot be used is an error.
    pub strict: bool,
    /// The pixels of black around a training image, of which a part of its own size is taken at random; 0: none.
    pub random_crop: usize,
    /// Whether half of the training images are mirrored, left for right.
    pub random_flip: bool,
}

/// How a run trains.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSection {
    /// Passes over the training data.
    pub epochs: usize,
    /// Optimiser steps, in the place of `epochs`; 0: as many as the epochs have.
    pub max_steps: usize,
    /// Examples in a batch.
    pub batch_size: usize,
    /// Batches in an optimiser step.
    pub gradient_accumulation: usize,
    /// The learning rate after the warm-up.
    pub learning_rate: f64,
    /// AdamW's decay.
    pub weight_decay: f64,
    /// How the learning rate moves after the warm-up.
    pub lr_schedule: ScheduleKind,
    /// How long the learning rate rises.
    pub warmup: Warmup,
    /// The longest gradient, all tensors together; 0: any.
    pub max_grad_norm: f64,
    /// Whether layers are run again in the backward pass, so that only their inputs are kept.
    pub gradient_checkpointing: bool,
    /// The type that is computed in; absent: as `dtype`.
    pub compute: Option<Compute>,
    /// What the products with frozen weights are made of: `compute = "int8"`.
    pub operands: Operands,
    /// LoRA+: by how much the learning rate of `B` is larger.
    pub loraplus_lr_ratio: f64,
    /// LoRA+: the learning rate of pairs on embeddings.
    pub loraplus_lr_embedding: f64,
    /// Learning rates of single modules by pattern.
    pub learning_rate_pattern: Vec<(String, f64)>,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
    /// What every random number comes from.
    pub seed: u64,
    /// The type of the rows; absent: bf16 where the machine has matrix units for it.
    pub dtype: Option<Compute>,
    /// When to evaluate.
    pub eval_every: EvalEvery,
    /// Optimiser steps between checkpoints; 0: one at each epoch's end.
    pub save_every: usize,
    /// Checkpoints to keep; 0: all.
    pub save_total_limit: usize,
    /// Steps between printed lines where there is no terminal.
    pub log_every: usize,
    /// Which state becomes the result.
    pub keep_best: KeepBest,
    /// Evaluations without improvement before the run stops; 0: never.
    pub patience: usize,
}

/// How long the learning rate rises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// A share of the run's steps, rounded up.
    Ratio(f64),
    /// Steps.
    Steps(usize),
}

/// When to evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalEvery {
    /// At each epoch's end.
    Epoch,
    /// After every so many optimiser steps.
    Steps(usize),
}

/// Which state becomes the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeepBest {
    /// The best by the task's main metric.
    Auto,
    /// The best by this metric.
    Metric(String),
    /// The last.
    Last,
}

impl RunFile {
    /// Reads a run file; its paths are relative to its folder.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, lacks a required key, or holds an unknown key, a value of the wrong
    /// type or out of range, or something that this program does not do yet.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        RunFileBuilder::read(path)?.build()
    }

    /// Reads the text of a run file, its paths relative to `folder`.
    ///
    /// # Errors
    /// As [`RunFile::read`].
    pub fn from_toml(text: &str, folder: impl AsRef<Path>) -> Result<Self> {
        RunFileBuilder::from_toml(text, folder)?.build()
    }

    /// The model to load: the folder of that name beside the run file where there is one, else the name itself.
    pub fn model_source(&self) -> String {
        self.resolve(&self.model)
    }

    /// The adapter to start from, as [`RunFile::model_source`].
    pub fn init_adapter_source(&self) -> Option<String> {
        self.init_adapter.as_deref().map(|adapter| self.resolve(adapter))
    }

    fn resolve(&self, name: &str) -> String {
        let folder = self.source.folder.join(name);
        if folder.is_dir() { folder.to_string_lossy().into_owned() } else { name.to_owned() }
    }

    /// What is computed in: `compute`, else `dtype`, else the machine's own.
    pub fn compute(&self) -> Compute {
        self.train.compute.or(self.train.dtype).unwrap_or_else(default_compute)
    }

    /// The learning rates of its tensors.
    pub(in crate::train) fn learning_rates(&self) -> LearningRates {
        let train = &self.train;
        LearningRates {
            learning_rate: train.learning_rate,
            loraplus_lr_ratio: train.loraplus_lr_ratio,
            loraplus_lr_embedding: train.loraplus_lr_embedding,
            patterns: train.learning_rate_pattern.clone(),
        }
    }

    /// The learning rates of a run of this many optimiser steps.
    pub fn schedule(&self, total_steps: usize) -> Schedule {
        let warmup_steps = match self.train.warmup {
            Warmup::Ratio(ratio) => Schedule::warmup_steps(ratio, total_steps),
            Warmup::Steps(steps) => steps,
        };
        let base_learning_rate = self.train.learning_rate;
        Schedule { kind: self.train.lr_schedule, warmup_steps, total_steps, base_learning_rate }
    }
}
