//! The values of a run file by their full keys, those of the defaults where it has none.

use std::sync::LazyLock;

use toml::{Table, Value};

use crate::nearest::nearest;
use crate::{Error, Result};

/// Every key that has a default.
static DEFAULTS: LazyLock<Table> = LazyLock::new(|| {
    include_str!("defaults.toml").parse().expect("the defaults are TOML; a test reads them")
});

/// Keys that every run must give.
pub(super) const REQUIRED: [&str; 4] = ["model", "task", "output", "data.train"];
/// Keys that stand beside another one and have no default of their own.
const WITHOUT_DEFAULT: [&str; 4] = ["head_dropout", "data.stride", "lora.loftq_config", "train.warmup_steps"];

/// Tables, most of them of patterns, of which an override may set a single entry.
const PATTERNS: [&str; 4] =
    ["lora.rank_pattern", "lora.alpha_pattern", "lora.loftq_config", "train.learning_rate_pattern"];

/// The key of the tables of several adapters.
pub(super) const ADAPTERS: &str = "adapters";

/// The sections of a run file.
pub(super) const SECTIONS: [&str; 3] = ["data", "lora", "train"];

/// A copy of the table of defaults.
pub(super) fn defaults() -> Table {
    DEFAULTS.clone()
}

/// Every key that a run file may have, section included.
pub(super) fn keys() -> Vec<String> {
    let mut keys: Vec<String> =
        REQUIRED.iter().chain(&WITHOUT_DEFAULT).map(|key| (*key).to_owned()).collect();
    for (name, value) in DEFAULTS.iter() {
        match value {
            Value::Table(section) => keys.extend(section.keys().map(|key| format!("{name}.{key}"))),
            _ => keys.push(name.clone()),
        }
    }
    keys
}

/// What a run file or its overrides give, every key known.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(Table);

impl Values {
    /// Checks the keys of a parsed run file.
    pub fn new(table: Table) -> Result<Self> {
        let mut values = Self::default();
        for (name, value) in table {
            match value {
                Value::Table(section) if SECTIONS.contains(&name.as_str()) => {
                    for (key, value) in section {
                        values.insert(&format!("{name}.{key}"), value)?;
                    }
                    // An empty section is given all the same.
                    values.0.entry(name).or_insert_with(|| Value::Table(Table::new()));
                }
                value => values.insert(&name, value)?,
            }
        }
        Ok(values)
    }

    /// Sets the value of a full key, in the place of any that is there.
    pub fn insert(&mut self, key: &str, value: Value) -> Result<()> {
        if let Some(column) = key.strip_prefix("data.columns.") {
            let columns = self.section("data").entry("columns").or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(columns) = columns {
                columns.insert(column.to_owned(), value);
                return Ok(());
            }
        }
        if let Some((table, pattern)) = pattern_of(key) {
            self.insert_pattern(table, pattern, value);
            return Ok(());
        }
        if key.split('.').next() == Some(ADAPTERS) {
            let reason = "each is a table [[adapters]] of the run file and has none itself; what --set sets is set in all \
                          of them, as in lora.r=4";
            return Err(Error::setting(key, reason));
        }
        if SECTIONS.contains(&key) {
            let reason = format!("it is {}; it is a section, written [{key}]", describe(&value));
            return Err(Error::setting(key, reason));
        }
        if !keys().iter().any(|known| known == key) {
            return Err(unknown(key));
        }
        match key.split_once('.') {
            Some((section, name)) => self.section(section).insert(name.to_owned(), value),
            None => self.0.insert(key.to_owned(), value),
        };
        Ok(())
    }

    /// Sets one entry of a table of patterns. The first that matches decides, so it goes before those that are there.
    fn insert_pattern(&mut self, key: &str, pattern: String, value: Value) {
        let (section, name) = parts(key);
        let place = self.section(section).entry(name).or_insert_with(|| Value::Table(Table::new()));
        let mut patterns = Table::from_iter([(pattern.clone(), value)]);
        if let Value::Table(old) = place {
            old.remove(&pattern);
            patterns.extend(std::mem::take(old));
        }
        *place = Value::Table(patterns);
    }

    fn section(&mut self, name: &str) -> &mut Table {
        let section = self.0.entry(name).or_insert_with(|| Value::Table(Table::new()));
        if !section.is_table() {
            *section = Value::Table(Table::new());
        }
        match section {
            Value::Table(table) => table,
            _ => unreachable!("made a table above"),
        }
    }

    /// The keys of a section that the run gives itself.
    pub fn given(&self, section: &str) -> Vec<String> {
        let table = find(&self.0, section).and_then(Value::as_table);
        table.map(|table| table.keys().cloned().collect()).unwrap_or_default()
    }

    /// The value that the run gives itself.
    pub fn own(&self, key: &str) -> Option<&Value> {
        find(&self.0, key)
    }

    /// All that the run gives itself, by full keys.
    pub fn entries(self) -> impl Iterator<Item = (String, Value)> {
        self.0.into_iter().flat_map(|(name, value)| match value {
            Value::Table(section) if SECTIONS.contains(&name.as_str()) => {
                section.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)).collect::<Vec<_>>()
            }
            value => vec![(name, value)],
        })
    }

    /// Whether the run gives this key itself.
    pub fn gives(&self, key: &str) -> bool {
        find(&self.0, key).is_some()
    }

    /// The value, that of the defaults where the run gives none.
    pub fn get(&self, key: &str) -> Option<&Value> {
        find(&self.0, key).or_else(|| find(&DEFAULTS, key))
    }

    /// A string; empty where there is none.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.get(key) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(wrong(key, other, "a string")),
        }
    }

    /// A string that must be there.
    pub fn required(&self, key: &str) -> Result<&str> {
        match self.text(key)? {
            "" if self.gives(key) => Err(Error::setting(key, "it is empty")),
            "" => Err(Error::setting(key, "it is missing; model, task, output and data.train are required")),
            text => Ok(text),
        }
    }

    /// One of some words.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<T> {
        let text = self.text(key)?;
        choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            Error::setting(key, format!("{text:?} is not one of {}", words.join(", ")))
        })
    }

    /// A whole number from 0.
    pub fn count(&self, key: &str) -> Result<usize> {
        match self.get(key) {
            None => Ok(0),
            Some(Value::Integer(number)) => usize::try_from(*number)
                .map_err(|_| Error::setting(key, format!("it is {number}; it must not be below 0"))),
            Some(other) => Err(wrong(key, other, "a whole number")),
        }
    }

    /// A number, whole or not.
    pub fn number(&self, key: &str) -> Result<f64> {
        match self.get(key) {
            None => Ok(0.0),
            Some(value) => number(value).ok_or_else(|| wrong(key, value, "a number")),
        }
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Boolean(flag)) => Ok(*flag),
            Some(other) => Err(wrong(key, other, "true or false")),
        }
    }

    /// A table of patterns, in the run's order: of what, and one of its values as an example.
    pub fn by_pattern<T>(
        &self,
        key: &str,
        (what, example): (&str, &str),
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<(String, T)>> {
        let patterns = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Table(patterns)) => patterns,
            Some(other) => {
                return Err(wrong(
                    key,
                    other,
                    &format!("a table such as {{\"layer.0.*query\" = {example}}}"),
                ));
            }
        };
        patterns
            .iter()
            .map(|(pattern, value)| {
                let read = read(value).ok_or_else(|| wrong(&format!("{key}.{pattern:?}"), value, what))?;
                Ok((pattern.clone(), read))
            })
            .collect()
    }

    /// A list of strings.
    pub fn list(&self, key: &str) -> Result<Vec<String>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let Value::Array(items) = value else { return Err(wrong(key, value, "a list of strings")) };
        let text = |item: &Value| match item {
            Value::String(text) => Ok(text.clone()),
            other => {
                Err(Error::setting(key, format!("it holds {}; it is a list of strings", describe(other))))
            }
        };
        items.iter().map(text).collect()
    }
}

/// A number, whole or not.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        other => other.as_float(),
    }
}

/// The table of patterns that [`Values::by_pattern`] reads.
pub(super) fn by_pattern<T>(patterns: &[(String, T)], write: impl Fn(&T) -> Value) -> Value {
    Value::Table(patterns.iter().map(|(pattern, value)| (pattern.clone(), write(value))).collect())
}

/// The pattern of `TABLE.pattern` or `TABLE."pattern"`. What looks like a dotted key of TOML is one pattern: these are
/// made of the dotted names of modules, and no table is inside another here.
fn pattern_of(key: &str) -> Option<(&'static str, String)> {
    let of_table = |table: &&'static str| Some((*table, key.strip_prefix(table)?.strip_prefix('.')?.trim()));
    let (table, pattern) = PATTERNS.iter().find_map(of_table)?;
    let quoted = || format!("{pattern} = 0").parse::<Table>().ok()?.into_iter().next();
    let quoted = quoted().filter(|_| pattern.starts_with(['"', '\'']));
    Some((table, quoted.map_or_else(|| pattern.to_owned(), |(pattern, _)| pattern)))
}

/// The key as errors name it.
pub(super) fn full_key(key: &str) -> String {
    pattern_of(key).map_or_else(|| key.to_owned(), |(table, pattern)| format!("{table}.{pattern:?}"))
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((section, name)) => table.get(section)?.as_table()?.get(name),
        None => table.get(key),
    }
}

/// The error for a value of the wrong type.
pub(super) fn wrong(key: &str, found: &Value, wanted: &str) -> Error {
    Error::setting(key, format!("it is {}; it must be {wanted}", describe(found)))
}

/// A value in words.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string {text:?}"),
        Value::Integer(number) => format!("the whole number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(date) => format!("the date {date}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

/// The error for a key that does not exist, with the nearest full keys: the same name in another section, else a name
/// like it in the same section, else whatever looks like the whole key, else a name like it in any section.
fn unknown(key: &str) -> Error {
    let keys = keys();
    let (section, name) = parts(key);
    let like = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
        let names = keys.iter().filter(|key| wanted(parts(key).0));
        let near = nearest(name, names.map(|key| parts(key).1));
        let full =
            |near: &String| keys.iter().find(|key| wanted(parts(key).0) && parts(key).1 == near).cloned();
        near.iter().filter_map(full).collect()
    };
    let found = [
        keys.iter().filter(|known| parts(known).1 == name).cloned().collect(),
        like(&|other| other == section),
        nearest(key, keys.iter().map(String::as_str).chain(SECTIONS).chain([ADAPTERS])),
        like(&|_| true),
    ];
    let found = found.into_iter().find(|found: &Vec<String>| !found.is_empty());
    Error::UnknownName { what: "key", name: key.to_owned(), nearest: found.unwrap_or_default() }
}

/// Section and name of a full key.
fn parts(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}
