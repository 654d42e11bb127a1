//! Training, evaluation and prediction.

mod classifier;
mod evaluate;
mod forward;
mod optimizer;
mod padded;
mod run_file;
mod schedule;
pub mod snapshot;
mod trainer;

pub use classifier::{Attached, Classifier, LoadOptions, default_compute, loss};
pub use evaluate::{Scores, all_logits, evaluate};
pub use forward::forward;
pub use optimizer::{AdamW, AdamWConfig, Moments};
pub use padded::read_batch;
pub use run_file::{DataSection, EvalEvery, KeepBest, Method, RunFile, RunFileBuilder, TrainSection, Warmup};
pub use schedule::{Schedule, ScheduleKind};
pub use trainer::{Step, Trainer};
