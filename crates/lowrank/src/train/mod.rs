//! Training, evaluation and prediction.

mod adapted_model;
mod ask;
mod bench;
mod checkpoint;
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

pub use adapted_model::{AdaptedModel, Attached, LoadOptions, default_compute, loss};
pub use ask::{Ask, AskOptions};
pub use bench::{BenchOptions, BenchReport, bench};
pub use checkpoint::{CHECKPOINTS, Checkpoint, State};
pub use dataset::RunData;
pub use evaluate::{collect, evaluate};
pub use events::{Observer, Silent, Start, StepReport, Summary};
pub use forward::forward;
pub use optimizer::{AdamW, AdamWConfig, Moments};
pub use padded::{Padded, read_batch, read_padded};
pub use preview::{Preview, Statistics, preview};
pub use run::{RunOptions, run};
pub use run_file::{DataSection, EvalEvery, KeepBest, Method, RunFile, RunFileBuilder, TrainSection, Warmup};
pub use schedule::{Schedule, ScheduleKind};
pub use subject::{Subject, save_model, write_random_weights};
pub use trainer::{Step, Trainer};
