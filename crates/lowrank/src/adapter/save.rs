//! Adapter folders, written.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::attach::{Plan, for_each_leaf_mut};
use super::config::{Init, LoraConfig, Targets};
use super::experts::{self, Factor};
use super::file::peft_key;
use super::layers::Adapted;
use super::matcher::{is_saved, is_suffix, is_within};
use super::peft_config;
use super::targets::{Targeted, target_modules};
use crate::hub::{ADAPTER_FILE, Tensors, write_tensors};
use crate::models::{Head, ModelInfo};
use crate::nn::{Module, for_each_linear};
use crate::tape::{AdapterId, Initial};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Every tensor of an adapter under its key in the file. A pair that began as a part of the weight is one of twice the
/// rank, which adds to the weight as it is in the base model what the pair has become: `[B, −B₀]·[A; A₀]`.
///
/// # Source
/// PEFT's `subtract_mutated_init`, for the last.
pub fn tensors(model: &mut dyn Module, adapter: AdapterId, plan: &Plan) -> Tensors {
    let mut tensors = Tensors::new();
    for_each_leaf_mut(model, adapter, |name, leaf| {
        tensors.insert(name.to_owned(), leaf.value().to_dtype(DType::F32));
    });
    for_each_linear(&*model, |path, linear| {
        let own = linear.adapter(adapter);
        if let Some((lora, Initial { a, b })) = own.and_then(|lora| Some((lora, lora.initial.as_ref()?))) {
            let below = Tensor::join_rows(&[lora.a.value().clone(), a.value().clone()]);
            let beside = Tensor::join_rows(&[lora.b.value().transposed(), negative(b.value()).transposed()]);
            for (name, value) in [("lora_A.weight", below), ("lora_B.weight", beside.transposed())] {
                tensors.insert(format!("{path}.{name}"), value);
            }
        }
    });
    in_file(model, adapter, plan, tensors, |name| peft_key(name, plan))
}

/// Tensors by the names of [`for_each_leaf_mut`] as a file has them: those of pairs on convolutions in the shapes of
/// these, those of experts as one, all under their keys.
pub(crate) fn in_file(
    model: &dyn Module,
    adapter: AdapterId,
    plan: &Plan,
    mut tensors: Tensors,
    key: impl Fn(&str) -> String,
) -> Tensors {
    let mut in_file = Tensors::new();
    let mut of_experts: BTreeMap<(String, Factor), Vec<Tensor>> = BTreeMap::new();
    for_each_linear(model, |path, linear| {
        let stacked = plan.linear(path).and_then(Adapted::stacked);
        for (part, _) in linear.adapter(adapter).iter().flat_map(|lora| lora.leaves()) {
            let name = format!("{path}.{part}");
            let Some(value) = tensors.remove(&name) else { continue };
            match stacked.zip(Factor::of(part)) {
                // The layers of a stack come in the order of its experts.
                Some((stacked, factor)) => {
                    let name = format!("{}.{part}", stacked.module);
                    of_experts.entry((name, factor)).or_default().push(value);
                }
                None => {
                    let shape = linear.shape_in_file(part, value.shape());
                    in_file.insert(key(&name), value.reshape(shape));
                }
            }
        }
    });
    in_file.extend(tensors.into_iter().map(|(name, value)| (key(&name), value)));
    in_file.extend(of_experts.into_iter().map(|((name, factor), own)| (key(&name), factor.stack(&own))));
    in_file
}

fn negative(tensor: &Tensor) -> Tensor {
    let values: Vec<f32> = tensor.as_slice::<f32>().iter().map(|value| -value).collect();
    Tensor::from_slice(tensor.shape(), &values)
}

/// The plan and the configuration of what [`tensors`] gives of pairs that began as a part of the weight: plain pairs of
/// twice the rank and of the same scaling.
fn as_plain(plan: &Plan, config: &LoraConfig) -> (Plan, LoraConfig) {
    let factor = if config.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 };
    let doubled = |layer: &Adapted| {
        let lora_alpha = Some(layer.lora_alpha.unwrap_or(layer.r as f64) * factor);
        Adapted { r: 2 * layer.r, lora_alpha, ..layer.clone() }
    };
    let targets = Targeted {
        linears: plan.targets.linears.iter().map(doubled).collect(),
        embeddings: plan.targets.embeddings.clone(),
    };
    // Embeddings begin as ever.
    let embeddings = || plan.targets.embeddings.iter();
    let ranks = embeddings().map(|layer| (layer.path.clone(), layer.r));
    let alphas = embeddings().map(|layer| (layer.path.clone(), layer.lora_alpha.unwrap_or(layer.r as f64)));
    // A file has one value for a pattern.
    let is_other = |pattern: &str| Adapted::find(&plan.targets.embeddings, pattern).is_none();
    let own_ranks = config.rank_pattern.iter().filter(|(pattern, _)| is_other(pattern));
    let own_alphas = config.alpha_pattern.iter().filter(|(pattern, _)| is_other(pattern));
    let config = LoraConfig {
        r: 2 * config.r,
        lora_alpha: Some(config.lora_alpha.unwrap_or(config.r as f64) * factor),
        rank_pattern: ranks.chain(own_ranks.map(|(pattern, r)| (pattern.clone(), 2 * r))).collect(),
        alpha_pattern: alphas
            .chain(own_alphas.map(|(pattern, alpha)| (pattern.clone(), alpha * factor)))
            .collect(),
        init_lora_weights: Init::Default,
        ..config.clone()
    };
    (plan.with_targets(targets), config)
}

/// Writes an adapter folder; the same adapter gives the same bytes. What began as a part of the weights is written as an
/// adapter of twice the rank for the base model as it is.
///
/// # Errors
/// If a file cannot be written.
pub fn save(
    model: &mut dyn Module,
    info: &ModelInfo,
    adapter: AdapterId,
    plan: &Plan,
    config: &LoraConfig,
    base_model: &str,
    folder: &Path,
) -> Result<()> {
    let config = &experts::in_names_of_now(&*model, info, config, false)?;
    let plain = config.init_lora_weights.takes_from_the_weight().then(|| as_plain(plan, config));
    let (plan, config) = plain.as_ref().map_or((plan, &**config), |(plan, config)| (plan, config));
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    write_tensors(&folder.join(ADAPTER_FILE), &tensors(model, adapter, plan))?;
    let saved = names_for_peft(&plan.modules_to_save, plan);
    // PEFT writes what its last layer needed; when it loads, it goes by the layer.
    let mut transposed = false;
    for_each_linear(&*model, |path, linear| {
        if plan.linear(path).is_some() {
            transposed = linear.weight.is_transposed();
        }
    });
    let targets: Vec<&str> = plan.targets.modules().collect();
    let meaning = peft_config::Meaning {
        targets: &targets,
        modules_to_save: &saved,
        base_model,
        // Of a model with a head, the word says that the adapter has one, too.
        task_type: info.kind.peft_task_type().filter(|_| {
            let saved = |head: &&str| plan.modules_to_save.iter().any(|name| is_saved(head, name));
            info.head.is_empty() || info.head.iter().any(saved)
        }),
        auto_mapping: (info.kind == Head::ImageClassification).then(|| {
            let family = info.base_prefix;
            (&*info.architecture, format!("transformers.models.{family}.modeling_{family}"))
        }),
        fan_in_fan_out: transposed,
    };
    let config = in_module_names_of_now(&*model, info, plan, config);
    peft_config::write(folder, &peft_config::to_json(&config, &meaning))
}

/// The configuration in the names that the modules have in the newest Transformers, which alone PEFT finds there: as it
/// is if these say the same, else with the layers that it came to mean. A regular expression for a model with experts is
/// one that PEFT would take for names, those of experts among them.
fn in_module_names_of_now<'c>(
    model: &dyn Module,
    info: &ModelInfo,
    plan: &Plan,
    config: &'c LoraConfig,
) -> Cow<'c, LoraConfig> {
    let now = ModelInfo { older_name: None, ..info.clone() };
    let means_the_plan =
        |config: &LoraConfig| target_modules(model, &now, config).is_ok_and(|found| found == plan.targets);
    let is_pattern = matches!(config.target_modules, Some(Targets::Pattern(_)));
    let is_taken_for_names = is_pattern && info.experts.is_some_and(|names| names.are_targets);
    if !is_taken_for_names && (info.older_name.is_none() || means_the_plan(config)) {
        return Cow::Borrowed(config);
    }
    let layers = || plan.targets.linears.iter().chain(&plan.targets.embeddings);
    let mut ranks: Vec<(String, usize)> = Vec::new();
    let mut alphas: Vec<(String, f64)> = Vec::new();
    for layer in layers() {
        // The layers of experts have one name.
        if layer.r != config.r && ranks.last().is_none_or(|(name, _)| name != layer.name()) {
            ranks.push((layer.name().to_owned(), layer.r));
        }
        if let Some(alpha) = layer.lora_alpha.filter(|_| layer.lora_alpha != config.lora_alpha)
            && alphas.last().is_none_or(|(name, _)| name != layer.name())
        {
            alphas.push((layer.name().to_owned(), alpha));
        }
    }
    let named = |names: Vec<String>| LoraConfig {
        target_modules: Some(Targets::Names(names)),
        exclude_modules: None,
        layers_to_transform: None,
        layers_pattern: Vec::new(),
        rank_pattern: ranks.clone(),
        alpha_pattern: alphas.clone(),
        ..config.clone()
    };
    let all: Vec<String> = plan.targets.modules().map(str::to_owned).collect();
    let mut last: Vec<String> =
        all.iter().map(|path| path.rsplit('.').next().unwrap_or(path).to_owned()).collect();
    last.sort_unstable();
    last.dedup();
    let short = named(last);
    Cow::Owned(if means_the_plan(&short) { short } else { named(all) })
}

/// PEFT wraps every module whose name ends with an entry, even one inside another that it wrapped, and then cannot
/// load its own file. An entry that would lead to that is written as the layers inside it.
fn names_for_peft(modules_to_save: &[String], plan: &Plan) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in modules_to_save {
        let inside: BTreeSet<&str> = plan
            .replaced
            .iter()
            .filter_map(|path| path.rsplit_once('.').map(|(module, _)| module))
            .filter(|module| is_within(module, name) && !is_suffix(module, name))
            .collect();
        let nested = inside.iter().any(|module| modules_to_save.iter().any(|entry| module.ends_with(entry)));
        let written: Vec<&str> = if nested { inside.into_iter().collect() } else { vec![name] };
        for name in written {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}
