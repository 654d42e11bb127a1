//! Tasks of language models: how a file becomes texts, prompts, conversations, sources and targets.

mod completions;
mod conversations;
mod documents;
mod pairs;

pub use completions::completions;
pub use conversations::conversations;
pub use documents::documents;
pub use pairs::source_targets;

use super::table::{Need, Role};

/// The names of the columns to read; where one is absent the usual names are tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageColumns {
    /// A document.
    pub text: Option<String>,
    /// What is given before a completion: an instruction, a question.
    pub prompt: Option<String>,
    /// What an instruction is about; an empty name says that there is none.
    pub input: Option<String>,
    /// What is to follow.
    pub completion: Option<String>,
    /// What the assistant is told before the conversation.
    pub system: Option<String>,
    /// A conversation.
    pub messages: Option<String>,
    /// The tools that the assistant may call.
    pub tools: Option<String>,
    /// What is to be turned into something else; of a translation, its language.
    pub source: Option<String>,
    /// What it is to become; of a translation, its language.
    pub target: Option<String>,
}

/// What the readers need to know beyond a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LanguageOptions {
    /// Where the texts are.
    pub columns: LanguageColumns,
    /// What stands between a prompt and its completion: nothing by itself, and a line's end in files of `||` lines.
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

/// A column of the name that was chosen, or else of one of its usual names.
fn role(what: &'static str, chosen: Option<&String>, usual: &[&str], need: Need) -> Role {
    match chosen {
        Some(name) if !name.is_empty() => Role { what, names: vec![name.clone()], need },
        Some(_) if need == Need::Optional => Role { what, names: Vec::new(), need: Need::Ignored },
        _ => Role { what, names: usual.iter().map(|&name| name.to_owned()).collect(), need },
    }
}
