//! Asking the Hub without waiting for it longer than one wants to.

use std::io;
use std::panic;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::ApiError;

use super::options::HubOptions;

/// The time between two looks at the flag that stops a download.
const LOOK: Duration = Duration::from_millis(50);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Broken {
    /// The caller raised the flag.
    Stopped,
    /// Nothing was heard for so long.
    Silent(Duration),
    Failed(ApiError),
}

enum News<T> {
    Piece { done: u64, all: u64 },
    End(Result<T, ApiError>),
}

/// Asks on a thread of its own, and waits for the answer as long as pieces of it come: the first one within `patience`,
/// each other within the options' `download_timeout`.
///
/// `hf-hub` reads without a time limit and cannot be stopped. A thread that is given up ends with the next piece that
/// comes, or with the connection; what it has written is kept.
pub(super) fn attend<T: Send + 'static>(
    options: &HubOptions,
    mut patience: Duration,
    mut on_piece: impl FnMut(u64, u64),
    ask: impl FnOnce(Report<T>) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, Broken> {
    let (sender, news) = mpsc::channel();
    let thread = thread::Builder::new().name("hub".to_owned()).spawn(move || {
        let report = Report { done: 0, all: 0, news: sender.clone() };
        let _ = sender.send(News::End(ask(report)));
    });
    let thread = thread.map_err(|error| Broken::Failed(ApiError::IoError(error)))?;
    // Counted in looks, not by the clock: a process that was suspended has not heard because it did not listen.
    let mut silence = Duration::ZERO;
    loop {
        if options.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(Broken::Stopped);
        }
        match news.recv_timeout(LOOK) {
            Ok(News::Piece { done, all }) => {
                (silence, patience) = (Duration::ZERO, options.download_timeout);
                on_piece(done, all);
            }
            Ok(News::End(result)) => return result.map_err(Broken::Failed),
            Err(RecvTimeoutError::Timeout) if silence < patience => silence += LOOK,
            Err(RecvTimeoutError::Timeout) => return Err(Broken::Silent(patience)),
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(cause) => panic::resume_unwind(cause),
                Ok(()) => return Err(Broken::Failed(ApiError::IoError(io::Error::other("no answer")))),
            },
        }
    }
}

/// Passes on how far a download has come.
pub(super) struct Report<T> {
    done: u64,
    all: u64,
    news: Sender<News<T>>,
}

impl<T> Progress for Report<T> {
    fn init(&mut self, size: usize, _filename: &str) {
        (self.done, self.all) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        let given_up = self.news.send(News::Piece { done: self.done, all: self.all }).is_err();
        if given_up && cfg!(panic = "unwind") {
            // There is no other way out of `hf-hub`; on this one it closes its files and gives up its locks. No panic
            // is reported.
            panic::resume_unwind(Box::new("given up"));
        }
    }

    fn finish(&mut self) {}
}
