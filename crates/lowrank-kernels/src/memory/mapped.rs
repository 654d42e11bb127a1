//! Read-only mapped files, whose pages can be given back once they were used.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Mmap, MmapMut};

/// A file mapped read-only into memory; dereferences to its bytes.
///
/// The file must not be cut short or rewritten while it is mapped; checkpoints are written beside their place and
/// renamed into it, which leaves a mapped predecessor intact.
#[derive(Debug)]
pub struct MappedFile {
    map: Option<Mmap>,
    /// Whether the pages can be read again from a file.
    is_backed: bool,
}

impl MappedFile {
    /// Maps the whole file at `path`. An empty file is an empty slice.
    ///
    /// # Errors
    /// Where the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self { map: None, is_backed: true });
        }
        // SAFETY: the map is read-only; that nobody shortens the file meanwhile is this type's documented duty of
        // its users, as for every mapped file.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map: Some(map), is_backed: true })
    }

    /// A copy of bytes in pages of their own: for what a file has in another order than it is needed in. Nothing of it
    /// is given back before it is dropped.
    ///
    /// # Errors
    /// Where the system has no memory for it.
    pub fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        if bytes.is_empty() {
            return Ok(Self { map: None, is_backed: false });
        }
        let mut map = MmapMut::map_anon(bytes.len())?;
        map.copy_from_slice(bytes);
        Ok(Self { map: Some(map.make_read_only()?), is_backed: false })
    }

    /// Gives the pages inside `range` back to the system (`MADV_DONTNEED`), so that a weight that was converted
    /// no longer counts as resident. The bytes stay readable: touching them reads the file again. Pages that
    /// `range` covers only in part are kept. Does nothing where the system has no such call.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = self.map.as_ref().filter(|_| self.is_backed) {
            let page = page_bytes();
            let end = range.end.min(map.len());
            let start = range.start.next_multiple_of(page);
            let end = if end == map.len() { end } else { end / page * page };
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
            let page = page_bytes();
            let (start, end) = (range.start / page * page, range.end.min(map.len()));
            if start < end {
                // Only advice, as above.
                let _ = map.advise_range(memmap2::Advice::WillNeed, start, end - start);
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// The size of the system's pages: 4 KiB on most machines, 16 or 64 KiB on some of ARM's.
#[cfg(unix)]
fn page_bytes() -> usize {
    static BYTES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *BYTES.get_or_init(|| {
        // SAFETY: the call reads a constant of the system, and takes no pointer.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        // It has no reason to fail; the largest pages are multiples of all others.
        usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(1 << 16)
    })
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_its_bytes_when_pages_are_given_back() {
        let bytes: Vec<u8> = (0..1 << 18).map(|at| (at % 251) as u8).collect();
        let copy = MappedFile::copy_of(&bytes).expect("memory");
        copy.release(0..bytes.len());
        assert!(*copy == *bytes);
    }

    #[test]
    fn pages_are_the_systems() {
        // The auxiliary vector of the process has the size under the number 6.
        let Ok(vector) = std::fs::read("/proc/self/auxv") else { return };
        let words: Vec<usize> = vector
            .as_chunks::<{ size_of::<usize>() }>()
            .0
            .iter()
            .map(|word| usize::from_ne_bytes(*word))
            .collect();
        let found = words.as_chunks::<2>().0.iter().find(|[key, _]| *key == 6).map(|[_, value]| *value);
        assert_eq!(found, Some(page_bytes()));
    }
}
