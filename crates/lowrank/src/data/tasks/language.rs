//! Tasks of language models: how a file becomes texts, prompts, conversations, sources and targets.

mod completions;
mod conversations;
mod documents;
mod pairs;
mod task;

pub use completions::completions;
pub use conversations::conversations;
pub use documents::documents;
pub use pairs::source_targets;
pub(crate) use task::chat_template;
pub(super) use task::{NAMES, TEXT, head, open};

use super::Columns;
use super::table::Need;

/// What the readers need to know beyond a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LanguageOptions {
    /// Where the texts are.
    pub columns: Columns,
    /// What stands between a prompt and its completion; absent: nothing after a column `prompt` or a blank, else a line's
    /// end.
    pub separator: Option<String>,
    /// What is put before each source.
    pub source_prefix: String,
    /// Whether completions and targets may be absent, because they are to be predicted.
    pub unlabelled: bool,
}

impl LanguageOptions {
    /// Whether what is to be learnt must be there.
    fn answer(&self) -> Need {
        if self.unlabelled { Need::Optional } else { Need::Required }
    }
}
