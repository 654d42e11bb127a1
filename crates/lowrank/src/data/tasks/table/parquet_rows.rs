//! The rows of a Parquet file, by the names of its columns.

use std::path::Path;

use serde_json::Value;

use super::json_rows::row_of;
use super::{Layout, Need, Visit};
use crate::Result;
use crate::data::parquet::{ParquetFile, object};

/// A row's line is its number, from 1.
pub(super) fn read(path: &Path, layout: &Layout, visit: &mut Visit<'_>) -> Result<()> {
    let file = ParquetFile::open(path)?;
    layout.places(path, &file.columns())?;
    let roles = [&layout.text, &layout.pair, &layout.label];
    let wanted = roles.into_iter().filter(|role| role.need != Need::Ignored);
    let wanted: Vec<&str> = wanted.flat_map(|role| role.names.iter().map(String::as_str)).collect();
    let classes = classes_of(&file, layout).filter(|_| layout.names_classes);
    file.rows(&wanted, &mut |line, columns| {
        let mut object = object(columns);
        if let Some((column, names)) = &classes
            && let Some(number) = object.get(column).and_then(Value::as_u64)
            && let Some(name) = usize::try_from(number).ok().and_then(|number| names.get(number))
        {
            object.insert(column.clone(), name.as_str().into());
        }
        visit(row_of(path, line, layout, &object)?)
    })
}

/// The names of the label's classes, if the file tells them.
pub(super) fn class_names(path: &Path, layout: &Layout) -> Result<Option<Vec<String>>> {
    let file = ParquetFile::open(path)?;
    Ok(classes_of(&file, layout).map(|(_, names)| names))
}

/// The column of the label, and the names of its classes.
fn classes_of(file: &ParquetFile<'_>, layout: &Layout) -> Option<(String, Vec<String>)> {
    let columns = file.columns();
    let column = layout.label.names.iter().find(|name| columns.contains(&name.as_str()))?;
    (layout.label.need != Need::Ignored).then(|| Some((column.clone(), file.class_names(column)?)))?
}
