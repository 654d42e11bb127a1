//! What a run file comes to mean once the task, the data and the machine are known.

use std::collections::BTreeMap;
use std::path::Path;

use lowrank_kernels::{Compute, Tier};

use super::run_file::{KeepBest, RunFile};
use crate::data::{TaskInfo, TokenizedDataset};
use crate::{Error, Result};

/// The metric that the best state is chosen by; none where the last is kept.
pub(super) fn best_metric(run: &RunFile, task: &TaskInfo, has_validation: bool) -> Result<Option<String>> {
    let known = || task.metrics.iter().copied().chain(["loss"]);
    match &run.train.keep_best {
        KeepBest::Last => Ok(None),
        KeepBest::Auto => Ok(has_validation.then(|| task.main_metric.to_owned())),
        KeepBest::Metric(name) if !known().any(|metric| metric == name) => {
            Err(Error::unknown("metric", name, known()))
        }
        KeepBest::Metric(name) if !has_validation => {
            let reason = format!("{name:?} needs data.validation to be measured on");
            Err(Error::setting("train.keep_best", reason))
        }
        KeepBest::Metric(name) => Ok(Some(name.clone())),
    }
}

/// Everything that decides the result, by name: the settings, the data, and how numbers are computed.
pub(super) fn settings(
    run: &RunFile,
    compute: Compute,
    train: &TokenizedDataset,
    metric: Option<&str>,
) -> BTreeMap<String, String> {
    let mut settings = run.decisive_settings();
    settings.insert("cpu".into(), Tier::active().kernels());
    settings.insert("train.dtype".into(), name_of(compute).into());
    settings.insert("train.keep_best".into(), metric.unwrap_or("last").into());
    settings.insert("training data".into(), format!("{:016x}", train.fingerprint()));
    settings
}

/// Refuses a checkpoint of other settings, and names the first that differs.
pub(super) fn check_settings(
    output: &Path,
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> Result<()> {
    let keys = old.keys().chain(new.keys());
    let changed = keys.into_iter().find(|key| old.get(*key) != new.get(*key));
    let Some(key) = changed else { return Ok(()) };
    let show =
        |settings: &BTreeMap<String, String>| settings.get(key).cloned().unwrap_or_else(|| "absent".into());
    let reason = format!(
        "it cannot be resumed: {key} was {} and is {}; set it back, or add --overwrite to begin anew",
        show(old),
        show(new)
    );
    Err(Error::file(output, reason))
}

/// The name of a compute type in a run file.
pub(super) fn name_of(compute: Compute) -> &'static str {
    match compute {
        Compute::F32 => "f32",
        Compute::Bf16 => "bf16",
    }
}
