//! Sources and what they are to be turned into.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use super::LanguageOptions;
use super::completions::parted_lines;
use super::documents::is_text;
use crate::Result;
use crate::data::language::{Rows, SourceTarget};
use crate::data::tasks::table::{Need, Record, Role, records};

const SOURCES: &[&str] = &["source", "document", "article", "dialogue", "input", "text"];
const TARGETS: &[&str] = &["target", "summary", "highlights", "output"];

/// The first `limit` sources of a file (0: all) with their targets: from the columns of a table, where a column
/// `translation` holds a text for each language, of which `columns` names two, or from the lines of a `.txt` file,
/// `SOURCE||TARGET`.
///
/// # Errors
/// The file cannot be read or holds no rows; a row is malformed or lacks a column; a translation lacks a language.
pub fn source_targets(path: &Path, options: &LanguageOptions, limit: usize) -> Result<Rows<SourceTarget>> {
    let columns = &options.columns;
    let source = Role::new("source", columns.source.as_ref(), SOURCES, Need::Required);
    let target = Role::new("target", columns.target.as_ref(), TARGETS, options.answer());
    let translation = Role::new("translation", None, &["translation"], Need::Optional);
    let mut rows = Vec::new();
    if is_text(path) {
        parted_lines(path, options, limit, &mut |given, wanted, line| {
            let source = format!("{}{given}", options.source_prefix);
            rows.push(SourceTarget { source, target: wanted.map(str::to_owned), line });
        })?;
        return Ok(Rows { path: path.to_path_buf(), rows });
    }
    records(path, limit, &mut |record| {
        let (given, wanted) = if !record.has(&source) && record.has(&translation) {
            let texts = record.json(&translation)?;
            let texts = texts.as_deref().unwrap_or(&Value::Null);
            let language = |role: &Role, chosen: Option<&String>| of_language(record, texts, role, chosen);
            (language(&source, columns.source.as_ref())?, language(&target, columns.target.as_ref())?)
        } else {
            (record.text(&source)?.map(Cow::into_owned), record.text(&target)?.map(Cow::into_owned))
        };
        rows.push(SourceTarget {
            source: format!("{}{}", options.source_prefix, given.unwrap_or_default()),
            target: wanted,
            line: record.line,
        });
        Ok(())
    })?;
    Ok(Rows { path: path.to_path_buf(), rows })
}

/// A language's text in a translation.
fn of_language(
    record: &Record<'_>,
    texts: &Value,
    role: &Role,
    chosen: Option<&String>,
) -> Result<Option<String>> {
    let Value::Object(texts) = texts else {
        return Err(record.refuse("\"translation\" must be an object with a text for each language"));
    };
    let listed = || texts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let Some(language) = chosen else {
        let reason = format!("data.columns must say which language is the {}: {}", role.what, listed());
        return Err(record.refuse(reason));
    };
    match texts.get(language) {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        None | Some(Value::Null) if role.need == Need::Optional => Ok(None),
        None | Some(Value::Null) => Err(record.refuse(format!(
            "its translation has no {language:?} for the {}; there is {}",
            role.what,
            listed()
        ))),
        Some(_) => Err(record.refuse(format!("its translation into {language:?} is not a text"))),
    }
}
