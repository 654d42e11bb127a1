//! Weights from a checkpoint into a model.

use std::collections::HashSet;

use super::initialise::is_inside;
use super::{Model, ModelInfo};
use crate::hub::{Checkpoint, TensorView, to_tensor};
use crate::nn::for_each_parameter_mut;
use crate::tape::{Leaf, Parameter};
use crate::tensor::DType;
use crate::{Error, Result};

/// What loading left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors of the checkpoint that the task does not use: buffers, poolers, other heads.
    pub skipped: Vec<String>,
    /// Parameters of the head that the checkpoint has not, or has for another number of labels; the pooler's among
    /// them where it has none.
    pub missing_head: Vec<String>,
}

/// Modules of other tasks' heads, as Transformers names them.
const OTHER_HEADS: [&str; 11] = [
    "cls",
    "lm_head",
    "classifier",
    "qa_outputs",
    "score",
    "pre_classifier",
    "pooler",
    "discriminator_predictions",
    "vocab_layer_norm",
    "vocab_projector",
    "vocab_transform",
];

/// Loads every parameter of `model` from `checkpoint`, in place from the mapped file.
///
/// A checkpoint of the bare model, whose keys lack the model's prefix, loads too, as do the names `gamma` and `beta`
/// of old checkpoints. Only the head may be missing, and with it the whole pooler, which is then a part of it: a
/// checkpoint of masked language modelling has none, and Transformers draws a new one, too.
///
/// # Errors
/// Names the first tensor that is missing, has another shape or type, or that nothing accounts for.
pub fn load(model: &mut dyn Model, checkpoint: &Checkpoint) -> Result<LoadReport> {
    let prefix = format!("{}.", model.info().base_prefix);
    let bare = prefix.len() > 1 && !checkpoint.names().any(|key| key.starts_with(&prefix));
    if let Some(pooler) = model.info().pooler {
        let key = if bare { pooler.strip_prefix(&prefix).unwrap_or(pooler) } else { pooler };
        let head = &mut model.info_mut().head;
        head.retain(|module| *module != pooler);
        if !checkpoint.names().any(|name| is_inside(name, key)) {
            head.push(pooler);
        }
    }
    let info = model.info().clone();
    let mut report = LoadReport::default();
    let mut used: HashSet<String> = HashSet::new();
    let mut result = Ok(());
    for_each_parameter_mut(model, |path, parameter| {
        if result.is_err() {
            return;
        }
        let key = if bare { path.strip_prefix(&prefix).unwrap_or(path) } else { path };
        if parameter.tie().is_some() {
            // Some checkpoints have a copy of the value under each of its names.
            used.extend(spellings(key, &info).into_iter().filter(|key| checkpoint.get(key).is_some()));
            return;
        }
        let in_head = info.head.iter().any(|module| is_inside(path, module));
        let found =
            spellings(key, &info).into_iter().find_map(|key| checkpoint.get(&key).map(|view| (key, view)));
        match found {
            Some((key, view)) if in_head && view.shape != parameter.file_shape().dims() => {
                report.skipped.push(key.clone());
                report.missing_head.push(path.to_owned());
                used.insert(key);
            }
            Some((key, view)) => {
                result = set(parameter, &key, &view);
                used.insert(key);
            }
            None if in_head => report.missing_head.push(path.to_owned()),
            None => result = Err(missing(checkpoint, key)),
        }
    });
    result?;
    // A head of which one layer fits and another does not is some other head.
    if !report.missing_head.is_empty() {
        for_each_parameter_mut(model, |path, parameter| {
            let in_head = info.head.iter().any(|module| is_inside(path, module));
            if in_head && parameter.base().is_some() && !report.missing_head.iter().any(|p| p == path) {
                report.missing_head.push(path.to_owned());
                parameter.clear_base();
            }
        });
    }
    for key in checkpoint.names().filter(|key| !used.contains(*key)) {
        if !is_skippable(key, &info) {
            let reason = format!("no part of {} accounts for it", info.architecture);
            return Err(Error::tensor(checkpoint.path(), key, reason));
        }
        report.skipped.push(key.to_owned());
    }
    report.skipped.sort();
    Ok(report)
}

/// The key, the one before Transformers 5 renamed it, and what TensorFlow's checkpoints called a norm's parameters.
fn spellings(key: &str, info: &ModelInfo) -> Vec<String> {
    let mut spellings = vec![key.to_owned()];
    spellings.extend(info.older_name.map(|older| older(key)));
    for (new, old) in [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")] {
        spellings.extend(key.strip_suffix(new).map(|stem| format!("{stem}{old}")));
    }
    spellings
}

/// Buffers of any module, and modules of other tasks.
const BUFFERS: [&str; 7] = [
    "embeddings.position_ids",
    "embeddings.token_type_ids",
    "rotary_emb.inv_freq",
    "attn.bias",
    "attn.masked_bias",
    "embeddings.mask_token",
    // T5's first checkpoints have a table that nothing reads.
    "EncDecAttention.relative_attention_bias.weight",
];

fn is_skippable(key: &str, info: &ModelInfo) -> bool {
    let inner = key.strip_prefix(info.base_prefix).and_then(|rest| rest.strip_prefix('.'));
    let unused_pooler = inner.unwrap_or(key).starts_with("pooler.");
    let head = inner.is_none() && OTHER_HEADS.iter().any(|module| is_inside(key, module));
    BUFFERS.iter().any(|buffer| key.ends_with(buffer)) || unused_pooler || head
}

fn missing(checkpoint: &Checkpoint, key: &str) -> Error {
    let nearest = crate::nearest::nearest(key, checkpoint.names());
    let hint =
        nearest.first().map(|name| format!("; the nearest that is there is {name}")).unwrap_or_default();
    Error::tensor(checkpoint.path(), key, format!("it is missing{hint}"))
}

fn set(parameter: &mut Parameter, key: &str, view: &TensorView<'_>) -> Result<()> {
    if view.shape != parameter.file_shape().dims() {
        let reason = format!("its shape is {:?} where the model has {}", view.shape, parameter.file_shape());
        return Err(Error::tensor(view.file, key, reason));
    }
    let value = parameter.from_file(to_tensor(key, view)?);
    // Vectors are small and are read as f32 in every pass.
    let value = if parameter.shape().rank() == 1 { value.to_dtype(DType::F32) } else { value };
    parameter.set_base(Leaf::frozen(value))
}
