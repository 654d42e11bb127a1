//! Putting an adapter on a model, taking it off, and what of it is trained.

use std::collections::HashMap;

use super::base_values::BaseValues;
use super::config::{Bias, Init, LoraConfig, Targets};
use super::initialise;
use super::layers::Adapted;
use super::matcher::is_saved;
use super::targets::{
    Strictness, Targeted, check_exclude_modules, check_modules_to_save, modules_to_save, targeted,
};
use super::tokens::{TrainedTokens, trained_tokens};
use crate::models::ModelInfo;
use crate::nn::{
    self, Linear, Module, Role, for_each_embedding, for_each_embedding_mut, for_each_linear,
    for_each_linear_mut, for_each_parameter, for_each_parameter_mut,
};
use crate::tape::{AdapterId, Leaf, Lora, TokenRows};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// What an adapter changes in a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The layers that get a low-rank pair.
    pub targets: Targeted,
    /// The parameters that get a value of their own: heads, other modules to save, biases.
    pub replaced: Vec<String>,
    /// The tables of which single rows get values of their own.
    pub tokens: Vec<TrainedTokens>,
    /// The modules of `modules_to_save`, the head among them.
    pub modules_to_save: Vec<String>,
    /// The places of the linear layers among the targets, by their names: mixtures have thousands.
    places: HashMap<String, usize>,
}

impl Plan {
    fn new(
        targets: Targeted,
        replaced: Vec<String>,
        tokens: Vec<TrainedTokens>,
        modules_to_save: Vec<String>,
    ) -> Self {
        let places = Adapted::places(&targets.linears);
        Self { targets, replaced, tokens, modules_to_save, places }
    }

    /// The same plan for the same layers, of which each gets something else.
    pub(super) fn with_targets(&self, targets: Targeted) -> Self {
        let Self { replaced, tokens, modules_to_save, .. } = self.clone();
        Self::new(targets, replaced, tokens, modules_to_save)
    }

    /// What the linear layer at `path` gets.
    pub fn linear(&self, path: &str) -> Option<&Adapted> {
        self.places.get(path).map(|place| &self.targets.linears[*place])
    }

    /// The rows that the parameter at `path` gets.
    pub fn tokens(&self, path: &str) -> Option<&TrainedTokens> {
        let table = path.strip_suffix(".weight")?;
        self.tokens.iter().find(|tokens| tokens.path == table)
    }

    /// What the embedding at `path` gets.
    pub fn embedding(&self, path: &str) -> Option<&Adapted> {
        Adapted::find(&self.targets.embeddings, path)
    }
}

/// Works out what a fresh adapter changes in a model; shapes are enough.
///
/// # Errors
/// If a target, a module to exclude or a module to save matches nothing, the rank is 0 or beyond a linear layer, or a
/// convolution has not what the configuration asks of it. A rank may be beyond a layer that is adapted together with
/// larger ones: a table of two segments, a router, the smaller of what `all-linear` means.
pub fn plan(model: &dyn Module, info: &ModelInfo, config: &LoraConfig) -> Result<Plan> {
    let plan = planned(model, info, config, Strictness::Fresh)?;
    check_exclude_modules(model, info, config)?;
    let is_all = matches!(config.target_modules, Some(Targets::AllLinear));
    let mut has_room = false;
    for_each_linear(model, |path, linear| {
        let least = linear.inputs().min(linear.outputs());
        has_room |= plan.linear(path).is_some_and(|layer| layer.r <= least);
    });
    let mut result = Ok(());
    for_each_linear(model, |path, linear| {
        let (inputs, outputs) = (linear.inputs(), linear.outputs());
        let r = plan.linear(path).map_or(0, |layer| layer.r);
        if result.is_ok() && r > 0 {
            result = check_start(path, linear, &config.init_lora_weights);
        }
        let is_by_the_way = (is_all || linear.role() == Role::Matrix) && has_room;
        let may_be_beyond = is_by_the_way && !config.init_lora_weights.takes_from_the_weight();
        if result.is_ok() && r > inputs.min(outputs) && !may_be_beyond {
            let reason = format!("{r} is beyond {path}, which is {outputs} by {inputs}");
            result = Err(Error::setting(if r == config.r { "r" } else { "rank_pattern" }, reason));
        }
        if result.is_ok() && matches!(config.init_lora_weights, Init::Orthogonal) && !r.is_multiple_of(2) {
            let reason = format!("\"orthogonal\" needs even ranks, and {path} has {r}");
            result = Err(Error::setting("init_lora_weights", reason));
        }
    });
    result.map(|()| plan)
}

/// Checks that there is such a start for a layer.
fn check_start(path: &str, linear: &Linear, init: &Init) -> Result<()> {
    let reason = match init {
        Init::Orthogonal if linear.is_convolution() => "is a convolution, for which PEFT has no such start",
        init if init.takes_from_the_weight() && linear.groups() > 1 => {
            "is a convolution in groups, no part of whose weight is a pair"
        }
        _ => return Ok(()),
    };
    Err(Error::setting("init_lora_weights", format!("{path} {reason}; exclude it, or take another start")))
}

/// Checks that a pair fits the groups of a convolution.
///
/// # Source
/// PEFT's `_ConvNd`, for ranks. For its magnitudes it divides by the lengths of the rows of a matrix that is not the
/// layer's.
fn check_groups(path: &str, linear: &Linear, layer: &Adapted, r: usize) -> Result<()> {
    let groups = linear.groups();
    if !layer.r.is_multiple_of(groups) {
        let key = if layer.r == r { "r" } else { "rank_pattern" };
        let reason = format!("{} cannot be cut into the {groups} groups of {path}, a convolution", layer.r);
        return Err(Error::setting(key, reason));
    }
    if groups > 1 && layer.use_dora {
        let reason = format!(
            "{path} is a convolution in {groups} groups, for which there are no magnitudes; exclude it"
        );
        return Err(Error::setting("use_dora", reason));
    }
    Ok(())
}

/// As [`plan`], for an adapter that is there already: PEFT makes them with ranks beyond a layer, too.
///
/// # Errors
/// If a target or a module to save matches nothing, or the rank is 0.
pub(super) fn plan_any_rank(model: &dyn Module, info: &ModelInfo, config: &LoraConfig) -> Result<Plan> {
    planned(model, info, config, Strictness::Written)
}

fn planned(
    model: &dyn Module,
    info: &ModelInfo,
    config: &LoraConfig,
    strictness: Strictness,
) -> Result<Plan> {
    config.check()?;
    check_modules_to_save(model, config)?;
    let targets = targeted(model, info, config, strictness)?;
    if let Some(embedding) = targets.embeddings.first().filter(|_| config.lora_bias) {
        let reason = format!("{} is an embedding, whose pair has no bias; leave it out", embedding.path);
        return Err(Error::setting("lora_bias", reason));
    }
    let places = Adapted::places(&targets.linears);
    let mut result = Ok(());
    for_each_linear(model, |path, linear| {
        if let Some(place) = places.get(path).filter(|_| result.is_ok()) {
            result = check_groups(path, linear, &targets.linears[*place], config.r);
        }
    });
    result?;
    let saved = modules_to_save(config, info);
    let mut replaced = Vec::new();
    for_each_parameter(model, |path, _| {
        let (module, own) = path.rsplit_once('.').unwrap_or(("", path));
        let trained_bias = own == "bias"
            && match config.bias {
                Bias::None => false,
                Bias::All => true,
                Bias::LoraOnly => places.contains_key(module),
            };
        if trained_bias || saved.iter().any(|name| is_saved(module, name)) {
            replaced.push(path.to_owned());
        }
    });
    let mut result = Ok(());
    for_each_linear(model, |path, linear| {
        let is_saved = || replaced.iter().any(|own| own.strip_suffix(".weight") == Some(path));
        if matches!(linear.role(), Role::Expert(_)) && result.is_ok() && is_saved() {
            let reason = format!(
                "{path} is an expert, and no file has experts whole; name their stacks in target_parameters"
            );
            result = Err(Error::setting("modules_to_save", reason));
        }
    });
    result?;
    let tokens = trained_tokens(model, config, &targets, &saved)?;
    Ok(Plan::new(targets, replaced, tokens, saved))
}

/// Puts a fresh adapter on a model: `A` and `B` drawn as the configuration says, everything else that is trained
/// starting at the base model's value. The adapter's tensors are trainable and the base model is frozen; other
/// adapters stay as they are, trained or not, but one that was there under the same id is taken off.
///
/// Each layer draws from a stream of its own, so that its values do not depend on which other layers are adapted.
///
/// # Errors
/// As [`plan`]; or if the model has no value for something that is to be trained. The model is then without the
/// adapter.
pub fn attach(
    model: &mut dyn Module,
    info: &ModelInfo,
    config: &LoraConfig,
    adapter: AdapterId,
    seed: u64,
) -> Result<Plan> {
    let plan = plan(&*model, info, config)?;
    detach(model, adapter);
    let attached = attach_pairs(model, &plan, config, adapter, seed);
    let values = BaseValues::of(&*model);
    let mut result = attached;
    for_each_parameter_mut(model, |path, parameter| {
        if let Some(base) = parameter.base_mut() {
            base.set_trainable(false);
        }
        if result.is_ok() && plan.replaced.iter().any(|name| name == path) {
            // PEFT copies the value of a parameter that is another one's second name, too.
            let value = values.get(parameter).map(Leaf::float);
            result = value.and_then(|value| parameter.set_replacement(adapter, Leaf::trained(value)));
        }
        if let Some(tokens) = plan.tokens(path).filter(|_| result.is_ok()) {
            let rows = parameter.active(None).map(|table| rows_of(table, tokens));
            result = rows.and_then(|rows| parameter.set_rows(adapter, rows));
        }
    });
    if result.is_err() {
        detach(model, adapter);
    }
    result.map(|()| plan)
}

/// Gives the layers of a plan their pairs.
fn attach_pairs(
    model: &mut dyn Module,
    plan: &Plan,
    config: &LoraConfig,
    adapter: AdapterId,
    seed: u64,
) -> Result<()> {
    let values = BaseValues::of(&*model);
    let init = &config.init_lora_weights;
    if matches!(init, Init::Loftq) {
        check_eight_bits(&*model, plan)?;
    }
    let mut result = Ok(());
    for_each_linear_mut(model, |path, linear| {
        if let Some(layer) = plan.linear(path).filter(|_| result.is_ok()) {
            let weight = || values.get(&linear.weight).cloned();
            let pair = initialise::of_linear(layer, linear, weight, init, adapter, seed);
            result = pair.map(|pair| linear.lora.push(Lora { dropout: config.lora_dropout, ..pair }));
        }
    });
    result?;
    let mut result = Ok(());
    for_each_embedding_mut(model, |path, embedding| {
        if let Some(layer) = plan.embedding(path).filter(|_| result.is_ok()) {
            let table = || values.get(&embedding.weight).cloned();
            let pair = initialise::of_embedding(layer, embedding, table, init, adapter, seed);
            result = pair.map(|pair| embedding.lora.push(pair));
        }
    });
    result
}

/// LoftQ makes up for what 8 bits lose.
fn check_eight_bits(model: &dyn Module, plan: &Plan) -> Result<()> {
    let mut found = false;
    for_each_linear(model, |path, linear| {
        let base = linear.weight.base().filter(|_| plan.linear(path).is_some());
        found |= base.is_some_and(|leaf| leaf.as_quantized().is_some());
    });
    if found {
        return Ok(());
    }
    let reason =
        "\"loftq\" makes up for what 8 bits lose, and no adapted layer is in 8 bits: set load_in = \"int8\"";
    Err(Error::setting("init_lora_weights", reason))
}

/// Trained rows that begin as those of the base model.
fn rows_of(table: &Leaf, tokens: &TrainedTokens) -> TokenRows {
    let TrainedTokens { indices, width, .. } = tokens;
    let values = table.float().to_dtype(DType::F32);
    let values = values.as_slice::<f32>();
    let row = |id: &u32| &values[*id as usize * width..(*id as usize + 1) * width];
    let rows: Vec<f32> = indices.iter().flat_map(row).copied().collect();
    let values = Leaf::trained(Tensor::from_slice([indices.len(), *width], &rows));
    TokenRows { ids: indices.as_slice().into(), values }
}

/// Takes an adapter off a model, which then answers as before it was attached.
pub fn detach(model: &mut dyn Module, adapter: AdapterId) {
    for_each_linear_mut(model, |_, linear| linear.lora.retain(|lora| lora.adapter != adapter));
    for_each_embedding_mut(model, |_, embedding| embedding.lora.retain(|lora| lora.adapter != adapter));
    for_each_parameter_mut(model, |_, parameter| {
        parameter.remove_replacement(adapter);
        parameter.remove_rows(adapter);
    });
}

/// Whether anything of an adapter is on a model.
pub fn is_attached(model: &dyn Module, adapter: AdapterId) -> bool {
    let mut found = false;
    for_each_linear(model, |_, linear| found |= linear.adapter(adapter).is_some());
    for_each_embedding(model, |_, embedding| found |= embedding.adapter(adapter).is_some());
    for_each_parameter(model, |_, parameter| {
        found |= parameter.replacement(adapter).is_some() || parameter.rows(adapter).is_some();
    });
    found
}

/// Freezes the tensors of an adapter, or trains them.
pub fn set_trainable(model: &mut dyn Module, adapter: AdapterId, trainable: bool) {
    for_each_leaf_mut(model, adapter, |_, leaf| leaf.set_trainable(trainable));
}

/// Calls `f` with the name and the tensor of everything that an adapter brought: the low-rank pairs, and the values
/// that replace the base model's. Names are the base model's, with `lora_A.weight` and `lora_B.weight` below a linear
/// layer, `lora_embedding_A` and `lora_embedding_B` below an embedding, `lora_magnitude_vector` below either.
pub fn for_each_leaf_mut(model: &mut dyn Module, adapter: AdapterId, mut f: impl FnMut(&str, &mut Leaf)) {
    nn::for_each_leaf_mut(model, |name, owner, leaf| {
        if owner == Some(adapter) {
            f(name, leaf);
        }
    });
}
