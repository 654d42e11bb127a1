//! Who is told of downloads.

use std::sync::Arc;

/// How far the download of a file has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download<'a> {
    /// The repository's id.
    pub repository: &'a str,
    /// The file's name in it.
    pub file: &'a str,
    /// Bytes that are here.
    pub done_bytes: u64,
    /// Bytes of the whole file.
    pub all_bytes: u64,
}

/// Told of the beginning of each download and of each piece, by the thread that asked for the repository.
pub type OnDownload = Arc<dyn Fn(Download<'_>) + Send + Sync>;
