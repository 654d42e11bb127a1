//! PEFT's folders: read apart, written together, and copied exactly.

use std::fs;
use std::path::Path;

use super::base::Base;
use super::parts::{Halves, Pair, Parts, Side, matrix};
use crate::adapter::file::PREFIX;
use crate::adapter::{Bias, LoraConfig, Targets, peft_config, target_modules};
use crate::hub::{
    ADAPTER_CONFIG, ADAPTER_FILE, Checkpoint, TensorToWrite, Tensors, write_atomically, write_safetensors,
    write_tensors,
};
use crate::{Error, Result};

/// The ends of the keys of pairs.
const ENDS: [(&str, Side); 4] = [
    (".lora_A.weight", Side::A),
    (".lora_B.weight", Side::B),
    (".lora_embedding_A", Side::A),
    (".lora_embedding_B", Side::B),
];

/// The module of a factor, and which of the two it is.
fn half(key: &str) -> Option<(&str, Side)> {
    ENDS.iter().find_map(|(end, side)| key.strip_suffix(end).map(|module| (module, *side)))
}

/// Writes an adapter again, its configuration byte for byte and its tensors as they are; gives the number of pairs and
/// that of other tensors. The first half of a pair without another is an error.
pub(super) fn copy(folder: &Path, out: &Path) -> Result<(usize, usize)> {
    let config = folder.join(ADAPTER_CONFIG);
    let config = fs::read(&config).map_err(Error::io(&config))?;
    let file = Checkpoint::open_adapter(folder)?;
    let (mut halves, mut tensors) = ([0, 0], Vec::new());
    for key in file.names() {
        if let Some((_, side)) = half(key) {
            let count = &mut halves[side as usize];
            *count += 1;
            let other = if matches!(side, Side::A) {
                replace_last(key, "_A", "_B")
            } else {
                replace_last(key, "_B", "_A")
            };
            if file.get(&other).is_none() {
                return Err(Error::tensor(
                    file.path(),
                    key,
                    format!("its other factor, {other}, is missing"),
                ));
            }
        }
        if let Some(view) = file.get(key) {
            tensors.push(TensorToWrite {
                name: key,
                dtype: view.dtype,
                shape: view.shape,
                bytes: view.bytes,
            });
        }
    }
    fs::create_dir_all(out).map_err(Error::io(out))?;
    write_safetensors(out.join(ADAPTER_FILE), &tensors, &[("format", "pt")])?;
    write_atomically(out.join(ADAPTER_CONFIG), |file| file.write_all(&config))?;
    Ok((halves[0], tensors.len() - halves[0] - halves[1]))
}

fn replace_last(key: &str, from: &str, to: &str) -> String {
    key.rsplit_once(from).map_or_else(String::new, |(start, end)| format!("{start}{to}{end}"))
}

/// Takes an adapter apart that is nothing but pairs.
pub(super) fn read(folder: &Path, base: Option<&Base>) -> Result<Parts> {
    let (config, _) = peft_config::read_whole(folder)?;
    if let Some(name) = config.target_parameters.first() {
        let reason =
            format!("target_parameters has {name:?}: this form has no place for pairs on parameters");
        return Err(Error::file(folder.join(ADAPTER_CONFIG), reason));
    }
    let file = Checkpoint::open_adapter(folder)?;
    let mut halves = Halves::new(file.path(), base);
    for key in file.names() {
        let name = key.strip_prefix(PREFIX).unwrap_or(key);
        match half(name) {
            Some((module, side)) => halves.add(module, side, key, matrix(&file, key)?)?,
            // What PEFT notes of the base model itself.
            None if name.contains(".base_layer.weight") => {}
            None => {
                return Err(
                    halves.error(key, "it is no factor of a low-rank pair: this form has no place for it")
                );
            }
        }
    }
    let mut pairs = Vec::new();
    for found in halves.pairs()? {
        let layer = config.layer(&found.written)?;
        let r = found.a.shape().rows();
        if layer.r != r {
            let reason = format!("its rank is {r}, where {ADAPTER_CONFIG} says {}", layer.r);
            return Err(halves.error(&found.key, &reason));
        }
        let alpha = layer.lora_alpha.unwrap_or(r as f64);
        let alpha = if config.use_rslora { alpha * (r as f64).sqrt() } else { alpha };
        pairs.push(halves.checked(found, alpha)?);
    }
    Ok(Parts { pairs, ..Parts::default() })
}

/// Writes an adapter folder as PEFT would have.
pub(super) fn write(parts: &Parts, base: Option<&Base>, out: &Path) -> Result<()> {
    let Parts { pairs, saved, biases, base_model, dropout } = parts;
    let mut tensors = Tensors::new();
    for Pair { module, a, b, is_embedding, magnitude, .. } in pairs {
        let ends = if *is_embedding {
            ["lora_embedding_A", "lora_embedding_B"]
        } else {
            ["lora_A.weight", "lora_B.weight"]
        };
        for (end, value) in ends.iter().zip([a, b]) {
            tensors.insert(format!("{PREFIX}{module}.{end}"), value.clone());
        }
        let magnitude = magnitude.iter().cloned();
        tensors.extend(magnitude.map(|value| (format!("{PREFIX}{module}.lora_magnitude_vector"), value)));
    }
    let is_adapted = |module: &str| pairs.iter().any(|pair| pair.module == module);
    let mut bias = Bias::None;
    for (name, value) in biases {
        let module = name.strip_suffix(".bias").unwrap_or(name);
        let adapted = is_adapted(module);
        bias = if adapted && bias != Bias::All { Bias::LoraOnly } else { Bias::All };
        let layer = if adapted { ".base_layer" } else { "" };
        tensors.insert(format!("{PREFIX}{module}{layer}.bias"), value.clone());
    }
    tensors.extend(saved.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.clone())));
    let mut config = config_of(pairs, *dropout, bias)?;
    let mut modules_to_save: Vec<String> = Vec::new();
    for name in saved.keys() {
        let module = base.and_then(|base| base.info().head.iter().find(|module| name.starts_with(*module)));
        let module = module.map_or(&**name, |module| *module);
        if !modules_to_save.iter().any(|known| known == module) {
            modules_to_save.push(module.to_owned());
        }
    }
    if let Some(base) = base {
        shorten(&mut config, base);
    }
    let transposed = |pair: &Pair| {
        base.and_then(|base| base.find(&pair.module)).is_some_and(|(_, layer)| layer.is_transposed)
    };
    let targets: Vec<&str> = pairs.iter().map(|pair| &*pair.module).collect();
    let meaning = peft_config::Meaning {
        targets: &targets,
        modules_to_save: &modules_to_save,
        base_model: base.map(|base| &*base.name).or(base_model.as_deref()).unwrap_or_default(),
        task_type: base.and_then(|base| base.info().kind.peft_task_type()),
        auto_mapping: None,
        fan_in_fan_out: pairs.iter().any(transposed),
    };
    fs::create_dir_all(out).map_err(Error::io(out))?;
    write_tensors(&out.join(ADAPTER_FILE), &tensors)?;
    peft_config::write(out, &peft_config::to_json(&config, &meaning))
}

/// The configuration that says what the pairs are: the first one's rank and alpha, and others by name.
fn config_of(pairs: &[Pair], lora_dropout: f32, bias: Bias) -> Result<LoraConfig> {
    let Some(first) = pairs.first() else {
        return Err(Error::Usage("the adapter has no low-rank pair".to_owned()));
    };
    let (r, alpha) = (first.r(), first.lora_alpha);
    let ranks = pairs.iter().filter(|pair| pair.r() != r).map(|pair| (pair.module.clone(), pair.r()));
    let alphas = pairs
        .iter()
        .filter(|pair| pair.lora_alpha != alpha)
        .map(|pair| (pair.module.clone(), pair.lora_alpha));
    let config = LoraConfig {
        r,
        lora_alpha: Some(alpha),
        lora_dropout,
        bias,
        target_modules: Some(Targets::Names(pairs.iter().map(|pair| pair.module.clone()).collect())),
        rank_pattern: ranks.collect(),
        alpha_pattern: alphas.collect(),
        use_dora: first.magnitude.is_some(),
        ..LoraConfig::default()
    };
    config.check()?;
    Ok(config)
}

/// Names layers by the last part of their names, where that means the same.
fn shorten(config: &mut LoraConfig, base: &Base) {
    let Some(Targets::Names(all)) = &config.target_modules else { return };
    let mut last: Vec<String> =
        all.iter().map(|name| name.rsplit('.').next().unwrap_or(name).to_owned()).collect();
    last.sort_unstable();
    last.dedup();
    let short = LoraConfig { target_modules: Some(Targets::Names(last)), ..config.clone() };
    let meant = |config: &LoraConfig| target_modules(base.model(), base.info(), config).ok();
    if meant(&short).is_some_and(|short| meant(config) == Some(short)) {
        *config = short;
    }
}
