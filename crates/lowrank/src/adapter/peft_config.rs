//! `adapter_config.json`, as PEFT 0.21 reads and writes it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::config::{Bias, Init, LoraConfig, Targets, TokenIndices};
use crate::hub::{ADAPTER_CONFIG, write_atomically};
use crate::{Error, Result};

/// The version of PEFT whose files these are.
const PEFT_VERSION: &str = "0.21.2";

/// Settings that change what an adapter computes and that this program does not do.
const UNSUPPORTED: [&str; 10] = [
    "alora_invocation_tokens",
    "arrow_config",
    "ensure_weight_tying",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// Why an adapter cannot be looked at by itself.
pub(super) const NEEDS_BASE: &str = "known only beside the base model's weights";

/// Whether each `B` has a bias.
pub(super) const LORA_BIAS: &str = "lora_bias";

/// How PEFT holds an adapter in memory: no key that it writes, and one that it passes over.
const RUNTIME_CONFIG: &str = "runtime_config";

/// What a configuration came to mean in a model.
#[derive(Clone, Debug, Default)]
pub struct Meaning<'a> {
    /// The modules that are adapted, embeddings among them.
    pub targets: &'a [&'a str],
    /// The modules that are trained whole.
    pub modules_to_save: &'a [String],
    /// The base model's folder or id, as it was given.
    pub base_model: &'a str,
    /// PEFT's word for what the model predicts.
    pub task_type: Option<&'a str>,
    /// Where PEFT has no word: the model's class, and the module of Transformers that it is in.
    pub auto_mapping: Option<(&'a str, String)>,
    /// Whether the weights of adapted layers are stored as `[inputs, outputs]`.
    pub fan_in_fan_out: bool,
}

/// The text of `adapter_config.json`: PEFT's keys in PEFT's order.
pub fn to_json(config: &LoraConfig, meaning: &Meaning<'_>) -> String {
    serde_json::to_string_pretty(&to_value(config, meaning)).unwrap_or_default()
}

fn to_value(config: &LoraConfig, meaning: &Meaning<'_>) -> Value {
    let Meaning { targets, modules_to_save, base_model, task_type, fan_in_fan_out, .. } = meaning;
    let auto_mapping = meaning
        .auto_mapping
        .as_ref()
        .map(|(class, module)| json!({ "base_model_class": class, "parent_library": module }));
    let target_modules = match &config.target_modules {
        Some(Targets::Pattern(pattern)) => json!(pattern),
        Some(Targets::Names(names)) => json!(sorted(names)),
        Some(Targets::AllLinear) | None => json!(sorted(targets)),
    };
    let exclude_modules = match &config.exclude_modules {
        None | Some(Targets::AllLinear) => Value::Null,
        Some(Targets::Pattern(pattern)) => json!(pattern),
        Some(Targets::Names(names)) => json!(sorted(names)),
    };
    let alpha = number(config.lora_alpha.unwrap_or(config.r as f64));
    let alphas: Map<String, Value> =
        config.alpha_pattern.iter().map(|(pattern, alpha)| (pattern.clone(), number(*alpha))).collect();
    let ranks: Map<String, Value> =
        config.rank_pattern.iter().map(|(pattern, r)| (pattern.clone(), json!(r))).collect();
    let tokens = match &config.trainable_token_indices {
        None => Value::Null,
        Some(TokenIndices::OfInput(indices)) => json!(indices),
        Some(TokenIndices::OfTables(tables)) => {
            tables.iter().map(|(name, indices)| (name.clone(), json!(indices))).collect()
        }
    };
    let init = match config.init_lora_weights.word() {
        // PEFT would bring the base model into 4 or 8 bits of its own as it loads the file, or ask for data, or look for the
        // weight of a module that has none.
        Some(word)
            if !matches!(config.init_lora_weights, Init::Loftq | Init::Eva)
                && (config.target_parameters.is_empty()
                    || matches!(config.init_lora_weights, Init::Gaussian)) =>
        {
            json!(word)
        }
        _ => json!(!matches!(config.init_lora_weights, Init::Random)),
    };
    json!({
        "alora_invocation_tokens": null,
        "alpha_pattern": alphas,
        "arrow_config": null,
        "auto_mapping": auto_mapping,
        "base_model_name_or_path": base_model,
        "bias": config.bias.as_str(),
        "corda_config": null,
        "ensure_weight_tying": false,
        "eva_config": null,
        "exclude_modules": exclude_modules,
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": true,
        "init_lora_weights": init,
        "kasa_config": null,
        "layer_replication": null,
        "layers_pattern": (!config.layers_pattern.is_empty()).then_some(&config.layers_pattern),
        "layers_to_transform": config.layers_to_transform,
        "loftq_config": {},
        "lora_alpha": alpha,
        "lora_bias": config.lora_bias,
        "lora_dropout": shortest(config.lora_dropout),
        "lora_ga_config": null,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": if modules_to_save.is_empty() { Value::Null } else { json!(modules_to_save) },
        "monteclora_config": null,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "qalora_group_size": 16,
        "r": config.r,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": target_modules,
        "target_parameters": (!config.target_parameters.is_empty()).then(|| sorted(&config.target_parameters)),
        "task_type": task_type,
        "trainable_token_indices": tokens,
        "use_bdlora": null,
        "use_dora": config.use_dora,
        "use_qalora": false,
        "use_rslora": config.use_rslora,
        "velora_config": null,
    })
}

/// A number as Python writes it that was given whole.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The decimal that a person wrote: 0.1, not 0.10000000149.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn sorted<S: AsRef<str>>(names: &[S]) -> Vec<&str> {
    let mut names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Writes `adapter_config.json` into `folder`.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(folder: &Path, text: &str) -> Result<()> {
    write_atomically(folder.join(ADAPTER_CONFIG), |file| file.write_all(text.as_bytes()))
}

/// Reads `adapter_config.json` from `folder`: the configuration, and PEFT's word for what the model predicts. Whether the
/// weights are stored the other way round (`fan_in_fan_out`) is known from the model.
///
/// # Errors
/// If the file is missing or malformed, belongs to another method than LoRA, uses a variant of LoRA that would
/// compute something else than this program does, or holds a setting that PEFT does not have.
pub fn read(folder: &Path) -> Result<(LoraConfig, Option<String>)> {
    let (path, map) = read_map(folder)?;
    let config = parse(&map).map_err(|reason| Error::file(&path, reason))?;
    Ok((config, map.get("task_type").and_then(Value::as_str).map(str::to_owned)))
}

/// Reads the configuration of an adapter folder.
///
/// # Errors
/// If the file is missing or malformed, or of a kind or a variant that is not supported.
pub fn read_config(folder: &Path) -> Result<LoraConfig> {
    read(folder).map(|(config, _)| config)
}

/// Reads the configuration of an adapter that is not put on a model: what it means, and everything that it says. Biases of
/// `B`, which no layer here computes, do not stand in the way.
///
/// # Errors
/// As [`read_config`]; or if its pairs alone do not say what the adapter changes.
pub(super) fn read_whole(folder: &Path) -> Result<(LoraConfig, Map<String, Value>)> {
    let (path, map) = read_map(folder)?;
    let config = meaning_of(&map).map_err(|reason| Error::file(&path, reason))?;
    if let Some(word) =
        config.init_lora_weights.word().filter(|_| config.init_lora_weights.takes_from_the_weight())
    {
        let reason = format!(
            "init_lora_weights is {word:?}: what the adapter changes is {NEEDS_BASE}; save it \
             with PEFT's path_initial_model_for_weight_conversion, or merge it"
        );
        return Err(Error::file(&path, reason));
    }
    Ok((config, map))
}

/// As [`read_config`], of an adapter of which the products alone are looked at.
///
/// # Errors
/// As [`read_config`]; or if the products are not what the adapter changes.
pub(crate) fn read_config_of_products(folder: &Path) -> Result<LoraConfig> {
    read_whole(folder).map(|(config, _)| config)
}

/// What a configuration means but for the biases of `B`.
pub(super) fn meaning_of(map: &Map<String, Value>) -> Result<LoraConfig, String> {
    let mut map = map.clone();
    if map.get(LORA_BIAS).is_some_and(Value::is_boolean) {
        map.insert(LORA_BIAS.to_owned(), Value::Bool(false));
    }
    parse(&map)
}

/// Whether the configuration says that weights are stored as `[inputs, outputs]`, where no model is there to tell.
///
/// # Errors
/// If the file is missing or malformed.
pub(crate) fn fan_in_fan_out(folder: &Path) -> Result<bool> {
    Ok(read_map(folder)?.1.get("fan_in_fan_out").and_then(Value::as_bool).unwrap_or(false))
}

fn read_map(folder: &Path) -> Result<(PathBuf, Map<String, Value>)> {
    let path = folder.join(ADAPTER_CONFIG);
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let value: Value =
        serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("not JSON: {e}")))?;
    match value {
        Value::Object(map) => Ok((path, map)),
        _ => Err(Error::file(&path, "not a JSON object")),
    }
}

fn parse(map: &Map<String, Value>) -> Result<LoraConfig, String> {
    if let Some(kind) = map.get("peft_type").filter(|kind| *kind != "LORA") {
        return Err(format!("peft_type is {kind}; only LORA can be loaded"));
    }
    let known = to_value(&LoraConfig::default(), &Meaning::default());
    for (key, value) in map {
        if UNSUPPORTED.contains(&key.as_str()) && !is_off(value) {
            return Err(format!("{key} is {value}, a variant of LoRA that is not supported"));
        }
        if known.get(key).is_none() && key != RUNTIME_CONFIG && !is_off(value) {
            return Err(format!(
                "{key:?} is {value}, a setting that PEFT {PEFT_VERSION} does not have: the adapter may be of a \
                 variant of LoRA that is not supported"
            ));
        }
    }
    let config = LoraConfig {
        r: map.get("r").and_then(whole).ok_or("r is not a whole number")?,
        lora_alpha: match map.get("lora_alpha") {
            None => Some(8.0),
            Some(Value::Null) => None,
            Some(alpha) => Some(alpha.as_f64().ok_or("lora_alpha is not a number")?),
        },
        lora_dropout: match map.get("lora_dropout") {
            None => 0.0,
            Some(dropout) => dropout.as_f64().ok_or("lora_dropout is not a number")? as f32,
        },
        target_modules: targets(map, "target_modules")?,
        target_parameters: names(map, "target_parameters")?.unwrap_or_default(),
        exclude_modules: targets(map, "exclude_modules")?,
        bias: match map.get("bias") {
            None => Bias::None,
            Some(bias) => Bias::parse(bias.as_str().unwrap_or_default()).map_err(|e| e.to_string())?,
        },
        modules_to_save: names(map, "modules_to_save")?.unwrap_or_default(),
        rank_pattern: pattern(map, "rank_pattern", "a whole number", whole)?,
        alpha_pattern: pattern(map, "alpha_pattern", "a number", Value::as_f64)?,
        layers_to_transform: match map.get("layers_to_transform") {
            None | Some(Value::Null) => None,
            Some(Value::Array(numbers)) => Some(
                numbers
                    .iter()
                    .map(whole)
                    .collect::<Option<_>>()
                    .ok_or("layers_to_transform is no list of layers")?,
            ),
            Some(number) => Some(vec![whole(number).ok_or("layers_to_transform is no list of layers")?]),
        },
        layers_pattern: match map.get("layers_pattern") {
            Some(Value::String(name)) if !name.is_empty() => vec![name.clone()],
            Some(Value::String(_)) => Vec::new(),
            _ => names(map, "layers_pattern")?.unwrap_or_default(),
        },
        trainable_token_indices: tokens(map.get("trainable_token_indices"))?,
        lora_bias: flag(map, "lora_bias")?,
        use_rslora: flag(map, "use_rslora")?,
        use_dora: flag(map, "use_dora")?,
        init_lora_weights: init(map)?,
        train_layer_norms: false,
        train_embeddings: false,
    };
    config.check().map_err(|e| e.to_string())?;
    Ok(config)
}

/// Whether a value is how a setting says no: null, false, zero or empty.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Ways to begin that change the base model's weights as well, in a way that the file does not tell.
const BASE_CHANGING: [&str; 4] = ["corda", "loftq", "lora_ga", "pissa_niter"];

fn init(map: &Map<String, Value>) -> Result<Init, String> {
    if map.get("init_lora_weights") == Some(&Value::Bool(false)) {
        return Ok(Init::Random);
    }
    let Some(word) = map.get("init_lora_weights").and_then(Value::as_str).map(str::to_lowercase) else {
        return Ok(Init::Default);
    };
    if BASE_CHANGING.iter().any(|known| word.starts_with(known)) {
        return Err(format!(
            "init_lora_weights is {word:?}: the base model was changed as well, and the file does not tell how; save the \
             adapter with PEFT's path_initial_model_for_weight_conversion"
        ));
    }
    // What began by data is plain once it is there.
    Ok(Init::of_word(&word).filter(|init| !matches!(init, Init::Eva)).unwrap_or_default())
}

/// A list of entries, or one for each table; empty is absent.
fn tokens(value: Option<&Value>) -> Result<Option<TokenIndices>, String> {
    let list = |value: &Value| {
        let index = |value: &Value| value.as_u64().and_then(|index| u32::try_from(index).ok());
        value.as_array().and_then(|values| values.iter().map(index).collect::<Option<Vec<u32>>>())
    };
    let found = match value {
        None => return Ok(None),
        Some(value) if is_off(value) => return Ok(None),
        Some(Value::Object(tables)) => tables
            .iter()
            .map(|(name, value)| Some((name.clone(), list(value)?)))
            .collect::<Option<_>>()
            .map(TokenIndices::OfTables),
        Some(value) => list(value).map(TokenIndices::OfInput),
    };
    found
        .map(Some)
        .ok_or_else(|| "trainable_token_indices is no list of entries, nor one for each table".to_owned())
}

fn flag(map: &Map<String, Value>, key: &str) -> Result<bool, String> {
    map.get(key)
        .map_or(Ok(false), |flag| flag.as_bool().ok_or_else(|| format!("{key} is neither true nor false")))
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|number| usize::try_from(number).ok())
}

/// A value for each pattern, in the file's order.
fn pattern<T>(
    map: &Map<String, Value>,
    key: &str,
    what: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>, String> {
    let patterns = match map.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(patterns)) => patterns,
        Some(other) => return Err(format!("{key} is {other}; it must be {what} for each pattern")),
    };
    patterns
        .iter()
        .map(|(pattern, value)| {
            let value = read(value).ok_or_else(|| format!("{key}: {pattern:?} is {value}, not {what}"))?;
            Ok((pattern.clone(), value))
        })
        .collect()
}

fn targets(map: &Map<String, Value>, key: &str) -> Result<Option<Targets>, String> {
    match map.get(key) {
        Some(Value::String(word)) if word.eq_ignore_ascii_case("all-linear") => Ok(Some(Targets::AllLinear)),
        Some(Value::String(pattern)) => Ok(Some(Targets::Pattern(pattern.clone()))),
        _ => Ok(names(map, key)?.map(Targets::Names)),
    }
}

fn names(map: &Map<String, Value>, key: &str) -> Result<Option<Vec<String>>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(values)) => values
            .iter()
            .map(|value| {
                value.as_str().map(str::to_owned).ok_or_else(|| format!("{key} holds {value}, no name"))
            })
            .collect::<Result<_, _>>()
            .map(Some),
        Some(other) => Err(format!("{key} is {other}; it must be a list of names")),
    }
}
