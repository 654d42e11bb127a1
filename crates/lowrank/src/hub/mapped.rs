//! A file's bytes as a slice.

use std::ops::Deref;
use std::path::Path;
use std::{fs, io};

/// The bytes of a whole file, shared by the tensors that borrow from it.
#[derive(Debug)]
pub struct MappedFile(Vec<u8>);

impl MappedFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::read(path).map(Self)
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
