//! CSV with a header, quoted as RFC 4180 says.

use std::borrow::Cow;
use std::fs;
use std::io::Read;
use std::path::Path;

use csv::ByteRecord;

use super::{Layout, Visit};
use crate::{Error, Result};

/// What is read after a file's last byte.
const END: &[u8] = b"\n\0\n";

pub(super) fn read(path: &Path, layout: &Layout, visit: &mut Visit<'_>) -> Result<()> {
    let mut places = None;
    rows(path, &mut |line, fields| {
        let Some(places) = &places else {
            places = Some(layout.places(path, fields)?);
            return Ok(true);
        };
        if fields.len() != places.columns {
            return Err(places.ragged(path, line, fields.len()));
        }
        visit(places.row(line, |place| Cow::Borrowed(fields[place])))
    })
}

/// Hands each row to `visit`, the header first, until that says `false`.
pub(super) fn rows(path: &Path, visit: &mut dyn FnMut(usize, &[&str]) -> Result<bool>) -> Result<()> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    // A row of its own after the last, which a quote that is never closed swallows.
    let input = bytes.chain(END);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(input);
    let mut counter = LineCounter { bytes, at: 0, line: 1 };
    let mut record = ByteRecord::new();
    let mut next = |record: &mut ByteRecord| -> Result<Option<usize>> {
        let more = reader.read_byte_record(record).map_err(|error| Error::file(path, error.to_string()))?;
        Ok(more.then(|| counter.line_of(record.position().map_or(0, csv::Position::byte))))
    };
    let mut next_row = |record: &mut ByteRecord| -> Result<Option<usize>> {
        match next(record)? {
            Some(line) if record.iter().any(|field| field.ends_with(END)) => {
                Err(Error::row(path, line, "a quote is opened and never closed"))
            }
            Some(_) if record.len() == 1 && record.get(0) == Some(END.trim_ascii()) => Ok(None),
            line => Ok(line),
        }
    };
    while let Some(line) = next_row(&mut record)? {
        if !visit(line, &text(path, line, &record)?)? {
            break;
        }
    }
    Ok(())
}

fn text<'r>(path: &Path, line: usize, record: &'r ByteRecord) -> Result<Vec<&'r str>> {
    record
        .iter()
        .map(|field| std::str::from_utf8(field).map_err(|_| Error::row(path, line, "a column is not UTF-8")))
        .collect()
}

/// Lines counted up to a record's first byte: the reader's own count leaves out the line end before the record,
/// which it has not yet passed.
struct LineCounter<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl LineCounter<'_> {
    fn line_of(&mut self, byte: u64) -> usize {
        let start = usize::try_from(byte).unwrap_or(usize::MAX).min(self.bytes.len());
        let blank = self.bytes[start..].iter().take_while(|&&b| b == b'\r' || b == b'\n').count();
        let end = start + blank;
        self.line += self.bytes[self.at.min(end)..end].iter().filter(|&&b| b == b'\n').count();
        self.at = end;
        self.line
    }
}
