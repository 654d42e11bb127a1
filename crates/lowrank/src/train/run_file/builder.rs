//! From the text of a run file, and settings that override it, to a run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::values::{Values, defaults, full_key};
use super::{RunFile, Source, sections};
use crate::adapter::Targets;
use crate::text::read_text;
use crate::{Error, Result};

/// A run file that is still being written: a text, and settings that override it.
///
/// ```
/// use lowrank::train::RunFileBuilder;
///
/// let mut builder = RunFileBuilder::new();
/// builder.set("model=roberta-base")?.set("task=sst2")?.set("output=runs/sst2")?;
/// builder.set("data.train=train.tsv")?.set("train.learning_rate=1e-3")?;
/// let run = builder.build()?;
/// assert_eq!(run.train.learning_rate, 1e-3);
/// # Ok::<(), lowrank::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RunFileBuilder {
    values: Values,
    overridden: BTreeSet<String>,
    /// What overrides the run file, as it was given.
    overrides: Vec<(String, Value)>,
    path: Option<PathBuf>,
    source: Source,
    /// `[[adapters]]`: what each has of its own.
    adapters: Vec<Table>,
}

/// Keys that are the same for all adapters which are trained at once.
const SHARED: [&str; 10] = [
    "model",
    "task",
    "output",
    "method",
    "load_in",
    "head",
    "head_dropout",
    "train.seed",
    "train.dtype",
    "train.compute",
];

impl RunFileBuilder {
    /// A run of which nothing is known; its paths are relative to the working folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a run file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or holds an unknown key.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = read_text(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut builder = Self::from_toml(&text, folder).map_err(|error| error.in_run_file(path))?;
        builder.path = Some(path.to_path_buf());
        Ok(builder)
    }

    /// Reads the text of a run file, its paths relative to `folder`.
    ///
    /// # Errors
    /// If it is not TOML, or holds an unknown key.
    pub fn from_toml(text: &str, folder: impl AsRef<Path>) -> Result<Self> {
        let mut table: Table = text.parse().map_err(|error| syntax(text, &error))?;
        let adapters = match table.remove("adapters") {
            None => Vec::new(),
            Some(value) => adapters(value)?,
        };
        let source = Source { folder: folder.as_ref().to_path_buf(), text: Some(text.to_owned()) };
        Ok(Self { values: Values::new(table)?, source, adapters, ..Self::default() })
    }

    /// Overrides one key, written as in `train.max_steps=100`. The value is TOML, or a bare string; where a list
    /// belongs, a bare string is one of names with commas between. A single entry of a table of patterns is
    /// `lora.rank_pattern.query=16`, or `lora.rank_pattern."layer.0.*query"=16`: it goes before those that are there.
    ///
    /// # Errors
    /// If there is no such key, or no `=`.
    pub fn set(&mut self, assignment: &str) -> Result<&mut Self> {
        let Some((key, raw)) = assignment.split_once('=') else {
            return Err(Error::setting(assignment, "no value is given; write it as train.max_steps=100"));
        };
        let (key, raw) = (key.trim(), raw.trim());
        let parsed = format!("value = {raw}").parse::<Table>().ok();
        let parsed = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
        self.override_with(key, parsed.unwrap_or_else(|| bare(key, raw)))
    }

    /// Overrides one key with a string, whatever the string looks like.
    ///
    /// # Errors
    /// If there is no such key.
    pub fn set_text(&mut self, key: &str, text: impl Into<String>) -> Result<&mut Self> {
        self.override_with(key, Value::String(text.into()))
    }

    fn override_with(&mut self, key: &str, value: Value) -> Result<&mut Self> {
        self.values.insert(key, value.clone())?;
        self.overridden.insert(full_key(key));
        self.overrides.push((key.to_owned(), value));
        Ok(self)
    }

    /// The run, checked.
    ///
    /// # Errors
    /// If a required key is missing, a value is of the wrong type or out of range, or something is asked for that
    /// this program does not do yet.
    pub fn build(&self) -> Result<RunFile> {
        if !self.adapters.is_empty() {
            let reason =
                "[[adapters]] are trained together by `lowrank train`; this takes a run of one adapter";
            return Err(self.placed(Error::setting("adapters", reason)));
        }
        read(&self.values, self.source.clone()).map_err(|error| self.placed(error))
    }

    /// The runs of all `[[adapters]]` with their names, each in a folder of its own in the output; without any, the one run
    /// with no name. What overrides the run file overrides it in all.
    ///
    /// # Errors
    /// As [`RunFileBuilder::build`]; if an adapter has no name or that of another, or sets what all share.
    pub fn build_all(&self) -> Result<Vec<(String, RunFile)>> {
        if self.adapters.is_empty() {
            return Ok(vec![(String::new(), self.build()?)]);
        }
        let mut runs: Vec<(String, RunFile)> = Vec::new();
        for table in &self.adapters {
            let mut table = table.clone();
            let name = match table.remove("name") {
                Some(Value::String(name)) => name,
                _ => return Err(self.placed(Error::setting("adapters", "each has a name: name = \"…\""))),
            };
            let section = format!("adapters.{name}");
            let run = self.run_of(&name, table).map_err(|error| match &error {
                Error::Setting { key, .. } if self.overridden.contains(key) => error,
                Error::Setting { .. } => self.placed(error.in_section(&section)),
                _ => self.placed(error).of_adapter(&name),
            })?;
            // Some file systems know no case.
            if runs.iter().any(|(other, _)| other.to_lowercase() == name.to_lowercase()) {
                return Err(self.placed(Error::setting(
                    "adapters",
                    format!("two have the name {name:?}, be it in other letters"),
                )));
            }
            runs.push((name, run));
        }
        Ok(runs)
    }

    /// The run of one of several adapters.
    fn run_of(&self, name: &str, own: Table) -> Result<RunFile> {
        let is_folder = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        if !is_folder || name.starts_with('.') {
            let reason = format!("{name:?} names a folder; it has letters, digits, -, _ and dots inside");
            return Err(Error::setting("name", reason));
        }
        let mut values = self.values.clone();
        for (key, value) in Values::new(own)?.entries() {
            if SHARED.contains(&key.as_str()) {
                return Err(Error::setting(key, "it is the same for all adapters; set it once, above them"));
            }
            // Of a table of names or patterns, what is common to all stands behind.
            let value = match (value, values.own(&key)) {
                (Value::Table(mut own), Some(Value::Table(common))) => {
                    for (name, value) in common {
                        own.entry(name.clone()).or_insert_with(|| value.clone());
                    }
                    Value::Table(own)
                }
                (value, _) => value,
            };
            values.insert(&key, value)?;
        }
        for (key, value) in &self.overrides {
            values.insert(key, value.clone())?;
        }
        let output = Path::new(values.required("output")?).join(name);
        values.insert("output", Value::String(output.to_string_lossy().into_owned()))?;
        read(&values, Source { text: None, ..self.source.clone() })
    }

    /// An error of the run file, if it is not of what overrides it.
    fn placed(&self, error: Error) -> Error {
        match (&self.path, &error) {
            (Some(_), Error::Setting { key, .. }) if self.overridden.contains(key) => error,
            (Some(path), _) => error.in_run_file(path),
            (None, _) => error,
        }
    }
}

/// A run, checked.
fn read(values: &Values, source: Source) -> Result<RunFile> {
    let run = sections::read(values, source)?;
    run.check()?;
    Ok(run)
}

/// The tables of `[[adapters]]`.
fn adapters(value: Value) -> Result<Vec<Table>> {
    let wrong = || Error::setting("adapters", "they are tables, each written [[adapters]]");
    let Value::Array(items) = value else { return Err(wrong()) };
    if items.is_empty() {
        return Err(Error::setting("adapters", "there is none; leave it out, or write each as [[adapters]]"));
    }
    let table = |item| if let Value::Table(table) = item { Ok(table) } else { Err(wrong()) };
    items.into_iter().map(table).collect()
}

/// A value that is not TOML: a string, or names where the key takes a list.
fn bare(key: &str, raw: &str) -> Value {
    let default = defaults();
    let default = key.split_once('.').and_then(|(section, name)| default.get(section)?.get(name).cloned());
    match (default, Targets::from_words(raw)) {
        (Some(Value::Array(_)), Targets::Names(names)) => {
            Value::Array(names.into_iter().map(Value::String).collect())
        }
        _ => Value::String(raw.to_owned()),
    }
}

fn syntax(text: &str, error: &toml::de::Error) -> Error {
    let before = &text[..error.span().map_or(0, |span| text.floor_char_boundary(span.start))];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let message = error.message().trim().replace('\n', ", ");
    Error::setting(format!("line {line}, column {column}"), format!("not TOML: {message}"))
}
