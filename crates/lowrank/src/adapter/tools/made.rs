//! An adapter that was made of others, and its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::factors::Factors;
use super::folder::keys;
use crate::adapter::experts::Factor;
use crate::adapter::layers::{OnParameter, PerLayer};
use crate::adapter::peft_config::{self, LORA_BIAS};
use crate::adapter::wrapped::module_in_file;
use crate::hub::{ADAPTER_FILE, StoredDtype, TensorToWrite, TensorView, write_safetensors};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A pair with a scaling of 1.
pub(super) struct MadePair {
    pub name: String,
    /// The parameter that it is on, if it is on one.
    pub parameter: Option<OnParameter>,
    pub is_embedding: bool,
    /// The dimensions of what `A` reads: several of a convolution.
    pub inputs: Vec<usize>,
    /// In the values of f32.
    pub factors: Factors,
    /// The bias of `B`.
    pub bias: Option<Vec<f64>>,
}

/// An adapter to be written.
pub(super) struct Made<'f> {
    pub pairs: Vec<MadePair>,
    /// The tensors beside the pairs, as they are stored.
    pub others: Vec<(String, TensorView<'f>)>,
    /// The configuration that it is made of; ranks and scalings are set to what they are.
    pub settings: Map<String, Value>,
}

impl MadePair {
    /// The name that a configuration means it by.
    fn target(&self) -> &str {
        self.parameter.as_ref().map_or(&self.name, |parameter| &parameter.name)
    }
}

impl Made<'_> {
    /// Writes the folder, the tensors first: without its configuration, no folder is an adapter. Experts of one stack have
    /// one rank, the largest of theirs.
    pub fn write(mut self, out: &Path) -> Result<()> {
        fill_up_stacks(&mut self.pairs);
        set_ranks(&mut self.settings, &self.pairs)?;
        let mut made = tensors_of_stacks(&self.pairs);
        for MadePair { name, is_embedding, inputs, factors, bias, parameter } in &self.pairs {
            if parameter.as_ref().is_some_and(|parameter| parameter.stacked.is_some()) {
                continue;
            }
            let [a, b, of_bias] = keys(name, *is_embedding);
            let of_a = [factors.r].iter().chain(inputs).copied().collect();
            let ones = inputs.iter().skip(1).map(|_| 1);
            made.push((a, of_a, bytes(&factors.a)));
            made.push((b, [factors.rows, factors.r].into_iter().chain(ones).collect(), bytes(&factors.b)));
            made.extend(bias.as_ref().map(|bias| (of_bias, vec![bias.len()], bytes(bias))));
        }
        let pairs = made.iter().map(|(name, shape, bytes)| TensorToWrite {
            name,
            dtype: StoredDtype::F32,
            shape,
            bytes,
        });
        let others = self.others.iter().map(|(name, view)| TensorToWrite {
            name,
            dtype: view.dtype,
            shape: view.shape,
            bytes: view.bytes,
        });
        let tensors: Vec<TensorToWrite<'_>> = pairs.chain(others).collect();
        std::fs::create_dir_all(out).map_err(Error::io(out))?;
        write_safetensors(out.join(ADAPTER_FILE), &tensors, &[("format", "pt")])?;
        peft_config::write(out, &serde_json::to_string_pretty(&self.settings).unwrap_or_default())
    }
}

/// The pairs of each stack, in the order of its experts.
fn stacks(pairs: &[MadePair]) -> BTreeMap<&str, Vec<&MadePair>> {
    let mut stacks: BTreeMap<&str, Vec<(usize, &MadePair)>> = BTreeMap::new();
    for pair in pairs {
        let stacked = pair.parameter.as_ref().and_then(|parameter| parameter.stacked.as_ref());
        if let Some(stacked) = stacked {
            stacks.entry(pair.target()).or_default().push((stacked.expert.number, pair));
        }
    }
    stacks.values_mut().for_each(|stack| stack.sort_by_key(|(number, _)| *number));
    stacks
        .into_iter()
        .map(|(name, stack)| (name, stack.into_iter().map(|(_, pair)| pair).collect()))
        .collect()
}

/// Gives the experts of each stack the largest of their ranks.
fn fill_up_stacks(pairs: &mut [MadePair]) {
    let ranks: BTreeMap<String, usize> = stacks(pairs)
        .into_iter()
        .map(|(name, stack)| (name.to_owned(), stack.iter().map(|pair| pair.factors.r).max().unwrap_or(1)))
        .collect();
    for pair in pairs {
        let is_stacked = pair.parameter.as_ref().is_some_and(|parameter| parameter.stacked.is_some());
        if let Some(r) = ranks.get(pair.target()).filter(|_| is_stacked) {
            pair.factors = pair.factors.filled_up(*r);
        }
    }
}

/// The tensors of the pairs of experts.
fn tensors_of_stacks(pairs: &[MadePair]) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let stacks = stacks(pairs);
    let names: BTreeSet<&str> = stacks.keys().copied().collect();
    let mut tensors = Vec::new();
    for (name, stack) in &stacks {
        let [a, b, _] = keys(&module_in_file(name, &names), false);
        let matrices = |of: fn(&Factors) -> (&Vec<f64>, [usize; 2])| -> Vec<Tensor> {
            let matrix = |pair: &&MadePair| {
                let (values, shape) = of(&pair.factors);
                let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
                Tensor::from_slice(shape, &values)
            };
            stack.iter().map(matrix).collect()
        };
        let of_a = Factor::A.stack(&matrices(|own| (&own.a, [own.r, own.columns])));
        let of_b = Factor::B.stack(&matrices(|own| (&own.b, [own.rows, own.r])));
        for (key, tensor) in [(a, of_a), (b, of_b)] {
            tensors.push((key, tensor.shape().dims().to_vec(), tensor.bytes().to_vec()));
        }
    }
    tensors
}

fn bytes(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect()
}

/// Writes the ranks into a configuration, each with an alpha that makes the scaling 1: the rank that most layers have as
/// `r`, and those of all others by their names.
fn set_ranks(settings: &mut Map<String, Value>, pairs: &[MadePair]) -> Result<()> {
    let mut counts = BTreeMap::new();
    pairs.iter().for_each(|pair| *counts.entry(pair.factors.r).or_insert(0) += 1);
    let usual = counts.iter().max_by_key(|(_, count)| **count).map_or(1, |(r, _)| *r);
    let has_bias = pairs.iter().any(|pair| pair.bias.is_some());
    // A name means whatever ends with it, too. Where that would mislead, names are held to the beginning.
    let spellings: [fn(&str) -> String; 2] =
        [str::to_owned, |name| format!("^{}", fancy_regex::escape(name))];
    for spelling in spellings {
        let own = pairs.iter().filter(|pair| pair.factors.r != usual);
        let patterns: Map<String, Value> =
            own.map(|pair| (spelling(pair.target()), json!(pair.factors.r))).collect();
        for (key, value) in [
            ("r", json!(usual)),
            ("lora_alpha", json!(usual)),
            ("rank_pattern", json!(patterns)),
            ("alpha_pattern", json!(patterns)),
            ("use_rslora", json!(false)),
            (LORA_BIAS, json!(has_bias)),
        ] {
            settings.insert(key.to_owned(), value);
        }
        if means(settings, pairs)? {
            return Ok(());
        }
    }
    let reason = "the names of the layers cannot be told apart by patterns";
    Err(Error::setting("rank_pattern", reason))
}

/// Whether a configuration gives all pairs the ranks that they have, and a scaling of 1.
fn means(settings: &Map<String, Value>, pairs: &[MadePair]) -> Result<bool> {
    let config = peft_config::meaning_of(settings).map_err(Error::Usage)?;
    let mut per_layer = PerLayer::new(&config)?;
    for pair in pairs {
        let layer = per_layer.adapted(pair.target(), None)?;
        if layer.r != pair.factors.r || layer.scaling != 1.0 {
            return Ok(false);
        }
    }
    Ok(true)
}
