//! mlx-lm's adapters: `adapters.safetensors` and an `adapter_config.json` of its own.
//!
//! # Source
//! `mlx_lm/tuner/lora.py`: `y = x·W + scale·(x·lora_a)·lora_b`, with `lora_a` `[inputs, R]` and `lora_b` `[R, outputs]`;
//! `dora.py`: `m` `[outputs]` over the lengths of the weight and the product together. A table's `m` is of its entries.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::base::Base;
use super::parts::{Halves, Parts, Side, matrix, values};
use crate::hub::{ADAPTER_CONFIG, Checkpoint};
use crate::{Error, Result};

/// The file of the factors.
pub(super) const WEIGHTS: &str = "adapters.safetensors";

#[derive(Deserialize)]
struct Config {
    fine_tune_type: Option<String>,
    model: Option<String>,
    lora_parameters: LoraParameters,
}

#[derive(Deserialize)]
struct LoraParameters {
    scale: f64,
    #[serde(default)]
    dropout: f32,
}

/// Reads an adapter folder.
pub(super) fn read(folder: &Path, base: Option<&Base>) -> Result<Parts> {
    let path = folder.join(ADAPTER_CONFIG);
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let config: Config = serde_json::from_slice(&text)
        .map_err(|error| Error::file(&path, format!("not a configuration of mlx-lm: {error}")))?;
    let kind = config.fine_tune_type.as_deref().unwrap_or("lora");
    if !["lora", "dora"].contains(&kind) {
        let reason = format!("fine_tune_type is {kind:?}; only \"lora\" and \"dora\" can be converted");
        return Err(Error::file(&path, reason));
    }
    let is_dora = kind == "dora";
    let file = Checkpoint::open_file(folder.join(WEIGHTS))?;
    let mut halves = Halves::new(file.path(), base);
    let mut magnitudes = BTreeMap::new();
    // A language model's layers are below `model` there, whatever Transformers calls it.
    let inner = |module: &str| {
        let is_inside = base.is_some_and(|base| base.find(module).is_none());
        module.strip_prefix("model.").filter(|_| is_inside).unwrap_or(module).to_owned()
    };
    for key in file.names() {
        if let Some(module) = key.strip_suffix(".m").filter(|_| is_dora) {
            magnitudes.insert(inner(module), key);
            continue;
        }
        let half = [(".lora_a", Side::A), (".lora_b", Side::B)]
            .iter()
            .find_map(|(end, side)| key.strip_suffix(end).map(|module| (module, *side)));
        let Some((module, side)) = half else {
            return Err(halves.error(key, "it is neither lora_a nor lora_b of a layer"));
        };
        halves.add(&inner(module), side, key, matrix(&file, key)?.transposed())?;
    }
    let mut pairs = Vec::new();
    for found in halves.pairs()? {
        let (key, alpha) = (found.key.clone(), config.lora_parameters.scale * found.a.shape().rows() as f64);
        let magnitude = magnitudes.remove(&found.written);
        let mut pair = halves.checked(found, alpha)?;
        if is_dora {
            if pair.is_embedding {
                let reason = "mlx-lm gives each entry of a table a magnitude, and PEFT each of its columns";
                return Err(halves.error(&key, reason));
            }
            let magnitude = magnitude.ok_or_else(|| halves.error(&key, "its layer has no magnitude m"))?;
            let value = values(&file, magnitude)?;
            if value.shape().dims() != [pair.b.shape().rows()] {
                let reason = format!("its shape is {}; it is as long as the layer is wide", value.shape());
                return Err(halves.error(magnitude, &reason));
            }
            pair.magnitude = Some(value);
        }
        if pair.is_embedding && base.is_none_or(Base::is_tied) {
            let reason = "mlx-lm adapts the output too where it shares the table, which PEFT does not do; --model M, \
                          with a model whose output is its own, allows it";
            return Err(halves.error(&key, reason));
        }
        pairs.push(pair);
    }
    if let Some(key) = magnitudes.values().next() {
        return Err(halves.error(key, "its layer has no low-rank pair"));
    }
    Ok(Parts { pairs, base_model: config.model, dropout: config.lora_parameters.dropout, ..Parts::default() })
}
