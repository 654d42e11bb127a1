//! Rows of language data sets as they are read.

use std::path::PathBuf;

use serde_json::Value;

use crate::data::chat::Message;

/// The rows of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T> {
    /// The file.
    pub path: PathBuf,
    /// Its rows in file order.
    pub rows: Vec<T>,
}

/// A text to be continued anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The text.
    pub text: String,
    /// The line in its file, counted from 1.
    pub line: usize,
}

/// A prompt and what is to follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// What is given, up to the last letter before the completion.
    pub prompt: String,
    /// What is to be learnt; none where it is only to be predicted.
    pub completion: Option<String>,
    /// The line in its file, counted from 1.
    pub line: usize,
}

/// Messages, of which the assistant's are to be learnt.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// The messages from the first to the last.
    pub messages: Vec<Message>,
    /// The tools that the assistant may call, as its chat template wants them.
    pub tools: Option<Value>,
    /// The line in its file, counted from 1.
    pub line: usize,
}

/// A text and what it is to be turned into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTarget {
    /// What is given, the task's prefix included.
    pub source: String,
    /// What is to be learnt; none where it is only to be predicted.
    pub target: Option<String>,
    /// The line in its file, counted from 1.
    pub line: usize,
}
