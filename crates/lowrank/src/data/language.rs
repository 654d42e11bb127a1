//! Data sets of language models: texts, prompts with completions, conversations, sources with targets.

mod causal;
mod completion;
mod example;
mod prompts;
mod rewriting;
mod seq2seq;
mod targets;
mod text;

pub use causal::{CausalDataset, CausalExample};
pub use example::{Completion, Conversation, Document, Rows, SourceTarget};
pub use prompts::PromptDataset;
pub(crate) use prompts::prompt_ids;
pub use rewriting::RewritingDataset;
pub(crate) use seq2seq::ended;
pub use seq2seq::{Seq2SeqDataset, Seq2SeqExample, Seq2SeqLengths};
