//! From files to ragged batches: tasks, tokenisers, tokenised data sets, metrics.

mod batches;
pub mod chat;
mod dataset;
mod example;
pub mod language;
pub mod metrics;
pub mod stream;
pub mod tasks;
mod tokenizer;

pub use batches::{Batch, BatchPlan, Batches, Position};
pub use chat::ChatTemplate;
pub use dataset::{TokenizedDataset, TokenizedExample};
pub use example::{Example, Examples, Label, Labels};
pub use metrics::Metrics;
pub use tasks::{Columns, DataFiles, Task, TaskInfo, TaskOptions};
pub use tokenizer::{Encoding, Located, Tokenizer};
