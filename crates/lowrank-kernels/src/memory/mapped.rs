//! Read-only mapped files, whose pages can be given back once they were used.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

/// A file mapped read-only into memory; dereferences to its bytes.
///
/// The file must not be cut short or rewritten while it is mapped; checkpoints are written beside their place and
/// renamed into it, which leaves a mapped predecessor intact.
#[derive(Debug)]
pub struct MappedFile {
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps the whole file at `path`. An empty file is an empty slice.
    ///
    /// # Errors
    /// Where the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the map is read-only; that nobody shortens the file meanwhile is this type's documented duty of
        // its users, as for every mapped file.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map: Some(map) })
    }

    /// Gives the pages inside `range` back to the system (`MADV_DONTNEED`), so that a weight that was converted
    /// no longer counts as resident. The bytes stay readable: touching them reads the file again. Pages that
    /// `range` covers only in part are kept. Does nothing where the system has no such call.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            const PAGE: usize = 4096;
            let end = range.end.min(map.len());
            let start = range.start.next_multiple_of(PAGE);
            let end = if end == map.len() { end } else { end / PAGE * PAGE };
            if start < end {
                // SAFETY: the mapping is file-backed and never written, so dropped pages come back with the same
                // bytes when they are touched again.
                let advised = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
                // It is only advice: a system that refuses keeps the pages, and nothing else changes.
                let _ = advised;
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Asks the system to read the pages of `range` ahead (`MADV_WILLNEED`), while something else is computed. Does
    /// nothing where the system has no such call.
    pub fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            const PAGE: usize = 4096;
            let (start, end) = (range.start / PAGE * PAGE, range.end.min(map.len()));
            if start < end {
                // Only advice, as above.
                let _ = map.advise_range(memmap2::Advice::WillNeed, start, end - start);
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}
