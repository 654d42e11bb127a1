//! The zip archive around what `torch.save` writes.
//!
//! Its entries are stored as they are, aligned, so that all there is to read is where each of them lies: a library for
//! archives would bring decompression, and hand out streams in the place of those ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// The bytes that open an archive's first entry.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";

/// The lengths of these records without what varies.
const LOCAL_BYTES: usize = 30;
const CENTRAL_BYTES: usize = 46;
const END_BYTES: usize = 22;
const LOCATOR_64_BYTES: usize = 20;
/// The longest comment after the end record.
const LONGEST_COMMENT: usize = 0xffff;
/// The extra field with numbers that 32 bits do not hold, and what stands in their place.
const EXTRA_64: u16 = 1;
const ELSEWHERE: u32 = u32::MAX;

/// The entries of an archive: each name with its place in the file.
pub(super) fn entries(bytes: &[u8]) -> Result<BTreeMap<&str, Range<usize>>, String> {
    let (mut at, size) =
        directory(bytes).ok_or("its directory is missing: the file is damaged or incomplete")?;
    let end = at.checked_add(size).filter(|end| *end <= bytes.len());
    let end = end.ok_or("its directory lies beyond its end: the file is damaged or incomplete")?;
    let mut entries = BTreeMap::new();
    while at < end {
        let entry = Entry::read(&bytes[..end], at).ok_or("an entry of its directory is damaged")?;
        at += entry.record_bytes;
        let name = std::str::from_utf8(entry.name).map_err(|_| "the name of an entry is not UTF-8")?;
        if entry.is_encrypted || entry.is_compressed {
            return Err(format!(
                "its entry {name:?} is compressed or encrypted, which torch.save never does"
            ));
        }
        let place = entry.place(bytes);
        let place = place.ok_or_else(|| format!("its entry {name:?} is not inside the file"))?;
        if entries.insert(name, place).is_some() {
            return Err(format!("it has two entries {name:?}"));
        }
    }
    Ok(entries)
}

/// Where the directory begins, and its length.
fn directory(bytes: &[u8]) -> Option<(usize, usize)> {
    let first = bytes.len().saturating_sub(END_BYTES + LONGEST_COMMENT);
    let ends_the_file = |&at: &usize| {
        let comment = u16_at(bytes, at + 20).map(usize::from);
        begins_with(bytes, at, END) && comment.is_some_and(|comment| at + END_BYTES + comment == bytes.len())
    };
    let end = (first..=bytes.len().checked_sub(END_BYTES)?).rev().find(ends_the_file)?;
    let (entries, size, start) =
        (u16_at(bytes, end + 10)?, u32_at(bytes, end + 12)?, u32_at(bytes, end + 16)?);
    if entries != u16::MAX && size != ELSEWHERE && start != ELSEWHERE {
        return Some((usize::try_from(start).ok()?, usize::try_from(size).ok()?));
    }
    let locator = end.checked_sub(LOCATOR_64_BYTES).filter(|at| begins_with(bytes, *at, LOCATOR_64))?;
    let wide = usize::try_from(u64_at(bytes, locator + 8)?).ok()?;
    let is_there = begins_with(bytes, wide, END_64);
    let number = |offset: usize| usize::try_from(u64_at(bytes, wide.checked_add(offset)?)?).ok();
    Some((number(48)?, number(40)?)).filter(|_| is_there)
}

/// What the directory says of an entry.
struct Entry<'a> {
    name: &'a [u8],
    is_encrypted: bool,
    is_compressed: bool,
    /// Of its data.
    size: u64,
    /// The place of its own header.
    header: u64,
    /// The length of the record itself.
    record_bytes: usize,
}

impl<'a> Entry<'a> {
    fn read(bytes: &'a [u8], at: usize) -> Option<Self> {
        if !begins_with(bytes, at, CENTRAL) {
            return None;
        }
        let length = |offset: usize| u16_at(bytes, at + offset).map(usize::from);
        let (name_bytes, extra_bytes, comment_bytes) = (length(28)?, length(30)?, length(32)?);
        let name_at = at + CENTRAL_BYTES;
        let name = bytes.get(name_at..name_at + name_bytes)?;
        let extra = bytes.get(name_at + name_bytes..name_at + name_bytes + extra_bytes)?;
        let narrow = [u32_at(bytes, at + 24)?, u32_at(bytes, at + 20)?, u32_at(bytes, at + 42)?];
        let [size, _, header] = widened(narrow, extra)?;
        Some(Self {
            name,
            is_encrypted: u16_at(bytes, at + 8)? & 1 != 0,
            is_compressed: u16_at(bytes, at + 10)? != 0,
            size,
            header,
            record_bytes: CENTRAL_BYTES + name_bytes + extra_bytes + comment_bytes,
        })
    }

    /// Where its data lie.
    fn place(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let at = usize::try_from(self.header).ok()?;
        if !begins_with(bytes, at, MAGIC) {
            return None;
        }
        let varying = usize::from(u16_at(bytes, at + 26)?) + usize::from(u16_at(bytes, at + 28)?);
        let start = at + LOCAL_BYTES + varying;
        let end = start.checked_add(usize::try_from(self.size).ok()?)?;
        (end <= bytes.len()).then_some(start..end)
    }
}

/// Numbers of a record, those that 32 bits do not hold from its extra fields, which have them in the same order.
fn widened(narrow: [u32; 3], mut extra: &[u8]) -> Option<[u64; 3]> {
    let mut wide: &[u8] = &[];
    while extra.len() >= 4 {
        let (kind, size) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let field = extra.get(4..4 + size)?;
        if kind == EXTRA_64 {
            wide = field;
        }
        extra = &extra[4 + size..];
    }
    let mut numbers = [0; 3];
    for (number, narrow) in numbers.iter_mut().zip(narrow) {
        *number = if narrow == ELSEWHERE {
            let value = u64_at(wide, 0)?;
            wide = &wide[8..];
            value
        } else {
            u64::from(narrow)
        };
    }
    Some(numbers)
}

fn begins_with(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}
