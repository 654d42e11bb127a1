//! Rows of any table with all their columns, for those that want other ones than a text, a pair and a label.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Value};

use super::lines::Lines;
use super::{Format, Need, Role, count, csv_rows, json_rows, missing, no_rows};
use crate::data::parquet::{ParquetFile, object};
use crate::{Error, Result};

/// One row.
pub(in crate::data::tasks) struct Record<'a> {
    pub path: &'a Path,
    pub line: usize,
    fields: Fields<'a>,
}

enum Fields<'a> {
    Table { header: &'a [String], values: &'a [&'a str] },
    Json(&'a Map<String, Value>),
}

/// Hands the first `limit` rows of a file (0: all) to `visit`, in order.
pub(in crate::data::tasks) fn records(
    path: &Path,
    limit: usize,
    visit: &mut dyn FnMut(&Record<'_>) -> Result<()>,
) -> Result<()> {
    let mut rows = 0;
    records_while(path, &mut |record| {
        visit(record)?;
        rows += 1;
        Ok(rows != limit)
    })
}

/// Hands the rows of a file to `visit`, in order, until that says false.
pub(in crate::data::tasks) fn records_while(
    path: &Path,
    visit: &mut dyn FnMut(&Record<'_>) -> Result<bool>,
) -> Result<()> {
    let mut rows = 0;
    let mut limited = |line: usize, fields: Fields<'_>| {
        rows += 1;
        visit(&Record { path, line, fields })
    };
    let mut header: Option<Vec<String>> = None;
    let mut table = |line: usize, values: &[&str]| {
        let Some(header) = &header else {
            header = Some(values.iter().map(|&name| name.to_owned()).collect());
            return Ok(true);
        };
        if values.len() != header.len() {
            let reason = format!("{} where {} belong", count(values.len()), header.len());
            return Err(Error::row(path, line, reason));
        }
        limited(line, Fields::Table { header, values })
    };
    match Format::of(path) {
        Some(Format::JsonLines) => {
            json_rows::objects(path, &mut |line, object| limited(line, Fields::Json(object)))?;
        }
        Some(Format::Csv) => csv_rows::rows(path, &mut table)?,
        Some(Format::Tsv) => {
            let mut lines = Lines::open(path)?;
            while let Some((line, text)) = lines.next()? {
                if !table(line, &text.split('\t').collect::<Vec<_>>())? {
                    break;
                }
            }
        }
        Some(Format::Parquet) => {
            let file = ParquetFile::open(path)?;
            let names = file.columns();
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            file.rows(&names, &mut |line, columns| limited(line, Fields::Json(&object(columns))))?;
        }
        None => {
            let reason =
                "its name does not tell what it holds: .jsonl, .json, .csv, .tsv or .parquet is needed";
            return Err(Error::file(path, reason));
        }
    }
    if rows == 0 { Err(no_rows(path)) } else { Ok(()) }
}

impl Record<'_> {
    /// Whether it has one of these columns, not null.
    pub fn has(&self, role: &Role) -> bool {
        role.names.iter().any(|name| match &self.fields {
            Fields::Table { header, .. } => header.contains(name),
            Fields::Json(object) => object.get(name).is_some_and(|value| !value.is_null()),
        })
    }

    /// The name of the column that a role has here.
    pub fn column<'r>(&self, role: &'r Role) -> Option<&'r str> {
        let there = |name: &&String| match &self.fields {
            Fields::Table { header, .. } => header.contains(name),
            Fields::Json(object) => object.contains_key(*name),
        };
        role.names.iter().find(there).map(String::as_str)
    }

    /// The text of a column; none if it may be absent and is.
    pub fn text(&self, role: &Role) -> Result<Option<Cow<'_, str>>> {
        match &self.fields {
            Fields::Table { header, values } => self.cell(role, header, values),
            Fields::Json(object) => json_rows::text_of(self.path, self.line, role, object),
        }
    }

    /// The JSON value of a column, in a table without types written as a text; none if it may be absent and is.
    pub fn json(&self, role: &Role) -> Result<Option<Cow<'_, Value>>> {
        match &self.fields {
            Fields::Json(object) => {
                let found = json_rows::value(self.path, self.line, role, object)?;
                Ok(found.map(|(_, value)| Cow::Borrowed(value)))
            }
            Fields::Table { header, values } => {
                let Some(text) = self.cell(role, header, values)? else { return Ok(None) };
                let value = serde_json::from_str(&text).map_err(|error| {
                    self.refuse(format!("the {} must be JSON, and are not: {error}", role.what))
                })?;
                Ok(Some(Cow::Owned(value)))
            }
        }
    }

    /// An error at this row.
    pub fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::row(self.path, self.line, reason)
    }

    fn cell<'v>(&self, role: &Role, header: &[String], values: &[&'v str]) -> Result<Option<Cow<'v, str>>> {
        if role.need == Need::Ignored {
            return Ok(None);
        }
        let place = role.names.iter().find_map(|name| header.iter().position(|column| column == name));
        match place.and_then(|place| values.get(place)) {
            Some(&value) => Ok(Some(Cow::Borrowed(value))),
            None if role.need == Need::Required => {
                let header: Vec<&str> = header.iter().map(String::as_str).collect();
                Err(missing(role, self.path, 1, &header))
            }
            None => Ok(None),
        }
    }
}
