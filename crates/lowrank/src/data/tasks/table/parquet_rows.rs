//! The rows of a Parquet file, by the names of its columns.

use std::path::Path;

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
    file.rows(&wanted, &mut |line, columns| visit(row_of(path, line, layout, &object(columns))?))
}
