//! Text files, and tables of text.

mod columns;

use std::fs;
use std::path::Path;

pub(crate) use columns::{LINE, fitting, write_columns};

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
pub fn number(value: f64) -> String {
    if value == 0.0 || (1e-3..1e5).contains(&value.abs()) {
        decimals(value, 4)
    } else {
        format!("{value:.3e}")
    }
}

/// A number in a table, where room is scarce: four digits, or a power of ten where these say little.
pub(crate) fn cell(value: f64) -> String {
    // Halfway to the next digit it is rounded up to that.
    let size = value.abs();
    match [1e-3, 0.99995, 9.9995, 99.995, 999.95, 1e5].iter().filter(|limit| size >= **limit).count() {
        0 if value == 0.0 => "0".to_owned(),
        0 | 6 => format!("{value:.2e}"),
        1 => decimals(value, 4),
        digits => decimals(value, 5 - digits),
    }
}

/// A number with so many decimals; one that they leave nothing of is zero, without a sign.
pub fn decimals(value: f64, count: usize) -> String {
    let text = format!("{value:.count$}");
    let is_zero = text.bytes().all(|byte| b"-0.".contains(&byte));
    if is_zero { text.trim_start_matches('-').to_owned() } else { text }
}

/// A text that comes from a file, without what a terminal obeys: other characters than control ones stay.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_has_no_sign() {
        for value in [-0.0, -0.00004] {
            assert_eq!(decimals(value, 4), "0.0000");
        }
        assert_eq!((number(-0.0), cell(-0.0)), ("0.0000".to_owned(), "0".to_owned()));
        assert_eq!((number(-0.00004), cell(-0.5)), ("-4.000e-5".to_owned(), "-0.5000".to_owned()));
    }

    #[test]
    fn a_cell_has_four_digits() {
        let values = [0.123456, 1.23456, 12.3456, 123.456, 1234.56, 12345.6, 123456.0, 0.000123, f64::NAN];
        let cells = values.map(cell);
        assert_eq!(cell(0.999_99), "1.000");
        let wanted = ["0.1235", "1.235", "12.35", "123.5", "1235", "12346", "1.23e5", "1.23e-4", "NaN"];
        assert_eq!(cells, wanted);
    }
}
