//! Text files, and tables of text.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// The text of a file.
///
/// # Errors
/// It cannot be read, or is not UTF-8, with the line of the first byte that is not.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::row(path, line, "it is not UTF-8")
    })
}

/// A number for people: four decimals, or a power of ten where these say little.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 || (1e-3..1e5).contains(&value.abs()) {
        format!("{value:.4}")
    } else {
        format!("{value:.3e}")
    }
}

/// Writes lines of cells in columns, the first to the left and all others to the right.
pub(crate) fn write_columns(f: &mut fmt::Formatter<'_>, lines: &[Vec<String>]) -> fmt::Result {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in lines {
        for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
            if index == 0 {
                write!(f, "{cell:width$}")?;
            } else {
                write!(f, "  {cell:>width$}")?;
            }
        }
        writeln!(f)?;
    }
    Ok(())
}
