//! What a run file comes to mean once the task, the data and the machine are known.

use std::collections::BTreeMap;
use std::path::Path;

use lowrank_kernels::{Compute, Tier};

use super::adapted_model::AdaptedModel;
use super::run_file::{KeepBest, RunFile};
use crate::data::{Dataset, Scores, TaskInfo};
use crate::fnv::Fnv;
use crate::models::{Model, Operands, Placement};
use crate::nn::{for_each_parameter, for_each_trained_mut};
use crate::tape::Leaf;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// How the states of a run are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// What says which of two evaluations is better; none where there are none.
    pub metric: Option<String>,
    /// Whether the best state is kept, not the last.
    pub keep: bool,
}

impl Selection {
    /// What `keep_best` and `patience` come to mean for a task.
    pub fn of(run: &RunFile, task: &TaskInfo, has_validation: bool) -> Result<Self> {
        let known = || task.metrics.iter().copied().chain(["loss"]);
        let needs = |key: &str, what: String| Err(Error::setting(key, what + " needs data.validation"));
        let main = has_validation.then(|| task.main_metric.to_owned());
        if !has_validation && run.train.patience > 0 {
            return needs("train.patience", "it counts evaluations and".to_owned());
        }
        match &run.train.keep_best {
            KeepBest::Last => Ok(Self { metric: main, keep: false }),
            KeepBest::Auto => Ok(Self { keep: main.is_some(), metric: main }),
            KeepBest::Metric(name) if !known().any(|metric| metric == name) => {
                Err(Error::unknown("metric", name, known()))
            }
            KeepBest::Metric(name) if !has_validation => needs("train.keep_best", format!("{name:?}")),
            KeepBest::Metric(name) => Ok(Self { metric: Some(name.clone()), keep: true }),
        }
    }

    /// Whether an evaluation is better than the best so far.
    pub fn improves(&self, scores: &Scores, best: Option<&Scores>) -> bool {
        let Some(metric) = &self.metric else { return false };
        let value = |scores: &Scores| scores.get(metric).copied().unwrap_or(f64::NAN);
        match best {
            None => true,
            Some(best) if matches!(metric.as_str(), "loss" | "perplexity") => value(scores) < value(best),
            Some(best) => value(scores) > value(best),
        }
    }
}

/// Everything that decides the result, by name: the settings, the data, and how numbers are computed.
pub(super) fn settings(
    run: &RunFile,
    compute: Compute,
    selection: &Selection,
    data: [Option<&dyn Dataset>; 2],
    adapted: &mut AdaptedModel,
) -> BTreeMap<String, String> {
    let mut settings = run.decisive_settings();
    let metric = selection.metric.as_deref().filter(|_| selection.keep);
    settings.insert("cpu".into(), Tier::active().kernels());
    settings.insert("train.dtype".into(), name_of(compute).into());
    // What `train.compute` came to mean: what is streamed stays in floating numbers.
    let operands = if adapted.operands() == Operands::Int8 { "int8" } else { "as the rows" };
    settings.insert("train.operands".into(), operands.into());
    settings.insert("train.keep_best".into(), metric.unwrap_or("last").into());
    // What `auto` came to mean: another placement may have other bits.
    let placement = match adapted.placement() {
        Placement::Packed => "as stored",
        Placement::Int8 => "int8",
        Placement::Mapped => "as stored, from the file",
    };
    settings.insert("load_in".into(), placement.into());
    settings.insert("weights at the start".into(), format!("{:016x}", fingerprint(adapted.model_mut())));
    for (what, data) in ["training data", "validation data"].into_iter().zip(data) {
        let value = data.map_or_else(|| "absent".to_owned(), |data| format!("{:016x}", data.fingerprint()));
        settings.insert(what.into(), value);
    }
    settings
}

/// A number that changes with the model's parameters and with what is trained: FNV-1a over their names, types, shapes
/// and some of their values. All of them would cost a second of reading; a model that was trained further differs
/// nearly everywhere.
fn fingerprint(model: &mut dyn Model) -> u64 {
    const SAMPLES: usize = 16;
    let mut hash = Fnv::default();
    let mut sample = |name: &str, tensor: &Tensor| {
        let bytes = tensor.bytes();
        hash.add(name.as_bytes());
        hash.add(format!("{:?} {:?}", tensor.dtype(), tensor.shape().dims()).as_bytes());
        let places = (0..SAMPLES).map(|place| place * (bytes.len() / 8) / SAMPLES * 8);
        places.for_each(|place| hash.add(&bytes[place..bytes.len().min(place + 8)]));
    };
    let mut add = |name: &str, leaf: &Leaf| {
        leaf.tensors().for_each(|tensor| sample(name, tensor));
        // The same bytes under other scales are another weight.
        if let Some(quantized) = leaf.as_quantized() {
            let (scales, outliers) = (quantized.scales(), quantized.outliers());
            let columns: Vec<i64> = quantized.columns().iter().map(|column| i64::from(*column)).collect();
            sample("scales", &Tensor::from_slice([scales.len()], scales));
            sample("outlier columns", &Tensor::from_slice([columns.len()], &columns));
            sample("outliers", &Tensor::from_slice([outliers.len()], outliers));
        }
    };
    for_each_parameter(&*model, |name, parameter| {
        if let Some(leaf) = parameter.base() {
            add(name, leaf);
        }
    });
    for_each_trained_mut(model, |name, leaf| add(name, leaf));
    hash.0
}

/// Refuses a checkpoint of other settings, and names the first that differs.
pub(super) fn check_settings(
    output: &Path,
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> Result<()> {
    let Some(change) = first_difference(old, new) else { return Ok(()) };
    let reason = format!("it cannot be resumed: {change}; set it back, or add --overwrite to begin anew");
    Err(Error::file(output, reason))
}

/// The first setting that differs, in words.
pub(super) fn first_difference(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> Option<String> {
    let key = old.keys().chain(new.keys()).find(|key| old.get(*key) != new.get(*key))?;
    let show = |settings: &BTreeMap<String, String>| settings.get(key).map_or("absent", |v| v).to_owned();
    Some(format!("{key} was {} and is {}", show(old), show(new)))
}

/// The name of a compute type in a run file.
pub(super) fn name_of(compute: Compute) -> &'static str {
    match compute {
        Compute::F32 => "f32",
        Compute::Bf16 => "bf16",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{self, HeadSpec, ModelConfig};
    use crate::nn::for_each_parameter_mut;
    use crate::tensor::{DType, Quantized};

    #[test]
    fn the_fingerprint_of_weights_in_8_bits_changes_with_their_scales_and_outliers() {
        let config = serde_json::json!({
            "model_type": "bert", "vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 48,
        });
        let config = ModelConfig::from_json(&config).unwrap();
        let changed = |change: fn(&mut Vec<f32>, &mut Vec<u32>)| {
            let mut model = models::from_config(&config, HeadSpec::classes(2)).unwrap();
            models::initialise_int8(&mut *model, 3, DType::F32).unwrap();
            for_each_parameter_mut(&mut *model, |path, parameter| {
                let old = parameter.base().and_then(Leaf::as_quantized).cloned();
                if let Some(old) = old.filter(|_| path.ends_with("query.weight")) {
                    let (mut scales, mut columns) = (old.scales().to_vec(), old.columns().to_vec());
                    change(&mut scales, &mut columns);
                    let outliers = vec![half::bf16::ONE; columns.len() * scales.len()];
                    let new = Quantized::new(old.values().clone(), scales, columns, outliers).unwrap();
                    parameter.set_base(Leaf::quantized(new)).unwrap();
                }
            });
            fingerprint(&mut *model)
        };
        let same = changed(|_, columns| columns.clear());
        assert_eq!(changed(|_, columns| columns.clear()), same);
        let scaled = |scales: &mut Vec<f32>, columns: &mut Vec<u32>| {
            columns.clear();
            scales.iter_mut().for_each(|scale| *scale *= 2.0);
        };
        assert_ne!(changed(scaled), same);
        assert_ne!(changed(|_, columns| *columns = vec![1]), same);
        assert_ne!(changed(|_, columns| *columns = vec![2]), changed(|_, columns| *columns = vec![1]));
    }
}
