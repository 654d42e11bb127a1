//! What goes to standard output.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};

use serde::Serialize;

use crate::failure::{Failure, Result};

/// Standard output, for people or for machines.
///
/// Under `--json` it carries one line, the result; everything else goes to standard error.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Output as `--json` says.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// A line for people.
    pub fn say(self, line: impl Display) -> Result {
        if self.json {
            // What is only for people may be lost.
            let _ = writeln!(stderr(), "{line}");
            return Ok(());
        }
        write_line(line)
    }

    /// The result: `text` for people, `value` for machines.
    pub fn result(self, text: impl Display, value: &impl Serialize) -> Result {
        if !self.json {
            return write_line(text);
        }
        let line = serde_json::to_string(value)
            .map_err(|error| Failure::failed(format!("the result cannot be written as JSON: {error}")))?;
        write_line(line)
    }
}

/// Writes a line. A reader that has gone away, as `head` does, is no error: nobody misses the rest.
pub fn write_line(line: impl Display) -> Result {
    let mut out = stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
