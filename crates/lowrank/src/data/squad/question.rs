//! Questions, their contexts and their published answers.

use std::fmt;

/// The questions of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Questions {
    /// The texts that are asked about.
    pub contexts: Vec<String>,
    /// The questions in file order, those on one context together.
    pub rows: Vec<Question>,
    /// The questions that could not be used and were left out.
    pub skipped: Vec<Skipped>,
}

/// A question on a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its id in the file.
    pub id: String,
    /// The question as it is written.
    pub text: String,
    /// The place of its text in [`Questions::contexts`].
    pub context: usize,
    /// The answers that were given; empty where the context has none. Absent where nobody says.
    pub answers: Option<Vec<Answer>>,
}

/// A published answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Where it begins in its context, in code points; none where the file says a place at which it is not.
    pub start: Option<usize>,
}

/// A question that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its id in the file.
    pub id: String,
    /// Why it could not be used.
    pub reason: String,
}

impl Questions {
    /// Adds the questions of another file.
    pub(in crate::data) fn append(&mut self, other: Self) {
        let contexts = self.contexts.len();
        self.contexts.extend(other.contexts);
        let rows = other.rows.into_iter();
        self.rows.extend(rows.map(|row| Question { context: contexts + row.context, ..row }));
        self.skipped.extend(other.skipped);
    }

    /// The context of a question.
    pub fn context(&self, question: &Question) -> &str {
        self.contexts.get(question.context).map_or("", String::as_str)
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "question {:?}: {}", self.id, self.reason)
    }
}

impl Question {
    /// Whether its context holds an answer; false as well where nobody says.
    pub fn has_answer(&self) -> bool {
        self.answers.as_ref().is_some_and(|answers| !answers.is_empty())
    }
}

/// The part of a text between two places in code points, cut to what there is of it.
pub(super) fn slice(text: &str, begin: usize, end: usize) -> &str {
    let place = |count: usize| text.char_indices().nth(count).map_or(text.len(), |(place, _)| place);
    let begin = place(begin);
    text.get(begin..place(end).max(begin)).unwrap_or("")
}
