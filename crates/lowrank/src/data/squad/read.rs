//! SQuAD's published JSON.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::question::{Answer, Question, Questions, Skipped, slice};
use crate::{Error, Result};

/// Which of the two data sets a file is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// SQuAD 1.1: every question has an answer.
    V1,
    /// SQuAD 2.0: some have none.
    V2,
}

/// What a file is read for, which decides what makes a question unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its answers must be where it says.
    Train,
    /// Its answers must be there; one at a wrong place still is a right answer.
    Evaluate,
    /// Nothing is needed but the questions.
    Predict,
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether questions without an answer are as they should be.
    pub version: Version,
    /// What for.
    pub purpose: Purpose,
    /// The first so many questions that can be used; 0: all.
    pub limit: usize,
    /// Whether an answer that is not in its context, or is missing, is an error.
    pub strict: bool,
}

#[derive(Deserialize)]
struct File {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Entry>,
}

/// A question as a file has it.
#[derive(Deserialize)]
pub(in crate::data) struct Entry {
    pub id: String,
    pub question: String,
    pub answers: Option<Vec<Given>>,
}

/// An answer as a file has it.
#[derive(Deserialize)]
pub(in crate::data) struct Given {
    pub text: String,
    /// In code points; some files write -1 for none.
    pub answer_start: i64,
}

/// Reads a file in SQuAD's published JSON; what the two versions add to each other is ignored.
///
/// # Errors
/// The file cannot be read, is not of that form (with its line and column) or holds no questions; a question that is
/// to be trained or evaluated on has no `answers`; with [`ReadOptions::strict`] a question that cannot be used, by its
/// id. Without, it is left out and stands in [`Questions::skipped`].
pub fn read(path: &Path, options: &ReadOptions) -> Result<Questions> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let json = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let file: File = serde_json::from_slice(json).map_err(|error| {
        let reason = "not SQuAD's JSON ({\"data\": [{\"paragraphs\": [{\"context\", \"qas\": [{\"id\", \"question\", \
                      \"answers\"}]}]}]})";
        Error::row(path, error.line().max(1), format!("{reason}: {error}"))
    })?;
    let mut gathered = Gathered::new(path, options);
    'file: for paragraph in file.data.into_iter().flat_map(|article| article.paragraphs) {
        for entry in paragraph.qas {
            if !gathered.add(entry, &paragraph.context)? {
                break 'file;
            }
        }
    }
    gathered.finish()
}

/// The questions of a file, as they come.
pub(in crate::data) struct Gathered<'a> {
    path: &'a Path,
    options: &'a ReadOptions,
    questions: Questions,
}

impl<'a> Gathered<'a> {
    pub fn new(path: &'a Path, options: &'a ReadOptions) -> Self {
        Self { path, options, questions: Questions::default() }
    }

    /// Adds a question, or notes why it cannot be used; false: there are enough.
    ///
    /// # Errors
    /// As [`read`].
    pub fn add(&mut self, entry: Entry, context: &str) -> Result<bool> {
        let Self { path, options, questions } = self;
        let same = questions.contexts.last().is_some_and(|last| last == context);
        let place = questions.contexts.len() - usize::from(same);
        let id = entry.id.clone();
        match question(entry, place, context, options) {
            Ok(row) => {
                if !same {
                    questions.contexts.push(context.to_owned());
                }
                questions.rows.push(row);
            }
            Err(Unusable::Malformed(reason)) => return Err(refuse(path, &id, &reason)),
            Err(Unusable::Skip(reason)) if options.strict => return Err(refuse(path, &id, &reason)),
            Err(Unusable::Skip(reason)) => questions.skipped.push(Skipped { id, reason }),
        }
        Ok(options.limit == 0 || questions.rows.len() < options.limit)
    }

    /// All of them.
    ///
    /// # Errors
    /// If there are none.
    pub fn finish(self) -> Result<Questions> {
        let Self { path, questions, .. } = self;
        if !questions.rows.is_empty() {
            return Ok(questions);
        }
        let reason = match questions.skipped.first() {
            None => "holds no questions".to_owned(),
            Some(Skipped { id, reason }) => format!(
                "none of its {} questions can be used; the first, {id:?}: {reason}",
                questions.skipped.len()
            ),
        };
        Err(Error::file(path, reason))
    }
}

enum Unusable {
    /// The file is wrong.
    Malformed(String),
    /// It may be left out.
    Skip(String),
}

fn question(
    entry: Entry,
    place: usize,
    context: &str,
    options: &ReadOptions,
) -> std::result::Result<Question, Unusable> {
    let Entry { id, question: text, answers } = entry;
    if answers.is_none() && options.purpose != Purpose::Predict {
        return Err(Unusable::Malformed("it has no \"answers\"".to_owned()));
    }
    if options.purpose != Purpose::Predict
        && options.version == Version::V1
        && answers.as_ref().is_some_and(Vec::is_empty)
    {
        return Err(Unusable::Skip("it has no answer, as only squad_v2 allows".to_owned()));
    }
    let mut located = Vec::new();
    for given in answers.into_iter().flatten() {
        let start = locate(&given, context);
        let may_be_anywhere = match options.purpose {
            Purpose::Train => false,
            Purpose::Evaluate => !options.strict,
            Purpose::Predict => true,
        };
        if start.is_none() && !may_be_anywhere {
            return Err(Unusable::Skip(misplaced(&given, context)));
        }
        located.push(Answer { text: given.text, start });
    }
    let answers = (options.purpose != Purpose::Predict || !located.is_empty()).then_some(located);
    Ok(Question { id, text, context: place, answers })
}

/// Where an answer begins, if it is there.
fn locate(given: &Given, context: &str) -> Option<usize> {
    let start = usize::try_from(given.answer_start).ok()?;
    let (byte, _) = context.char_indices().nth(start)?;
    (!given.text.is_empty() && context.get(byte..)?.starts_with(&given.text)).then_some(start)
}

fn misplaced(given: &Given, context: &str) -> String {
    let Given { text, answer_start } = given;
    if text.is_empty() {
        return "one of its answers is empty".to_owned();
    }
    match usize::try_from(*answer_start) {
        Ok(start) if start < context.chars().count() => {
            let there = slice(context, start, start + text.chars().count());
            format!("its answer {text:?} is not at code point {start} of its context, where {there:?} stands")
        }
        _ => format!("its answer {text:?} is at code point {answer_start}, which its context does not have"),
    }
}

fn refuse(path: &Path, id: &str, reason: &str) -> Error {
    Error::file(path, format!("question {id:?}: {reason}"))
}
