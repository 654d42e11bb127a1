//! Data sets of language models: texts, prompts with completions, conversations, sources with targets.

mod causal;
mod completion;
mod example;
mod seq2seq;
mod text;

pub use causal::{CausalDataset, CausalExample};
pub use example::{Completion, Conversation, Document, Rows, SourceTarget};
pub use seq2seq::{Seq2SeqDataset, Seq2SeqExample, Seq2SeqLengths};
