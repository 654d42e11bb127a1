//! Questions from SQuAD's published JSON, or one a row: JSON lines or Parquet as the Hub has them.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::data::squad::{Entry, Gathered, Given, Purpose, Questions, ReadOptions, read as read_published};
use crate::data::tasks::table::{Need, Record, Role, is_table, records_while};

/// Reads the questions of a file.
///
/// # Errors
/// As [`read_published`]; a row lacks a column, or its `answers` are no `{"text": […], "answer_start": […]}`.
pub(super) fn read(path: &Path, options: &ReadOptions) -> Result<Questions> {
    if !is_table(path)? {
        return read_published(path, options);
    }
    let role = |name: &'static str, need| Role::new(name, None, &[name], need);
    let required = |name| role(name, Need::Required);
    let (id, context, question) = (required("id"), required("context"), required("question"));
    let answers =
        role("answers", if options.purpose == Purpose::Predict { Need::Optional } else { Need::Required });
    let mut gathered = Gathered::new(path, options);
    records_while(path, &mut |record| {
        let text = |role: &Role| record.text(role).map(|text| text.map(Cow::into_owned).unwrap_or_default());
        let given = match record.json(&answers)? {
            Some(answers) => Some(given(record, &answers)?),
            None => None,
        };
        let entry = Entry { id: text(&id)?, question: text(&question)?, answers: given };
        gathered.add(entry, &record.text(&context)?.unwrap_or_default())
    })?;
    gathered.finish()
}

/// The two lists of the Hub's rows, or the published list of answers.
fn given(record: &Record<'_>, answers: &Value) -> Result<Vec<Given>> {
    let malformed = || {
        record.refuse("\"answers\" must be {\"text\": [texts], \"answer_start\": [numbers]}, as many of both")
    };
    let one = |text: &Value, start: &Value| {
        let (text, answer_start) = (text.as_str()?.to_owned(), start.as_i64()?);
        Some(Given { text, answer_start })
    };
    let all: Option<Vec<Given>> = match answers {
        Value::Array(list) => {
            list.iter().map(|answer| one(answer.get("text")?, answer.get("answer_start")?)).collect()
        }
        _ => {
            let list = |name: &str| answers.get(name).and_then(Value::as_array);
            let (Some(texts), Some(starts)) = (list("text"), list("answer_start")) else {
                return Err(malformed());
            };
            if texts.len() != starts.len() {
                return Err(malformed());
            }
            texts.iter().zip(starts).map(|(text, start)| one(text, start)).collect()
        }
    };
    all.ok_or_else(malformed)
}
