//! Rows of a TSV, CSV, JSON-lines or Parquet file, their columns found by name.

mod csv_rows;
mod json_array;
mod json_rows;
mod lines;
mod parquet_rows;
mod records;
mod tsv_rows;

use std::borrow::Cow;
use std::path::Path;

pub(super) use lines::Lines;
pub(super) use records::{Record, records, records_while};

use crate::nearest::nearest;
use crate::{Error, Result};

/// A column that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Role {
    /// What it holds, in the words of a run file's `data.columns`.
    pub what: &'static str,
    /// The names that it may have, the first that exists being taken.
    pub names: Vec<String>,
    pub need: Need,
}

impl Role {
    /// A column of the name that was chosen, or else of one of its usual names. An empty name says that there is none,
    /// where there may be none.
    pub fn new(what: &'static str, chosen: Option<&String>, usual: &[&str], need: Need) -> Self {
        match chosen {
            Some(name) if !name.is_empty() => Self { what, names: vec![name.clone()], need },
            Some(_) if need == Need::Optional => Self { what, names: Vec::new(), need: Need::Ignored },
            _ => Self { what, names: usual.iter().map(|&name| name.to_owned()).collect(), need },
        }
    }
}

/// Whether a column must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    Optional,
    Ignored,
}

/// The columns that are wanted.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub text: Role,
    pub pair: Role,
    pub label: Role,
    /// A TSV file whose first line names no such text column has no header and these columns.
    pub headerless: Option<Places>,
    /// Whether a TSV file's rows of another width than the header's are left out; elsewhere they are errors.
    pub skip_ragged: bool,
    /// Whether a class number of a Parquet file that names its classes is read as the name.
    pub names_classes: bool,
}

/// Where the wanted columns are, and how many columns there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub text: usize,
    pub pair: Option<usize>,
    pub label: Option<usize>,
    pub columns: usize,
}

/// One row's wanted values.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub line: usize,
    pub text: Cow<'a, str>,
    pub pair: Option<Cow<'a, str>>,
    pub label: Option<Cow<'a, str>>,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Tsv,
    Csv,
    JsonLines,
    Parquet,
}

impl Format {
    /// The format that a file's name tells.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "tsv" | "txt" => Some(Self::Tsv),
            "csv" => Some(Self::Csv),
            "jsonl" | "json" | "ndjson" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// Whether a file's name tells of a table; what is called `.json` is one if it holds a list.
pub(super) fn is_table(path: &Path) -> Result<bool> {
    let called_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    if called_json { json_array::is_array(path) } else { Ok(Format::of(path).is_some()) }
}

/// Hands the first `limit` rows of a file (0: all) to `visit`, in order, and returns the errors of those that were left
/// out.
pub(super) fn read(
    path: &Path,
    format: Format,
    layout: &Layout,
    limit: usize,
    visit: &mut dyn FnMut(Row<'_>) -> Result<()>,
) -> Result<Vec<Error>> {
    let mut count = 0;
    let mut limited = |row: Row<'_>| {
        visit(row)?;
        count += 1;
        Ok(count != limit)
    };
    let mut skipped = Vec::new();
    match format {
        Format::Tsv => skipped = tsv_rows::read(path, layout, &mut limited)?,
        Format::Csv => csv_rows::read(path, layout, &mut limited)?,
        Format::JsonLines => json_rows::read(path, layout, &mut limited)?,
        Format::Parquet => parquet_rows::read(path, layout, &mut limited)?,
    }
    if count == 0 {
        return Err(no_rows(path));
    }
    Ok(skipped)
}

/// The classes of the label's column, if the file is of Parquet and names them.
pub(super) fn class_names(path: &Path, layout: &Layout) -> Result<Option<Vec<String>>> {
    match Format::of(path) {
        Some(Format::Parquet) => parquet_rows::class_names(path, layout),
        _ => Ok(None),
    }
}

/// What is wrong with a file without rows.
pub(super) fn no_rows(path: &Path) -> Error {
    let empty = std::fs::metadata(path).is_ok_and(|data| data.len() == 0);
    Error::file(path, if empty { "it is empty" } else { "it holds no rows" })
}

/// What a reader calls for each row; false: enough.
type Visit<'v> = dyn FnMut(Row<'_>) -> Result<bool> + 'v;

impl Layout {
    /// The places of the wanted columns under this header.
    fn places(&self, path: &Path, header: &[&str]) -> Result<Places> {
        let find = |role: &Role| self.place(role, path, header);
        let Some(text) = find(&self.text)? else {
            return Err(missing(&self.text, path, 1, header));
        };
        Ok(Places { text, pair: find(&self.pair)?, label: find(&self.label)?, columns: header.len() })
    }

    fn place(&self, role: &Role, path: &Path, header: &[&str]) -> Result<Option<usize>> {
        let place = role.names.iter().find_map(|name| header.iter().position(|column| column == name));
        match role.need {
            Need::Ignored => Ok(None),
            Need::Required if place.is_none() => Err(missing(role, path, 1, header)),
            _ => Ok(place),
        }
    }
}

impl Places {
    fn row<'a>(&self, line: usize, field: impl Fn(usize) -> Cow<'a, str>) -> Row<'a> {
        Row { line, text: field(self.text), pair: self.pair.map(&field), label: self.label.map(&field) }
    }

    /// A row of another width than the header's.
    fn ragged(&self, path: &Path, line: usize, columns: usize) -> Error {
        Error::row(path, line, format!("{} where {} belong", count(columns), self.columns))
    }
}

fn count(columns: usize) -> String {
    if columns == 1 { "1 column".to_owned() } else { format!("{columns} columns") }
}

fn missing(role: &Role, path: &Path, line: usize, header: &[&str]) -> Error {
    let wanted = role.names.join(" or ");
    let near = role.names.iter().find_map(|name| nearest(name, header.iter().copied()).into_iter().next());
    let near = near.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
    let shown: Vec<_> = header.iter().take(20).map(|name| shorten(name)).collect();
    Error::row(
        path,
        line,
        format!("no column {wanted} for the {}; there is {}{near}", role.what, shown.join(", ")),
    )
}

/// The name of a column, or the beginning of a text that stands where one belongs.
fn shorten(name: &str) -> String {
    match name.char_indices().nth(40) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}
