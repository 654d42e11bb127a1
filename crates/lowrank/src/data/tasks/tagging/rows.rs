//! Words with their labels, from a table or from CoNLL's columns.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::Value;

use crate::data::parquet::ParquetFile;
use crate::data::tasks::Columns;
use crate::data::tasks::table::{Format, Lines, Need, Record, Role, no_rows, records};
use crate::{Error, Result};

/// What files of CoNLL's columns are called beside `.txt` and `.tsv`.
const CONLL: [&str; 2] = ["conll", "bio"];

/// The usual names of the labels' column.
const TAGS: [&str; 5] = ["ner_tags", "labels", "tags", "pos_tags", "chunk_tags"];

/// A text.
pub(super) struct Tagged {
    pub words: Vec<String>,
    /// As they are written; numbers as such.
    pub tags: Option<Vec<String>>,
    /// Its first line in the file, from 1.
    pub line: usize,
}

/// Where words and labels are in a table.
pub(super) struct Roles {
    words: Role,
    tags: Role,
}

impl Roles {
    pub fn new(columns: &Columns) -> Self {
        Self {
            words: Role::new("text", columns.text.as_ref(), &["tokens", "words"], Need::Required),
            tags: Role::new("label", columns.label.as_ref(), &TAGS, Need::Required),
        }
    }
}

/// What is called for each text.
type Visit<'v> = dyn FnMut(Tagged) -> Result<()> + 'v;

/// Hands the first `limit` texts of a file (0: all) to `visit`, and returns the labels' names where a Parquet file tells
/// what its numbers mean.
///
/// # Errors
/// The file cannot be read or holds no rows; a row is malformed, or has another number of labels than of words.
pub(super) fn read(
    path: &Path,
    roles: &Roles,
    limit: usize,
    labelled: bool,
    visit: &mut Visit<'_>,
) -> Result<Option<Vec<String>>> {
    let conll = |extension: &OsStr| CONLL.iter().any(|known| extension.eq_ignore_ascii_case(known));
    let format = Format::of(path);
    if format == Some(Format::Tsv) || path.extension().is_some_and(conll) {
        columns(path, limit, labelled, visit)?;
        return Ok(None);
    }
    records(path, limit, &mut |record| visit(row(record, roles, labelled)?))?;
    if format != Some(Format::Parquet) {
        return Ok(None);
    }
    // The names of another column of labels say nothing of the one that is read.
    let file = ParquetFile::open(path)?;
    let there = file.columns();
    let read = roles.tags.names.iter().find(|name| there.contains(&name.as_str()));
    Ok(read.and_then(|name| file.class_names(name)))
}

fn row(record: &Record<'_>, roles: &Roles, labelled: bool) -> Result<Tagged> {
    let list = |role: &Role| match record.json(role)?.as_deref() {
        Some(Value::Array(list)) => list
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                Value::Number(number) => Ok(number.to_string()),
                _ => Err(record.refuse(format!("{:?} must be a list of texts or numbers", role.names[0]))),
            })
            .collect::<Result<Vec<String>>>(),
        _ => Err(record.refuse(format!("the column for the {} must hold a list", role.what))),
    };
    let words = list(&roles.words)?;
    let tags = if labelled { Some(list(&roles.tags)?) } else { None };
    match &tags {
        Some(tags) if tags.len() != words.len() => {
            Err(record.refuse(format!("it has {} labels for {} words", tags.len(), words.len())))
        }
        _ => Ok(Tagged { words, tags, line: record.line }),
    }
}

/// A word a line, its label in the last of two or more columns; an empty line ends a text.
fn columns(path: &Path, limit: usize, labelled: bool, visit: &mut Visit<'_>) -> Result<()> {
    let mut lines = Lines::open(path)?;
    let mut texts = 0;
    let mut text = Tagged { words: Vec::new(), tags: labelled.then(Vec::new), line: 0 };
    loop {
        let next = lines.next_or_blank()?;
        let (line, fields): (usize, Vec<&str>) = match next {
            Some((line, content)) if content.contains('\t') => {
                (line, content.split('\t').map(str::trim).collect())
            }
            Some((line, content)) => (line, content.split_whitespace().collect()),
            None => (0, Vec::new()),
        };
        let (word, tag) = match fields.as_slice() {
            [] | [""] | ["-DOCSTART-", ..] => {
                if !text.words.is_empty() {
                    let next = Tagged { words: Vec::new(), tags: labelled.then(Vec::new), line: 0 };
                    visit(std::mem::replace(&mut text, next))?;
                    texts += 1;
                }
                if (texts > 0 && texts == limit) || line == 0 {
                    break;
                }
                continue;
            }
            [word] | [word, .., ""] if labelled => {
                return Err(Error::row(path, line, format!("the word {word:?} has no label beside it")));
            }
            [word] => (*word, ""),
            [word, .., tag] => (*word, *tag),
        };
        if text.words.is_empty() {
            text.line = line;
        }
        text.words.push(word.to_owned());
        text.tags.iter_mut().for_each(|tags| tags.push(tag.to_owned()));
    }
    if texts == 0 { Err(no_rows(path)) } else { Ok(()) }
}
