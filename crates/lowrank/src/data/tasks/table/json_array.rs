//! A list of JSON objects, read one by one so that each has its line.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::json_rows::{VisitObject, kind};
use crate::{Error, Result};

/// Whether a file is called `.json` and begins as a list does.
pub(super) fn is_array(path: &Path) -> Result<bool> {
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        return Ok(false);
    }
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(4096).read_to_end(&mut start)).map_err(Error::io(path))?;
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start);
    Ok(start.trim_ascii_start().first() == Some(&b'['))
}

/// Hands each object of the list to `visit` until that says `false`.
pub(super) fn objects(path: &Path, visit: &mut VisitObject<'_>) -> Result<()> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut scan = Scan { bytes, at: 0, line: 1 };
    scan.blanks();
    scan.at += 1; // the bracket that opens the list
    let mut first = true;
    loop {
        scan.blanks();
        let wrong = |line: usize, reason: &str| Error::row(path, line, reason);
        match scan.bytes.get(scan.at) {
            Some(b']') => {
                scan.at += 1;
                scan.blanks();
                return match scan.bytes.get(scan.at) {
                    None => Ok(()),
                    Some(_) => Err(wrong(scan.line, "more comes after the end of the list")),
                };
            }
            Some(b',') if !first => {
                scan.at += 1;
                scan.blanks();
            }
            Some(_) if first => {}
            Some(_) => return Err(wrong(scan.line, "a comma must stand between two objects of the list")),
            None => return Err(wrong(scan.line, "the list is opened and never closed")),
        }
        first = false;
        let line = scan.line;
        if scan.at == scan.bytes.len() {
            return Err(wrong(line, "the list is opened and never closed"));
        }
        let Some(element) = scan.element() else {
            return Err(wrong(line, "an object begins here and never ends"));
        };
        let value: Value = serde_json::from_slice(element).map_err(|error| {
            // The parser counts from the object's beginning.
            let (text, line) = (error.to_string(), line + error.line().saturating_sub(1));
            let text = text.split(" at line ").next().unwrap_or_default();
            Error::row(path, line, format!("not JSON, of which the list holds objects: {text}"))
        })?;
        let Value::Object(object) = value else {
            let reason = format!("the list must hold JSON objects, not {}", kind(&value));
            return Err(wrong(line, &reason));
        };
        if !visit(line, &object)? {
            return Ok(());
        }
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Scan<'a> {
    fn blanks(&mut self) {
        while let Some(byte) = self.bytes.get(self.at).filter(|byte| byte.is_ascii_whitespace()) {
            self.line += usize::from(*byte == b'\n');
            self.at += 1;
        }
    }

    /// The bytes up to the comma or bracket that ends this element of the list, or up to the file's end; none if it is
    /// not whole there.
    fn element(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
        loop {
            let Some(&byte) = self.bytes.get(self.at) else {
                return (depth == 0 && !quoted).then(|| &self.bytes[start..]);
            };
            if quoted {
                quoted = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else {
                match byte {
                    b'"' => quoted = true,
                    b'{' | b'[' => depth += 1,
                    b',' | b']' if depth == 0 => return Some(&self.bytes[start..self.at]),
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            self.line += usize::from(byte == b'\n');
            self.at += 1;
        }
    }
}
