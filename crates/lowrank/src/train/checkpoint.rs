//! Checkpoints: everything that decides the next bit.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::optimizer::Moments;
use super::output::write_json;
use super::snapshot::Snapshot;
use crate::data::Position;
use crate::data::Scores;
use crate::hub::{Checkpoint as File, Tensors, to_tensor, write_tensors};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The folder of checkpoints in a run's output.
pub const CHECKPOINTS: &str = "checkpoints";
const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";

/// The numbers of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The optimiser steps taken.
    pub step: usize,
    /// Where the next step is in the data.
    pub position: Position,
    /// The length of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// The tokens trained on so far.
    pub tokens: u64,
    /// The examples trained on so far.
    pub examples: u64,
    /// The seconds trained so far.
    pub train_seconds: f64,
    /// The losses of the last steps.
    pub recent_losses: VecDeque<f64>,
    /// Whether this state is still to be evaluated.
    pub evaluation_due: bool,
    /// The newest evaluation.
    pub scores: Scores,
    /// The best evaluation so far, and its step.
    pub best: Option<(usize, Scores)>,
    /// Evaluations since then.
    pub stale_evaluations: usize,
    /// The settings that decide the result, by their keys.
    pub settings: BTreeMap<String, String>,
}

impl State {
    /// The state of a run that has not begun.
    pub fn new(settings: BTreeMap<String, String>) -> Self {
        Self {
            step: 0,
            position: Position::default(),
            metrics_bytes: 0,
            tokens: 0,
            examples: 0,
            train_seconds: 0.0,
            recent_losses: VecDeque::new(),
            evaluation_due: false,
            scores: Scores::new(),
            best: None,
            stale_evaluations: 0,
            settings,
        }
    }
}

impl State {
    /// The numbers of the newest checkpoint below `output`, if there is one.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn newest(output: &Path) -> Result<Option<Self>> {
        list(output)?.last().map(|folder| Self::read(folder)).transpose()
    }

    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE);
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("not a checkpoint: {e}")))
    }
}

/// A checkpoint in memory.
pub struct Checkpoint {
    /// The numbers.
    pub state: State,
    /// What is trained.
    pub values: Snapshot,
    /// The optimiser's moments.
    pub moments: BTreeMap<String, Moments>,
    /// The values at the best evaluation.
    pub best: Option<Snapshot>,
}

impl Checkpoint {
    /// Writes the checkpoint as a folder of its own below `output`, whole or not at all, and removes the oldest beyond
    /// `limit` (0: none). Returns where it lies.
    ///
    /// # Errors
    /// If a file cannot be written or an old checkpoint cannot be removed.
    pub fn write(&self, output: &Path, limit: usize) -> Result<PathBuf> {
        let folder = output.join(CHECKPOINTS);
        let name = format!("step-{:08}", self.state.step);
        let (partial, place) = (folder.join(format!(".{name}.partial")), folder.join(name));
        remove(&partial)?;
        fs::create_dir_all(&partial).map_err(Error::io(&partial))?;
        let written = write_tensors(&partial.join(TENSORS), &self.tensors())
            .and_then(|()| write_json(&partial.join(STATE), &self.state));
        if let Err(error) = written {
            // What failed says more than that its rest could not be removed.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        // One of the same step stays, under another name, until the new one is in its place: it may be the only one.
        let replaced = replaced(&place);
        if place.exists() {
            remove(&replaced)?;
            fs::rename(&place, &replaced).map_err(Error::io(&place))?;
        }
        fs::rename(&partial, &place).map_err(Error::io(&place))?;
        remove(&replaced)?;
        let kept = list(output)?;
        for old in kept.iter().rev().skip(if limit == 0 { kept.len() } else { limit }) {
            fs::remove_dir_all(old).map_err(Error::io(old))?;
        }
        Ok(place)
    }

    /// Reads the newest checkpoint below `output`, if there is one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn newest(output: &Path) -> Result<Option<Self>> {
        list(output)?.last().map(|folder| Self::read(folder)).transpose()
    }

    fn read(folder: &Path) -> Result<Self> {
        let state = State::read(folder)?;
        let path = folder.join(TENSORS);
        let file = File::open_file(&path)?;
        let mut parts: BTreeMap<&str, Snapshot> = BTreeMap::new();
        for key in file.names() {
            let (part, name) = key.split_once('/').unwrap_or(("", key));
            if let Some(view) = file.get(key) {
                parts.entry(part).or_default().insert(name.to_owned(), to_tensor(key, &view)?);
            }
        }
        let mut take = |part: &str| parts.remove(part).unwrap_or_default();
        let (values, mut exp_avg, exp_avg_sq) = (take("value"), take("exp_avg"), take("exp_avg_sq"));
        let own_steps = take("step");
        let best = Some(take("best")).filter(|best| !best.is_empty());
        let moments = exp_avg_sq
            .into_iter()
            .map(|(name, exp_avg_sq)| match exp_avg.remove(&name) {
                Some(exp_avg) => {
                    let own = own_steps.get(&name).and_then(|steps| steps.to_f32_vec().first().copied());
                    let steps = own.map_or(state.step as u64, |steps| steps as u64);
                    Ok((name, Moments { exp_avg, exp_avg_sq, steps }))
                }
                None => Err(Error::tensor(&path, format!("exp_avg/{name}"), "it is missing")),
            })
            .collect::<Result<_>>()?;
        Ok(Self { state, values, moments, best })
    }

    fn tensors(&self) -> Tensors {
        let mut tensors = Tensors::new();
        let mut add = |part: &str, name: &str, tensor: &Tensor| {
            tensors.insert(format!("{part}/{name}"), tensor.clone());
        };
        self.values.iter().for_each(|(name, tensor)| add("value", name, tensor));
        self.best.iter().flatten().for_each(|(name, tensor)| add("best", name, tensor));
        for (name, moments) in &self.moments {
            add("exp_avg", name, &moments.exp_avg);
            add("exp_avg_sq", name, &moments.exp_avg_sq);
            // As PyTorch keeps it; where it is absent, the tensor was in every step.
            if moments.steps != self.state.step as u64 {
                add("step", name, &Tensor::from_slice([1], &[moments.steps as f32]));
            }
        }
        tensors
    }
}

/// Removes every checkpoint below `output`, those that were not finished too, and the folder if nothing else is in it.
///
/// # Errors
/// If something cannot be removed.
pub fn clear(output: &Path) -> Result<()> {
    let folder = output.join(CHECKPOINTS);
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
        let path = entry.map_err(Error::io(&folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let hidden =
            name.strip_prefix('.').filter(|name| name.ends_with(".partial") || name.ends_with(REPLACED));
        if hidden.unwrap_or(name).starts_with("step-") {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
    }
    // What else is in it is the user's.
    let _ = fs::remove_dir(&folder);
    Ok(())
}

/// What a checkpoint is called while one of the same step takes its place.
const REPLACED: &str = ".replaced";

fn replaced(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    place.with_file_name(format!(".{name}{REPLACED}"))
}

/// Removes a folder that may be there.
fn remove(folder: &Path) -> Result<()> {
    if folder.exists() { fs::remove_dir_all(folder).map_err(Error::io(folder)) } else { Ok(()) }
}

/// The checkpoints below `output`, the oldest first. One that was being replaced when the program ended is among them.
fn list(output: &Path) -> Result<Vec<PathBuf>> {
    let folder = output.join(CHECKPOINTS);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
        let path = entry.map_err(Error::io(&folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let hidden = name.strip_prefix('.').and_then(|name| name.strip_suffix(REPLACED));
        let step = hidden.filter(|name| !folder.join(name).exists()).unwrap_or(&name);
        if step.starts_with("step-") && path.join(STATE).is_file() {
            found.push((step.to_owned(), path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use lowrank_kernels::random::Philox;

    use super::*;

    #[test]
    fn a_checkpoint_is_there_at_every_moment_of_its_replacement() {
        let room = tempfile::tempdir().unwrap();
        let checkpoint = |tokens| {
            let state = State { step: 3, tokens, ..State::new(BTreeMap::new()) };
            Checkpoint { state, values: Snapshot::new(), moments: BTreeMap::new(), best: None }
        };
        let place = checkpoint(1).write(room.path(), 1).unwrap();
        let newest = || State::newest(room.path()).unwrap().unwrap().tokens;
        // The program ends between the two steps of a replacement.
        fs::rename(&place, replaced(&place)).unwrap();
        assert_eq!(newest(), 1);
        checkpoint(2).write(room.path(), 1).unwrap();
        assert_eq!(newest(), 2);
        checkpoint(3).write(room.path(), 1).unwrap();
        assert_eq!((newest(), replaced(&place).exists()), (3, false));
        fs::rename(&place, replaced(&place)).unwrap();
        clear(room.path()).unwrap();
        assert!(!room.path().join(CHECKPOINTS).exists());
    }

    /// The best value is compared with later ones: one bit decides which state is kept.
    #[test]
    fn numbers_come_back_from_a_checkpoint_to_the_bit() {
        let mut random = Philox::new(3, 3);
        let mut state = State::new(BTreeMap::new());
        state.recent_losses = (0..5000).map(|_| f64::from_bits(random.next_u64() >> 2)).collect();
        state.recent_losses.extend((0..5000).map(|_| random.next_u64() as f64 / u64::MAX as f64));
        let text = serde_json::to_string(&state).unwrap();
        let again: State = serde_json::from_str(&text).unwrap();
        assert_eq!(again, state);
    }
}
