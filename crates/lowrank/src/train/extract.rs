//! An adapter out of a model that was trained whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lowrank_kernels::Compute;

use super::adapted_model::{AdaptedModel, LoadOptions};
use crate::adapter::tools::{MadeLayer, MadeReport, RankChoice, filled_up};
use crate::adapter::{self, Adapted, Bias, LoraConfig, Plan, Targets, target_modules};
use crate::analysis::{LowRank, Matrix};
use crate::hub::{self, Checkpoint, RepositoryKind, check_is_free, to_tensor};
use crate::models::{Keys, LoadIn, ModelInfo, join_rows};
use crate::nn::{Module, for_each_linear_mut, for_each_parameter};
use crate::tape::{AdapterId, Leaf, Parameter};
use crate::tensor::Tensor;
use crate::{Error, Result};

const ADAPTER: AdapterId = AdapterId(0);

/// What to extract.
#[derive(Clone, Debug)]
pub struct ExtractOptions<'a> {
    /// The model before: a folder or Hub id.
    pub base: &'a str,
    /// The model after, of the same architecture.
    pub tuned: &'a str,
    /// The rank of each layer.
    pub choice: RankChoice,
    /// The layers to adapt; absent, and without parameters: every linear layer but the head, those of experts among them.
    pub target_modules: Option<Targets>,
    /// The parameters to adapt, by the ends of their names: experts, routers.
    pub target_parameters: &'a [String],
    /// The folder to write; it is made, or is empty.
    pub out: &'a Path,
}

/// A layer's product, and what it lacks.
struct Extracted {
    /// The layer, or the parameter that it is on.
    layer: Adapted,
    made: LowRank,
    report: MadeLayer,
}

impl Extracted {
    /// The factors, filled up with zeros to a rank that is no smaller: experts of a stack have one.
    fn factors(&self, r: usize) -> [Tensor; 2] {
        let ([rows, columns], LowRank { k, left, right, .. }) = (self.report.shape, &self.made);
        let [a, b] = filled_up([&narrow(right), &narrow(left)], [rows, *k, columns], r);
        [Tensor::from_slice([r, columns], &a), Tensor::from_slice([rows, r], &b)]
    }
}

/// Writes the adapter that makes of a base model, as nearly as its rank allows, what full training made of it: the best
/// approximation of what changed in each linear layer, with a scaling of 1. A head, norms, embeddings and biases that
/// changed are in it as they are; the report's notes name what else changed, which is lost.
///
/// # Errors
/// If a model cannot be read, the two are of different shapes or in 8 bits, nothing that can be adapted differs, or the
/// folder is not empty or cannot be written.
pub fn extract(options: &ExtractOptions<'_>) -> Result<MadeReport> {
    options.choice.check()?;
    check_is_free(options.out)?;
    let load = LoadOptions { compute: Some(Compute::F32), load_in: LoadIn::Mapped, ..LoadOptions::default() };
    let mut tuned = AdaptedModel::load(options.tuned, None, load)?;
    let info = tuned.model().info().clone();
    let base = Checkpoint::open(hub::resolve(options.base, RepositoryKind::Model)?.path)?;
    let changed = changed(tuned.model(), &info, &base)?;
    let layers = extracted(tuned.model(), &info, &base, &changed, options)?;
    let config = config(tuned.model(), &info, &layers, &changed)?;
    let plan = adapter::attach(tuned.model_mut(), &info, &config, ADAPTER, 0)?;
    for_each_linear_mut(tuned.model_mut(), |path, linear| {
        let lora = linear.lora.iter_mut().find(|lora| lora.adapter == ADAPTER);
        if let (Some(lora), Some(extracted)) = (lora, layers.get(path)) {
            [lora.a, lora.b] = extracted.factors(lora.a.value().shape().rows()).map(Leaf::frozen);
        }
    });
    let notes = notes(tuned.model(), &plan, &changed);
    adapter::save(tuned.model_mut(), &info, ADAPTER, &plan, &config, options.base, options.out)?;
    let layers = layers.into_values().map(|layer| layer.report).collect();
    Ok(MadeReport::new(options.out.to_path_buf(), layers, plan.replaced.len(), notes))
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// The base model's value of a parameter, in the form that it has in the model; none where it has none of this shape.
fn base_value(path: &str, parameter: &Parameter, keys: &Keys<'_>) -> Result<Option<Tensor>> {
    let parts = keys.find_all(path);
    let value = match &parts[..] {
        [] => return Ok(None),
        [(key, view)] if view.shape == parameter.file_shape().dims() => to_tensor(key, view)?,
        [_] => return Ok(None),
        _ => join_rows(&parts)?,
    };
    Ok((value.shape() == parameter.file_shape()).then(|| parameter.from_file(value)))
}

/// The parameters whose values are others than the base model's, or that it has not.
fn changed(model: &dyn Module, info: &ModelInfo, base: &Checkpoint) -> Result<BTreeSet<String>> {
    let keys = Keys::new(info, base);
    let mut changed = BTreeSet::new();
    let mut result = Ok(());
    for_each_parameter(model, |path, parameter| {
        let Some(leaf) = parameter.base().filter(|_| result.is_ok()) else { return };
        if leaf.as_quantized().is_some() {
            result = Err(Error::Usage(format!("{path} is in 8 bits; what changed in it cannot be told")));
            return;
        }
        match base_value(path, parameter, &keys) {
            Ok(Some(before)) if before.to_f32_vec() == leaf.float().to_f32_vec() => {}
            Ok(_) => drop(changed.insert(path.to_owned())),
            Err(error) => result = Err(error),
        }
        leaf.tensors().for_each(Tensor::release_pages);
    });
    result.map(|()| changed)
}

/// The products of the linear layers that changed and are to be adapted.
fn extracted(
    model: &dyn Module,
    info: &ModelInfo,
    base: &Checkpoint,
    changed: &BTreeSet<String>,
    options: &ExtractOptions<'_>,
) -> Result<BTreeMap<String, Extracted>> {
    let mut config = LoraConfig {
        target_modules: options.target_modules.clone(),
        target_parameters: options.target_parameters.to_vec(),
        ..LoraConfig::default()
    };
    if config.target_modules.is_none() && config.target_parameters.is_empty() {
        config.target_modules = Some(Targets::AllLinear);
        if info.experts.is_some() {
            config.target_parameters = adapter::parameters_beside_modules(model, info);
        }
    }
    let targets = target_modules(model, info, &config)?;
    let keys = Keys::new(info, base);
    let mut layers = BTreeMap::new();
    let mut result = Ok(());
    for_each_parameter(model, |path, parameter| {
        let Some(module) = path.strip_suffix(".weight").filter(|_| result.is_ok()) else { return };
        let target = targets.linears.iter().find(|layer| layer.path == module);
        let leaf = parameter.base().filter(|_| changed.contains(path));
        if let Some((leaf, target)) = leaf.zip(target) {
            let layer = base_value(path, parameter, &keys).and_then(|before| {
                let before = before.ok_or_else(|| {
                    let reason =
                        "the base model has no weight of this shape; it must be the one that was trained";
                    Error::tensor(base.path(), path, reason)
                })?;
                approximate(target, &leaf.float(), &before, options.choice)
            });
            result = layer.map(|layer| drop(layers.insert(module.to_owned(), layer)));
        }
    });
    result?;
    if layers.is_empty() {
        let reason =
            "no layer to adapt has other weights than in the base model: there is nothing to extract";
        return Err(Error::Usage(reason.into()));
    }
    Ok(layers)
}

fn approximate(layer: &Adapted, after: &Tensor, before: &Tensor, choice: RankChoice) -> Result<Extracted> {
    let module = &layer.path;
    let (rows, columns) = after.rows_and_width();
    let pairs = after.to_f32_vec().into_iter().zip(before.to_f32_vec());
    let difference: Vec<f64> = pairs.map(|(after, before)| f64::from(after) - f64::from(before)).collect();
    let matrix = Matrix::from_f64(module, &difference, rows, columns)?;
    let (spectrum, made) = matrix.approximated(|spectrum| choice.of(spectrum))?;
    let norm = spectrum.frobenius_norm();
    let error = lacking(&difference, &made, columns);
    let report = MadeLayer::new(module, [rows, columns], made.k, norm, error);
    Ok(Extracted { layer: layer.clone(), made, report })
}

/// The Frobenius norm of what a product lacks of a matrix, its factors rounded to f32.
fn lacking(matrix: &[f64], made: &LowRank, columns: usize) -> f64 {
    let (left, right) = (narrow(&made.left), narrow(&made.right));
    let mut squares = 0.0;
    for (row, left) in matrix.chunks_exact(columns.max(1)).zip(left.chunks_exact(made.k.max(1))) {
        let mut rest = row.to_vec();
        for (weight, right) in left.iter().zip(right.chunks_exact(columns.max(1))) {
            let weight = f64::from(*weight);
            rest.iter_mut().zip(right).for_each(|(rest, value)| *rest -= weight * f64::from(*value));
        }
        squares += rest.iter().map(|value| value * value).sum::<f64>();
    }
    squares.sqrt()
}

/// The configuration of the extracted layers, which also keeps what changed beside them, as far as there is a setting for
/// that.
fn config(
    model: &dyn Module,
    info: &ModelInfo,
    layers: &BTreeMap<String, Extracted>,
    changed: &BTreeSet<String>,
) -> Result<LoraConfig> {
    let mut ranks: BTreeMap<&str, usize> = BTreeMap::new();
    for Extracted { layer, made, .. } in layers.values() {
        let rank = ranks.entry(layer.name()).or_default();
        *rank = made.k.max(*rank);
    }
    let mut counts = BTreeMap::new();
    ranks.values().for_each(|k| *counts.entry(*k).or_insert(0) += 1);
    let usual = counts.iter().max_by_key(|(_, count)| **count).map_or(1, |(k, _)| *k);
    let own = || ranks.iter().filter(|(_, k)| **k != usual);
    let (on_parameters, on_modules): (Vec<&Extracted>, Vec<&Extracted>) =
        layers.values().partition(|extracted| extracted.layer.parameter.is_some());
    let names = |layers: &[&Extracted]| -> Vec<String> {
        let names: BTreeSet<&str> = layers.iter().map(|extracted| extracted.layer.name()).collect();
        names.into_iter().map(str::to_owned).collect()
    };
    let mut config = LoraConfig {
        r: usual,
        lora_alpha: Some(usual as f64),
        target_modules: Some(Targets::Names(names(&on_modules))),
        target_parameters: names(&on_parameters),
        rank_pattern: own().map(|(name, k)| ((*name).to_owned(), *k)).collect(),
        alpha_pattern: own().map(|(name, k)| ((*name).to_owned(), *k as f64)).collect(),
        ..LoraConfig::default()
    };
    let steps: [fn(&mut LoraConfig); 4] = [
        |config| config.bias = Bias::LoraOnly,
        |config| config.train_layer_norms = true,
        |config| config.train_embeddings = true,
        |config| config.bias = Bias::All,
    ];
    for step in steps {
        let lost = lost(&adapter::plan(model, info, &config)?, changed);
        let mut more = config.clone();
        step(&mut more);
        // What there is no such module of is no setting of this model's.
        let helps = adapter::plan(model, info, &more)
            .is_ok_and(|plan| lost.iter().any(|path| plan.replaced.contains(path)));
        if helps {
            config = more;
        }
    }
    Ok(config)
}

/// What changed and is in no pair and no tensor of the adapter.
fn lost(plan: &Plan, changed: &BTreeSet<String>) -> Vec<String> {
    let is_adapted =
        |path: &str| path.strip_suffix(".weight").is_some_and(|module| plan.linear(module).is_some());
    changed.iter().filter(|path| !is_adapted(path) && !plan.replaced.contains(path)).cloned().collect()
}

fn notes(model: &dyn Module, plan: &Plan, changed: &BTreeSet<String>) -> Vec<String> {
    let lost = lost(plan, changed);
    let mut notes = Vec::new();
    if !lost.is_empty() {
        notes.push(format!("changed, but not in the adapter: {}", lost.join(", ")));
    }
    for_each_parameter(model, |path, parameter| {
        if let Some(table) = parameter.shares().filter(|table| plan.replaced.iter().any(|name| name == table))
        {
            notes.push(format!("{path} shares {table}, and keeps the base model's value under an adapter"));
        }
    });
    notes
}
