//! Weights from a checkpoint into a model.

use std::collections::{BTreeMap, HashSet};

use super::initialise::is_inside;
use super::keys::{Keys, TensorRows};
use super::placement::{Placement, quantizable, stream};
use super::ties::Ties;
use super::{Model, ModelInfo, eight_bits};
use crate::hub::{Checkpoint, StoredDtype, TensorView, to_tensor};
use crate::nn::{for_each_linear, for_each_parameter, for_each_parameter_mut};
use crate::tape::{Leaf, Parameter};
use crate::tensor::{DType, Quantized, Tensor};
use crate::{Error, Result};

/// What loading left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors of the checkpoint that the task does not use: buffers, poolers, other heads.
    pub skipped: Vec<String>,
    /// Parameters of the head that the checkpoint has not, or has for another number of labels; the pooler's among
    /// them where it has none.
    pub missing_head: Vec<String>,
    /// Parameters that are another one's second name, but for which the checkpoint has a value of their own.
    pub untied: Vec<String>,
}

impl LoadReport {
    /// The sentence on what is not tied, if there is such a thing.
    pub fn untied_note(&self) -> Option<String> {
        let names = self.untied.join(", ");
        (!self.untied.is_empty()).then(|| {
            format!("the checkpoint has values of their own, which are used, for tied weights: {names}")
        })
    }
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
/// of old checkpoints. A weight that is another name of one may be there under either name, or under both: two different
/// values make two weights, as in Transformers, and are reported. Only the head may be missing, and with it the whole
/// pooler, which is then a part of it: a checkpoint of masked language modelling has none, and Transformers draws a new
/// one, too.
///
/// # Errors
/// Names the first tensor that is missing, has another shape or type, or that nothing accounts for.
pub fn load(model: &mut dyn Model, checkpoint: &Checkpoint) -> Result<LoadReport> {
    load_as(model, checkpoint, Placement::Packed)
}

/// As [`load`], with the weights of linear layers kept as `placement` says. What is brought into 8 bits is so one tensor
/// after the other, and the pages of the file are given back after each: the result is the most that is held. Weights
/// that the checkpoint has in 8 bits stay so, in its mapped file, under any placement.
///
/// # Errors
/// As [`load`]; if a weight that is to be brought into 8 bits holds a value that is not finite.
pub fn load_as(model: &mut dyn Model, checkpoint: &Checkpoint, placement: Placement) -> Result<LoadReport> {
    let keys = Keys::new(model.info(), checkpoint);
    settle_pooler(model, checkpoint, &keys);
    let ties = Ties::settle(model, &keys)?;
    let info = model.info().clone();
    let mut linears = HashSet::new();
    for_each_linear(&*model, |path, _| {
        linears.insert(format!("{path}.weight"));
    });
    let eight = if placement == Placement::Int8 { quantizable(&*model) } else { HashSet::new() };
    let mut report = LoadReport::default();
    let mut used: HashSet<String> = HashSet::new();
    let mut result = Ok(());
    for_each_parameter_mut(model, |path, parameter| {
        if result.is_err() {
            return;
        }
        if parameter.tie().is_some() {
            // An equal value, or the one that stands in for that of the first name.
            used.extend(keys.spellings(path).into_iter().filter(|key| checkpoint.get(key).is_some()));
            return;
        }
        let in_head = info.head.iter().any(|module| is_inside(path, module));
        match ties.find(path, &keys) {
            Some((key, view)) if view.dtype == StoredDtype::I8 && linears.contains(path) => {
                result =
                    eight_bits::read(parameter, checkpoint, &key, &view).and_then(|(value, companions)| {
                        used.extend(companions);
                        parameter.set_base(Leaf::quantized(value))
                    });
                used.insert(key);
            }
            Some((key, view)) if in_head && view.shape != parameter.file_shape().dims() => {
                report.skipped.push(key.clone());
                report.missing_head.push(path.to_owned());
                used.insert(key);
            }
            Some((key, view)) => {
                result = set(parameter, &[(key.clone(), view)], eight.contains(path));
                used.insert(key);
            }
            None if parameter.shape().rank() == 2 && !keys.find_all(path).is_empty() => {
                let parts = keys.find_all(path);
                result = set(parameter, &parts, eight.contains(path));
                used.extend(parts.into_iter().map(|(key, _)| key));
            }
            None if in_head => report.missing_head.push(path.to_owned()),
            None => result = Err(missing(checkpoint, keys.key(path))),
        }
    });
    result?;
    if placement != Placement::Packed {
        stream(model);
    }
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
    report.untied = ties.untied;
    Ok(report)
}

/// A pooler that the checkpoint has not is a part of the head.
fn settle_pooler(model: &mut dyn Model, checkpoint: &Checkpoint, keys: &Keys<'_>) {
    if let Some(pooler) = model.info().pooler {
        let head = &mut model.info_mut().head;
        head.retain(|module| *module != pooler);
        if !checkpoint.names().any(|name| is_inside(name, keys.key(pooler))) {
            head.push(pooler);
        }
    }
}

/// The key of each parameter in a checkpoint: the one that is there, or what it would be.
pub(crate) fn keys_of(model: &dyn Model, checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let keys = Keys::new(model.info(), checkpoint);
    let mut found = BTreeMap::new();
    for_each_parameter(model, |path, _| {
        let key = keys.find(path).map_or_else(|| keys.key(path).to_owned(), |(key, _)| key);
        found.insert(path.to_owned(), key);
    });
    found
}

/// Where the rows of parameters are that are no tensors by themselves in a checkpoint.
pub(crate) fn parts_of(model: &dyn Model, checkpoint: &Checkpoint) -> BTreeMap<String, Vec<TensorRows>> {
    let keys = Keys::new(model.info(), checkpoint);
    let mut found = BTreeMap::new();
    for_each_parameter(model, |path, _| {
        found.extend(keys.parts(path).map(|parts| (path.to_owned(), parts)));
    });
    found
}

/// A weight of a checkpoint that can be brought into 8 bits.
pub(crate) struct Quantizable<'a> {
    /// The key of what it becomes: its own, or where it is part of a tensor or several tensors, its name in the model.
    pub key: String,
    /// The tensors that its rows are, one below the other.
    pub parts: Vec<(String, TensorView<'a>)>,
    /// Whether its rows and columns are exchanged there.
    pub is_transposed: bool,
}

/// The weights of a checkpoint that can be brought into 8 bits.
pub(crate) fn quantizable_weights<'a>(
    model: &mut dyn Model,
    checkpoint: &'a Checkpoint,
) -> Vec<Quantizable<'a>> {
    let keys = Keys::new(model.info(), checkpoint);
    settle_pooler(model, checkpoint, &keys);
    let names = quantizable(&*model);
    let mut found = Vec::new();
    for_each_parameter(&*model, |path, parameter| {
        let parts = if names.contains(path) { keys.find_all(path) } else { Vec::new() };
        if parts.is_empty() || parts.iter().any(|(_, view)| !view.dtype.is_float()) {
            return;
        }
        let is_whole = keys.parts(path).is_none();
        let key = if is_whole { parts[0].0.clone() } else { keys.key(path).to_owned() };
        found.push(Quantizable { key, parts, is_transposed: parameter.is_transposed() });
    });
    found
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

/// Sets a parameter from the tensors whose rows it consists of: most often one.
fn set(parameter: &mut Parameter, parts: &[(String, TensorView<'_>)], in_eight_bits: bool) -> Result<()> {
    let Some((first_key, first)) = parts.first() else { return Ok(()) };
    let expected = parameter.file_shape();
    for (key, view) in parts {
        let fits = match parts {
            [_] => view.shape == expected.dims(),
            _ => matches!(view.shape, [_, width] if *width == expected.width()),
        };
        if !fits {
            let reason = format!("its shape is {:?} where the model has {expected}", view.shape);
            return Err(Error::tensor(view.file, key, reason));
        }
    }
    if parts.len() > 1 {
        return set_joined(parameter, parts, in_eight_bits);
    }
    let stored = to_tensor(first_key, first)?;
    let value = parameter.from_file(stored.clone());
    if in_eight_bits {
        let quantized = Quantized::from_float(&value).ok_or_else(|| not_finite(first, first_key))?;
        stored.release_pages();
        return parameter.set_base(Leaf::quantized_from(quantized, stored));
    }
    // Vectors are small and are read as f32 in every pass.
    let value = if parameter.shape().rank() == 1 { value.to_dtype(DType::F32) } else { value };
    parameter.set_base(Leaf::frozen(value))
}

/// As [`set`], of several tensors one below the other.
fn set_joined(
    parameter: &mut Parameter,
    parts: &[(String, TensorView<'_>)],
    in_eight_bits: bool,
) -> Result<()> {
    let tensors = tensors_to_join(parts)?;
    let (key, view) = &parts[0];
    let rows: usize = tensors.iter().map(|tensor| tensor.shape().rows()).sum();
    if rows != parameter.shape().rows() {
        let shape = parameter.shape();
        let reason = format!("with those beside it, it has {rows} rows where the model has {shape}");
        return Err(Error::tensor(view.file, key, reason));
    }
    if !in_eight_bits {
        return parameter.set_base(Leaf::joined(tensors));
    }
    let quantized = Quantized::from_float(&Tensor::join_rows(&tensors));
    tensors.iter().for_each(Tensor::release_pages);
    parameter.set_base(Leaf::quantized(quantized.ok_or_else(|| not_finite(view, key))?))
}

/// Matrices of one width, one below the other, in memory. The pages of their files are given back.
///
/// # Errors
/// If they are of different types, or of one that is no weight.
pub(crate) fn join_rows(parts: &[(String, TensorView<'_>)]) -> Result<Tensor> {
    let tensors = tensors_to_join(parts)?;
    let joined = Tensor::join_rows(&tensors);
    tensors.iter().for_each(Tensor::release_pages);
    Ok(joined)
}

fn tensors_to_join(parts: &[(String, TensorView<'_>)]) -> Result<Vec<Tensor>> {
    let tensors: Vec<Tensor> = parts.iter().map(|(key, view)| to_tensor(key, view)).collect::<Result<_>>()?;
    let dtype = tensors.first().map_or(DType::F32, Tensor::dtype);
    for ((key, view), tensor) in parts.iter().zip(&tensors) {
        let own = tensor.dtype();
        if own != dtype {
            let reason = format!("its type is {own}, and that of what is one matrix with it {dtype}");
            return Err(Error::tensor(view.file, key, reason));
        }
        if !matches!(own, DType::F32 | DType::Bf16 | DType::F16) {
            return Err(Error::tensor(view.file, key, format!("its type is {own}, which is no weight's")));
        }
    }
    Ok(tensors)
}

/// The error of a weight that cannot be brought into 8 bits.
pub(crate) fn not_finite(view: &TensorView<'_>, key: &str) -> Error {
    Error::tensor(view.file, key, "it holds a value that is not finite, and cannot be brought into 8 bits")
}
