//! Who is told of downloads, and who may stop them.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};

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

/// What the whole process does with its downloads.
#[derive(Clone, Default)]
pub(super) struct Watch {
    pub on_download: Option<OnDownload>,
    pub stop: Option<Arc<AtomicBool>>,
}

static WATCH: RwLock<Watch> = RwLock::new(Watch { on_download: None, stop: None });

/// Sets what [`HubOptions::from_env`](super::HubOptions::from_env) and with it all of this process, where it says
/// nothing else, does with downloads: whom it tells, and the flag that stops them.
///
/// For programs, not for libraries: like the environment, it belongs to the process.
pub fn watch_downloads(on_download: OnDownload, stop: Option<Arc<AtomicBool>>) {
    *WATCH.write().unwrap_or_else(PoisonError::into_inner) = Watch { on_download: Some(on_download), stop };
}

pub(super) fn watch() -> Watch {
    WATCH.read().unwrap_or_else(PoisonError::into_inner).clone()
}
