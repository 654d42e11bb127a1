//! From files to ragged batches: tasks, tokenisers, tokenised data sets, metrics.

mod batches;
mod dataset;
mod example;
pub mod image;
pub mod metrics;
mod parquet;
pub mod tasks;
mod tokenizer;

pub use batches::{Batch, BatchPlan, Batches, Position};
pub use dataset::{TokenizedDataset, TokenizedExample};
pub use example::{Example, Examples, Label, Labels};
pub use metrics::Metrics;
pub use tasks::{Columns, DataFiles, Task, TaskInfo, TaskOptions};
pub use tokenizer::{Encoding, Tokenizer};
