//! The tensors of an adapter file bound to the layers and parameters of a model.

use std::collections::{BTreeMap, BTreeSet};

use super::{AdapterFile, PREFIX, copies_of};
use crate::adapter::attach::Plan;
use crate::adapter::base_values::BaseValues;
use crate::adapter::config::Init;
use crate::adapter::experts::{Factor, names_of_4};
use crate::adapter::initialise::part_of_weight;
use crate::adapter::layers::Adapted;
use crate::adapter::tokens::TrainedTokens;
use crate::hub::{ADAPTER_CONFIG, Tensors};
use crate::models::ModelInfo;
use crate::nn::{
    Embedding, Expert, Linear, Module, for_each_embedding_mut, for_each_linear_mut, for_each_parameter_mut,
    rows_name,
};
use crate::tape::{AdapterId, Initial, Leaf, Lora, Magnitude, Parameter, TokenRows};
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};

/// A tensor of a pair: where it is in the file, and its shape here.
struct Part {
    source: Source,
    here: Shape,
}

/// Where a file has a tensor of a pair.
enum Source {
    /// As a tensor of this shape.
    Own { key: String, in_file: Shape },
    /// In the tensor of all experts.
    Stacked { key: String, factor: Factor, expert: Expert },
    /// As the tensors of the layers that are one layer here.
    Layers { keys: Vec<String>, factor: Factor },
}

/// What a file is bound to.
struct Binding<'a> {
    info: &'a ModelInfo,
    plan: &'a Plan,
    adapter: AdapterId,
    /// The base model's values, where they are needed.
    values: BaseValues,
    /// The keys of the file that are bound to nothing yet.
    unused: BTreeSet<String>,
    /// The tensors of all experts of which single ones are being bound.
    stacks: BTreeMap<String, Tensor>,
}

impl AdapterFile {
    /// Gives every layer of a plan its pair, and every parameter what the file has for it.
    pub(super) fn bind(
        &self,
        model: &mut dyn Module,
        info: &ModelInfo,
        plan: &Plan,
        adapter: AdapterId,
    ) -> Result<()> {
        let takes = self.config.init_lora_weights.takes_from_the_weight();
        let mut binding = Binding {
            info,
            plan,
            adapter,
            values: if takes { BaseValues::of(&*model) } else { BaseValues::default() },
            unused: self.checkpoint.names().map(str::to_owned).collect(),
            stacks: BTreeMap::new(),
        };
        let mut result = Ok(());
        for_each_linear_mut(model, |path, linear| {
            if let Some(layer) = plan.linear(path).filter(|_| result.is_ok()) {
                result = self.bind_linear(linear, layer, &mut binding);
            }
        });
        result?;
        let mut result = Ok(());
        for_each_embedding_mut(model, |path, embedding| {
            if let Some(layer) = plan.embedding(path).filter(|_| result.is_ok()) {
                result = self.bind_embedding(embedding, layer, &mut binding);
            }
        });
        result?;
        let mut result = Ok(());
        for_each_parameter_mut(model, |path, parameter| {
            if result.is_ok() {
                result = self.bind_parameter(path, parameter, &mut binding);
            }
        });
        result?;
        match binding.unused.first() {
            None => Ok(()),
            Some(key) => Err(self.error(key, "it binds to nothing in the model")),
        }
    }

    /// Gives a linear layer its pair.
    fn bind_linear(&self, linear: &mut Linear, layer: &Adapted, binding: &mut Binding<'_>) -> Result<()> {
        let (inputs, outputs) = (linear.inputs(), linear.outputs());
        let part = |name: &str, here: Shape| {
            let key = || self.key_of(&format!("{}.{name}", layer.path), binding.info, binding.plan);
            let of_expert = self.source_of_expert(layer, name, binding.info, binding.plan);
            let own = || Source::Own { key: key(), in_file: linear.shape_in_file(name, here) };
            Part { source: of_expert.unwrap_or_else(own), here }
        };
        let a = part("lora_A.weight", [layer.r, inputs].into());
        let b = part("lora_B.weight", [outputs, layer.r / linear.groups()].into());
        let vector = |name| part(name, [outputs].into());
        let bias = layer.lora_bias.then(|| vector("lora_B.bias"));
        let magnitude = layer.use_dora.then(|| vector("lora_magnitude_vector"));
        let mut pair = self.pair([a, b], layer, binding)?;
        pair.dropout = self.config.lora_dropout;
        pair.bias = self.leaf_if(bias, binding)?;
        pair.magnitude = self.leaf_if(magnitude, binding)?.map(Magnitude::new);
        if layer.stacked().is_none_or(|stacked| stacked.expert.number + 1 == stacked.expert.of) {
            binding.stacks.clear();
        }
        let init = &self.config.init_lora_weights;
        if init.takes_from_the_weight() {
            self.check_taken(linear, layer, init)?;
            let weight = binding.values.get(&linear.weight)?;
            let [a, b] = part_of_weight(layer, weight, init, 0)?.map(Leaf::frozen);
            pair.initial = Some(Initial { a, b });
        }
        linear.lora.push(pair);
        Ok(())
    }

    /// Where the tensor of this name of an expert's pair is, if the layer is one.
    fn source_of_expert(&self, layer: &Adapted, name: &str, info: &ModelInfo, plan: &Plan) -> Option<Source> {
        let (stacked, parameter) = (layer.stacked()?, layer.parameter.as_ref()?);
        let (factor, expert) = (Factor::of(name)?, stacked.expert);
        let key_of = |module: &str| self.key_of(&format!("{module}.{name}"), info, plan);
        let key = key_of(&stacked.module);
        let older = names_of_4(info, &parameter.name, expert.number);
        let keys: Vec<String> = older.iter().map(|module| key_of(module)).collect();
        let is_there = |key: &String| self.checkpoint.get(key).is_some();
        Some(match !is_there(&key) && keys.iter().any(is_there) {
            true => Source::Layers { keys, factor },
            false => Source::Stacked { key, factor, expert },
        })
    }

    /// Gives an embedding its pair.
    fn bind_embedding(
        &self,
        embedding: &mut Embedding,
        layer: &Adapted,
        binding: &mut Binding<'_>,
    ) -> Result<()> {
        let part = |part: &str, here: Shape| {
            let key = self.key_of(&format!("{}.{part}", layer.path), binding.info, binding.plan);
            Part { source: Source::Own { key, in_file: here }, here }
        };
        let a = part("lora_embedding_A", [layer.r, embedding.entries()].into());
        let b = part("lora_embedding_B", [embedding.width(), layer.r].into());
        let magnitude = [embedding.width()].into();
        let magnitude = layer.use_dora.then(|| part("lora_magnitude_vector", magnitude));
        let mut pair = self.pair([a, b], layer, binding)?;
        pair.magnitude = self.leaf_if(magnitude, binding)?.map(Magnitude::new);
        embedding.lora.push(pair);
        Ok(())
    }

    /// Gives a parameter the value, or the rows, that the adapter has for it, and accounts for the copies in the file.
    fn bind_parameter(&self, path: &str, parameter: &mut Parameter, binding: &mut Binding<'_>) -> Result<()> {
        let Binding { info, plan, adapter, .. } = *binding;
        if let Some(TrainedTokens { indices, width, .. }) = plan.tokens(path) {
            let key = self.key_of(&rows_name(path), info, plan);
            binding.unused.remove(&key);
            let values = Leaf::frozen(self.tensor(&key, &[indices.len(), *width])?);
            parameter.set_rows(adapter, TokenRows { ids: indices.as_slice().into(), values })?;
        }
        let key = self.key_of(path, info, plan);
        let base_layer = base_layer_key(path, info, plan);
        let shape = parameter.file_shape();
        if plan.replaced.iter().any(|name| name == path) {
            let value = parameter.from_file(self.tensor(&key, shape.dims())?);
            parameter.set_replacement(adapter, Leaf::frozen(value))?;
            binding.unused.remove(&key);
        }
        self.account_for_copies(&self.name_of(path, info), shape.dims(), &mut binding.unused)?;
        match base_layer.filter(|key| binding.unused.remove(key)) {
            Some(key) => self.tensor(&key, shape.dims()).map(drop),
            None => Ok(()),
        }
    }

    /// Checks that what the pair began as can be found again.
    fn check_taken(&self, linear: &Linear, layer: &Adapted, init: &Init) -> Result<()> {
        let word = init.word().unwrap_or_default();
        let reason = if layer.r > linear.inputs().min(linear.outputs()) {
            format!("the rank {} is beyond {}, of which {word:?} would take a part", layer.r, layer.path)
        } else if linear.groups() > 1 {
            format!("{} is in groups, of which {word:?} takes no part", layer.path)
        } else if matches!(init, Init::Olora) && linear.weight.is_transposed() {
            let path = &layer.path;
            format!(
                "{path} is stored as [inputs, outputs], and PEFT's \"olora\" takes that for [outputs, inputs]"
            )
        } else {
            return Ok(());
        };
        Err(Error::file(self.folder.join(ADAPTER_CONFIG), reason))
    }

    /// Takes the tensors of experts, by the names of [`for_each_leaf_mut`](crate::adapter::for_each_leaf_mut), that are several in
    /// this file, which has a pair for each layer of each expert, and gives them under the keys of those.
    pub(crate) fn take_layers_of_experts(
        &self,
        tensors: &mut Tensors,
        info: &ModelInfo,
        plan: &Plan,
    ) -> Vec<(String, Tensor)> {
        let mut taken = Vec::new();
        if !self.has_layers_of_experts(info) {
            return taken;
        }
        for layer in &plan.targets.linears {
            for name in ["lora_A.weight", "lora_B.weight"] {
                let (Some(Source::Layers { keys, factor }), path) =
                    (self.source_of_expert(layer, name, info, plan), format!("{}.{name}", layer.path))
                else {
                    continue;
                };
                let parts = tensors.remove(&path).map(|whole| factor.parts(&whole, keys.len()));
                taken.extend(keys.into_iter().zip(parts.into_iter().flatten()));
            }
        }
        taken
    }

    /// `A` and `B`, without dropout.
    fn pair(&self, [a, b]: [Part; 2], layer: &Adapted, binding: &mut Binding<'_>) -> Result<Lora> {
        let (a, b) = (self.leaf(&a, binding)?, self.leaf(&b, binding)?);
        Ok(Lora::new(binding.adapter, a, b, layer.scaling))
    }

    fn leaf(&self, part: &Part, binding: &mut Binding<'_>) -> Result<Leaf> {
        let value = match &part.source {
            Source::Own { key, in_file } => {
                binding.unused.remove(key);
                self.tensor(key, in_file.dims())?
            }
            Source::Stacked { key, factor, expert } => {
                if !binding.stacks.contains_key(key) {
                    binding.unused.remove(key);
                    let shape = factor.stacked_shape([part.here.rows(), part.here.width()], expert.of);
                    binding.stacks.insert(key.clone(), self.tensor(key, &shape)?);
                }
                factor.of_expert(&binding.stacks[key], *expert)
            }
            Source::Layers { keys, factor } => {
                let count = keys.len();
                let rank = if *factor == Factor::A { part.here.rows() } else { part.here.width() };
                if !rank.is_multiple_of(count) {
                    let reason = format!(
                        "its pair and those beside it have one rank, of which each has a part, and that is {rank}"
                    );
                    return Err(self.error(&keys[0], &reason));
                }
                let own = match factor {
                    Factor::A => [part.here.rows() / count, part.here.width()],
                    Factor::B => [part.here.rows() / count, part.here.width() / count],
                };
                let of_layer = |key: &String| {
                    binding.unused.remove(key);
                    self.tensor(key, &own)
                };
                factor.joined(&keys.iter().map(of_layer).collect::<Result<Vec<_>>>()?)
            }
        };
        Ok(Leaf::frozen(value.reshape(part.here)))
    }

    /// The tensor, if there is to be one.
    fn leaf_if(&self, part: Option<Part>, binding: &mut Binding<'_>) -> Result<Option<Leaf>> {
        part.map(|part| self.leaf(&part, binding)).transpose()
    }

    /// Checks the copies that PEFT also writes, and takes them off the list.
    fn account_for_copies(&self, path: &str, shape: &[usize], unused: &mut BTreeSet<String>) -> Result<()> {
        let kinds = ["modules_to_save.default", "modules_to_save", "original_module"];
        copies_of(path, &kinds)
            .filter(|key| unused.remove(key))
            .try_for_each(|key| self.tensor(&key, shape).map(|_| ()))
    }
}

/// The key under which PEFT writes the base model's own weight of a word table or of the layer before a language model's
/// logits, where that is adapted: its `save_embedding_layers`.
fn base_layer_key(path: &str, info: &ModelInfo, plan: &Plan) -> Option<String> {
    let module = path.strip_suffix(".weight")?;
    let output = info.output == Some(module) && plan.linear(module).is_some();
    (plan.embedding(module).is_some() || output).then(|| format!("{PREFIX}{module}.base_layer.weight"))
}
