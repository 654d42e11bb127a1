//! How far work on many things is: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::progress::bar;

/// Between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Shows how many are done; takes the bar away when dropped. Any thread may tell it.
pub struct Counted {
    what: &'static str,
    shown: Mutex<Shown>,
}

struct Shown {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Counted {
    /// Nothing done yet of these things.
    pub fn new(what: &'static str) -> Self {
        Self { what, shown: Mutex::new(Shown { bar: None, last_line: Instant::now() }) }
    }

    /// So many are done.
    pub fn tell(&self, done: usize, all: usize) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let what = self.what;
        if stderr().is_terminal() {
            let template = format!("{{bar:24}} {{pos}}/{{len}} {what}  {{eta}} left");
            // Threads may come out of order.
            let bar = shown.bar.get_or_insert_with(|| bar(&template, all as u64));
            bar.set_position(bar.position().max(done as u64));
        } else if shown.last_line.elapsed() > BETWEEN_LINES && done < all {
            shown.last_line = Instant::now();
            // What is only for people may be lost.
            let _ = writeln!(stderr(), "{done}/{all} {what}");
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let shown = self.shown.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = shown.bar.take() {
            bar.finish_and_clear();
        }
    }
}
