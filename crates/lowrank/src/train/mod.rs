//! Training: run files, schedules.

mod run_file;
mod schedule;

pub use run_file::{DataSection, EvalEvery, KeepBest, Method, RunFile, RunFileBuilder, TrainSection, Warmup};
pub use schedule::{Schedule, ScheduleKind};
