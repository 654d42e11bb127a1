//! Training, evaluation and prediction.

mod ask;
mod bench;
mod checkpoint;
mod classifier;
mod dataset;
mod evaluate;
mod events;
mod forward;
mod optimizer;
pub mod output;
mod padded;
mod preview;
mod run;
mod run_file;
mod schedule;
mod session;
mod settings;
pub mod snapshot;
mod subject;
mod trainer;

pub use ask::{Ask, AskOptions, Prediction};
pub use bench::{BenchOptions, BenchReport, bench};
pub use checkpoint::{CHECKPOINTS, Checkpoint, State};
pub use classifier::{Attached, Classifier, LoadOptions, default_compute, loss};
pub use dataset::{RunData, max_length, tokenize};
pub use evaluate::{Scores, all_logits, evaluate};
pub use events::{Observer, Silent, Start, StepReport, Summary};
pub use forward::forward;
pub use optimizer::{AdamW, AdamWConfig, Moments};
pub use padded::read_batch;
pub use preview::{Preview, PreviewedExample, Statistics, preview};
pub use run::{RunOptions, run};
pub use run_file::{DataSection, EvalEvery, KeepBest, Method, RunFile, RunFileBuilder, TrainSection, Warmup};
pub use schedule::{Schedule, ScheduleKind};
pub use subject::{Subject, save_model};
pub use trainer::{Step, Trainer};
