//! JSON lines: one object a line; or, in a `.json` file, a list of objects.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Value};

use super::lines::Lines;
use super::{Layout, Need, Role, Row, Visit, json_array, missing};
use crate::{Error, Result};

pub(super) fn read(path: &Path, layout: &Layout, visit: &mut Visit<'_>) -> Result<()> {
    objects(path, &mut |line, object| visit(row_of(path, line, layout, object)?))
}

/// What is called for each object and its line; false: enough.
pub(super) type VisitObject<'v> = dyn FnMut(usize, &Map<String, Value>) -> Result<bool> + 'v;

/// Hands each object to `visit` until that says `false`.
pub(super) fn objects(path: &Path, visit: &mut VisitObject<'_>) -> Result<()> {
    if json_array::is_array(path)? {
        return json_array::objects(path, visit);
    }
    let mut lines = Lines::open(path)?;
    while let Some((line, text)) = lines.next()? {
        if text.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(text).map_err(|error| {
            Error::row(path, line, format!("not JSON, of which a line holds one object: {error}"))
        })?;
        let Value::Object(object) = value else {
            return Err(Error::row(
                path,
                line,
                format!("a line must be a JSON object, not {}", kind(&value)),
            ));
        };
        if !visit(line, &object)? {
            break;
        }
    }
    Ok(())
}

/// The wanted values of an object.
pub(super) fn row_of<'a>(
    path: &Path,
    line: usize,
    layout: &Layout,
    object: &'a Map<String, Value>,
) -> Result<Row<'a>> {
    Ok(Row {
        line,
        text: required(path, line, &layout.text, text_of(path, line, &layout.text, object)?, object)?,
        pair: text_of(path, line, &layout.pair, object)?,
        label: label_of(path, line, &layout.label, object)?,
    })
}

/// The value of a role's column; null is none.
pub(super) fn value<'a>(
    path: &Path,
    line: usize,
    role: &Role,
    object: &'a Map<String, Value>,
) -> Result<Option<(&'a str, &'a Value)>> {
    if role.need == Need::Ignored {
        return Ok(None);
    }
    let found = role.names.iter().find_map(|name| object.get_key_value(name));
    let found = found.map(|(name, value)| (name.as_str(), value)).filter(|(_, value)| !value.is_null());
    if role.need == Need::Required { required(path, line, role, found, object).map(Some) } else { Ok(found) }
}

pub(super) fn text_of<'a>(
    path: &Path,
    line: usize,
    role: &Role,
    object: &'a Map<String, Value>,
) -> Result<Option<Cow<'a, str>>> {
    match value(path, line, role, object)? {
        None => Ok(None),
        Some((_, Value::String(text))) => Ok(Some(Cow::Borrowed(text))),
        Some((name, other)) => Err(wrong(path, line, name, "a text", other)),
    }
}

fn label_of<'a>(
    path: &Path,
    line: usize,
    role: &Role,
    object: &'a Map<String, Value>,
) -> Result<Option<Cow<'a, str>>> {
    match value(path, line, role, object)? {
        None => Ok(None),
        Some((_, Value::String(text))) => Ok(Some(Cow::Borrowed(text))),
        Some((_, Value::Number(number))) => Ok(Some(Cow::Owned(number.to_string()))),
        Some((_, Value::Bool(value))) => Ok(Some(Cow::Owned(value.to_string()))),
        Some((name, other)) => Err(wrong(path, line, name, "a text or a number", other)),
    }
}

fn required<T>(
    path: &Path,
    line: usize,
    role: &Role,
    found: Option<T>,
    object: &Map<String, Value>,
) -> Result<T> {
    found.ok_or_else(|| {
        let keys: Vec<&str> = object.keys().map(String::as_str).collect();
        missing(role, path, line, &keys)
    })
}

pub(super) fn wrong(path: &Path, line: usize, name: &str, wanted: &str, value: &Value) -> Error {
    Error::row(path, line, format!("{name:?} must be {wanted}, not {}", kind(value)))
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
