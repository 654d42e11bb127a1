//! From files to ragged batches: tasks, tokenisers, tokenised data sets, metrics.

mod ahead;
mod batch;
mod batches;
pub mod chat;
mod collector;
mod dataset;
mod example;
pub mod image;
pub mod language;
pub mod metrics;
pub(crate) mod parquet;
mod reader;
pub mod squad;
pub mod stream;
pub mod tasks;
mod tokenizer;
mod type_ids;

pub use ahead::{StepBatches, Steps};
pub use batch::{Batch, BatchSource, Pixels, TokenRows};
pub use batches::{BatchPlan, Batches, Pass, Position};
pub use chat::ChatTemplate;
pub(crate) use collector::Classification;
pub use collector::{Collector, Outputs, Prediction, Scores};
pub use dataset::{Dataset, TokenizedDataset, TokenizedExample};
pub use example::{Example, Examples, IGNORED, Label, Labels, NOWHERE};
pub use metrics::Metrics;
pub use reader::Reader;
pub use tasks::{Columns, DataFiles, Task, TaskInfo, TaskOptions};
pub use tokenizer::{EncodedWords, Encoding, Located, Tokenizer};
