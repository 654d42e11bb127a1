//! The folder that a run fills.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::checkpoint::{self, CHECKPOINTS};
use super::events::{StepReport, Summary};
use crate::data::Scores;
use crate::hub::{
    ADAPTER_CONFIG, ADAPTER_FILE, MODEL_CONFIG, MODEL_FILE, READER_FILES, SUMMARY_FILE, write_atomically,
};
use crate::{Error, Result};

/// A line for each step and evaluation.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The copy of the run file.
pub const RUN_FILE: &str = "run.toml";

/// All that a model that was trained whole is written to.
const MODEL_FILES: [&str; 11] = {
    let [a, b, c, d, e, f, g, h, i] = READER_FILES;
    [MODEL_CONFIG, a, b, c, d, e, f, g, h, i, MODEL_FILE]
};

/// What a folder holds when a run comes to it.
#[derive(Debug)]
pub enum Found {
    /// Nothing of a run.
    Nothing,
    /// A run that was not finished.
    Unfinished,
    /// A finished run.
    Finished(Box<Summary>),
}

/// Checks that the output is a folder that a run may fill, or nothing yet.
///
/// # Errors
/// If it is a file, or holds a model or an adapter that no run put there.
pub fn check_folder(folder: &Path) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        return Err(Error::file(folder, "the output must be a folder, and this is a file"));
    }
    let has = |name: &&&str| folder.join(name).exists();
    let foreign = [ADAPTER_FILE, ADAPTER_CONFIG, MODEL_FILE, MODEL_CONFIG].iter().find(has);
    match foreign {
        Some(name) if !begun(folder) => {
            let reason = format!("it holds {name}, but no run of this program: choose another output");
            Err(Error::file(folder, reason))
        }
        _ => Ok(()),
    }
}

/// Whether a folder holds anything of a run.
fn begun(folder: &Path) -> bool {
    [METRICS_FILE, RUN_FILE, CHECKPOINTS].iter().any(|name| folder.join(name).exists()) || has_summary(folder)
}

/// Whether a folder holds the summary of a run; that of a merged model says no more than how it is asked.
fn has_summary(folder: &Path) -> bool {
    let summary = folder.join(SUMMARY_FILE);
    let parsed = fs::read(&summary).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    summary.is_file() && parsed.is_none_or(|summary| summary.get("steps").is_some())
}

/// Looks at a folder.
///
/// # Errors
/// If its `summary.json` cannot be read.
pub fn look(folder: &Path) -> Result<Found> {
    let summary = folder.join(SUMMARY_FILE);
    if has_summary(folder) {
        let text = fs::read_to_string(&summary).map_err(Error::io(&summary))?;
        let parsed = serde_json::from_str(&text);
        return Ok(Found::Finished(
            parsed.map_err(|e| Error::file(&summary, format!("not a summary: {e}")))?,
        ));
    }
    Ok(if begun(folder) { Found::Unfinished } else { Found::Nothing })
}

/// Removes what an earlier run left, and nothing else.
///
/// # Errors
/// If something cannot be removed.
pub fn clear(folder: &Path) -> Result<()> {
    let full: &[&str] = if folder.join(MODEL_FILE).exists() { &MODEL_FILES } else { &[] };
    // The summary goes first: without it no reader takes the rest for a finished run. The run file goes last: it says
    // that the rest is a run's.
    let names = [&[SUMMARY_FILE, ADAPTER_CONFIG, ADAPTER_FILE], full, &[METRICS_FILE]].concat();
    names.iter().try_for_each(|name| remove(&folder.join(name)))?;
    checkpoint::clear(folder)?;
    remove(&folder.join(RUN_FILE))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

/// Writes a JSON file.
///
/// # Errors
/// If it cannot be written.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e.to_string()))?;
    write_atomically(path, |file| writeln!(file, "{text}"))
}

/// Checks that no other run fills the folder at this moment.
///
/// # Errors
/// If one does.
pub fn check_unused(folder: &Path) -> Result<()> {
    match File::open(folder.join(METRICS_FILE)) {
        Ok(file) => lock(folder, &file),
        Err(_) => Ok(()),
    }
}

/// Takes the lock that a run has on its log until it ends, however it ends. A file system without locks has none.
fn lock(folder: &Path, log: &File) -> Result<()> {
    match log.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::file(
            folder,
            "another run is filling it at this moment: wait for it, or choose another",
        )),
        _ => Ok(()),
    }
}

/// `metrics.jsonl`, open for appending. No other run can open it meanwhile.
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl MetricsLog {
    /// Opens the log of a run, cut back to its first `bytes`.
    ///
    /// # Errors
    /// If it cannot be opened or cut.
    pub fn open(folder: &Path, bytes: u64) -> Result<Self> {
        let path = folder.join(METRICS_FILE);
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&path).map_err(Error::io(&path))?;
        lock(folder, &file)?;
        let length = file.metadata().map_err(Error::io(&path))?.len();
        let bytes = bytes.min(length);
        file.set_len(bytes).map_err(Error::io(&path))?;
        Ok(Self { path, file, bytes })
    }

    /// The length of the log so far, for a checkpoint.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a step.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn step(&mut self, report: &StepReport) -> Result<()> {
        let StepReport { step, result, .. } = report;
        self.line(&json!({
            "step": step,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "learning_rate": result.learning_rate,
            "tokens": result.tokens,
            "seconds": result.time.as_secs_f64(),
        }))
    }

    /// Adds an evaluation.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn evaluation(&mut self, step: usize, scores: &Scores) -> Result<()> {
        let scores: Map<String, Value> = scores.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        self.line(&json!({ "step": step, "eval": scores }))
    }

    fn line(&mut self, value: &Value) -> Result<()> {
        let line = format!("{value}\n");
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // Half a line would be worse than none; where the disk is full, cutting still works.
            let _ = self.file.set_len(self.bytes);
            return Err(Error::io(&self.path)(error));
        }
        self.bytes += line.len() as u64;
        Ok(())
    }
}
