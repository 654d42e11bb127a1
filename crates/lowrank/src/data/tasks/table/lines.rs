//! The lines of a text file, one at a time.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::{Error, Result};

/// Reads a file line by line: UTF-8, a byte-order mark at the start and a `\r` at a line's end left out.
pub(in crate::data::tasks) struct Lines<'p> {
    path: &'p Path,
    reader: BufReader<File>,
    buffer: Vec<u8>,
    line: usize,
}

impl<'p> Lines<'p> {
    pub fn open(path: &'p Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        Ok(Self { path, reader: BufReader::with_capacity(1 << 18, file), buffer: Vec::new(), line: 0 })
    }

    /// The next line that is not empty, and its number from 1.
    pub fn next(&mut self) -> Result<Option<(usize, &str)>> {
        while self.advance()? {
            if !self.buffer.is_empty() {
                return self.current().map(Some);
            }
        }
        Ok(None)
    }

    /// The next line, which may be empty, and its number from 1.
    pub fn next_or_blank(&mut self) -> Result<Option<(usize, &str)>> {
        if self.advance()? { self.current().map(Some) } else { Ok(None) }
    }

    fn advance(&mut self) -> Result<bool> {
        self.buffer.clear();
        if self.reader.read_until(b'\n', &mut self.buffer).map_err(Error::io(self.path))? == 0 {
            return Ok(false);
        }
        self.line += 1;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        }
        if self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        if self.line == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
        }
        Ok(true)
    }

    fn current(&self) -> Result<(usize, &str)> {
        let text = std::str::from_utf8(&self.buffer).map_err(|error| {
            Error::row(
                self.path,
                self.line,
                format!("not UTF-8 from byte {} of the line on", error.valid_up_to() + 1),
            )
        })?;
        Ok((self.line, text))
    }
}
