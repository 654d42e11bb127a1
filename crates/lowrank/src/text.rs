//! Text files.

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
