//! How downloads are going: a bar on a terminal, a line for each file elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{DecimalBytes, ProgressBar};
use lowrank::hub::{self, Download};

use crate::progress::bar;

/// Shows the downloads of this process; takes the bar away when dropped.
#[must_use]
pub struct Downloads(Arc<Mutex<Shown>>);

impl Downloads {
    /// Shows downloads from now on, until the flag is raised, which ends them.
    pub fn show(stop: Option<Arc<AtomicBool>>) -> Self {
        let shown = Arc::new(Mutex::new(Shown::default()));
        let told = Arc::clone(&shown);
        let on_download =
            move |download: Download<'_>| told.lock().unwrap_or_else(PoisonError::into_inner).tell(download);
        hub::watch_downloads(Arc::new(on_download), stop);
        Self(shown)
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).finish();
    }
}

/// The file that was told of last.
#[derive(Default)]
struct Shown {
    repository: String,
    file: String,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn tell(&mut self, download: Download<'_>) {
        let Download { repository, file, done_bytes, all_bytes } = download;
        if (repository, file) != (self.repository.as_str(), self.file.as_str()) {
            self.begin(download);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done_bytes);
        }
        if done_bytes == all_bytes {
            self.finish();
        }
    }

    fn begin(&mut self, Download { repository, file, done_bytes, all_bytes }: Download<'_>) {
        self.finish();
        (self.repository, self.file) = (repository.to_owned(), file.to_owned());
        if stderr().is_terminal() {
            let template =
                "{bar:24} {decimal_bytes}/{decimal_total_bytes}  {msg}  {decimal_bytes_per_sec}  {eta} left";
            let bar = bar(template, all_bytes).with_message(format!("{repository}: {file}"));
            bar.set_position(done_bytes);
            bar.reset_eta();
            self.bar = Some(bar);
        } else {
            // What is only for people may be lost.
            let _ = writeln!(stderr(), "downloading {repository}: {file}, {}", DecimalBytes(all_bytes));
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
