//! `config.json` of encoder models, as Transformers 4 and 5 write it.

use std::path::Path;

use lowrank_kernels::activation::Activation;
use lowrank_kernels::attention::{MOST_HEADS, MOST_TOKENS};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The sizes of a BERT-like encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// `bert`, `roberta` or `xlm-roberta`.
    pub model_type: String,
    /// Entries of the word table.
    pub vocab_size: usize,
    /// The width `D` of the hidden rows.
    pub hidden_size: usize,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The number of attention heads `H`.
    pub num_attention_heads: usize,
    /// The width of the feed-forward layer.
    pub intermediate_size: usize,
    /// The feed-forward layer's activation.
    pub hidden_act: Activation,
    /// Dropout on hidden rows.
    pub hidden_dropout_prob: f32,
    /// Dropout on attention weights.
    pub attention_probs_dropout_prob: f32,
    /// Dropout before the classifier; `hidden_dropout_prob` where the file has none.
    pub classifier_dropout: f32,
    /// Entries of the position table.
    pub max_position_embeddings: usize,
    /// Entries of the segment table.
    pub type_vocab_size: usize,
    /// What layer norms add to the variance.
    pub layer_norm_eps: f32,
    /// The padding token.
    pub pad_token_id: u32,
    /// The standard deviation of freshly drawn weights.
    pub initializer_range: f32,
    /// The names of the classes in the order of their ids, as far as the file gives them.
    pub labels: Vec<String>,
    /// Whether the file says that the head predicts a number.
    pub regression: bool,
}

impl EncoderConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// If the file is missing, is not a JSON object, lacks a size or holds one that makes no model, or asks for
    /// something that this program does not do (relative positions, a decoder, an unknown activation).
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let value = serde_json::from_str(&text).map_err(|e| Error::file(path, format!("not JSON: {e}")))?;
        Self::from_json(&value).map_err(|reason| Error::file(path, reason))
    }

    /// Reads a parsed `config.json`; the error is a sentence without the file's name.
    ///
    /// # Errors
    /// As [`EncoderConfig::read`].
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let map = value.as_object().ok_or("not a JSON object")?;
        let model_type = text(map, "model_type")?.ok_or("it has no model_type")?.to_owned();
        let roberta = matches!(model_type.as_str(), "roberta" | "xlm-roberta");
        if !roberta && model_type != "bert" {
            return Err(format!("model_type {model_type:?} is not one of bert, roberta, xlm-roberta"));
        }
        if let Some(kind) = text(map, "position_embedding_type")?
            && kind != "absolute"
        {
            return Err(format!("position_embedding_type {kind:?} is not supported, only \"absolute\""));
        }
        for key in ["is_decoder", "add_cross_attention"] {
            match map.get(key) {
                None | Some(Value::Null | Value::Bool(false)) => {}
                Some(value) => return Err(format!("{key} is {value}, not false: this is no encoder")),
            }
        }
        let act = text(map, "hidden_act")?.unwrap_or("gelu");
        let hidden_dropout_prob = fraction(map, "hidden_dropout_prob", 0.1)?;
        let config = Self {
            vocab_size: size(map, "vocab_size", None)?,
            hidden_size: size(map, "hidden_size", None)?,
            num_hidden_layers: depth(map)?,
            num_attention_heads: size(map, "num_attention_heads", None)?,
            intermediate_size: size(map, "intermediate_size", None)?,
            hidden_act: Activation::from_name(act).ok_or_else(|| {
                format!("hidden_act {act:?} is not one of gelu, gelu_new, relu, silu, tanh")
            })?,
            hidden_dropout_prob,
            attention_probs_dropout_prob: fraction(map, "attention_probs_dropout_prob", 0.1)?,
            classifier_dropout: fraction(map, "classifier_dropout", hidden_dropout_prob)?,
            max_position_embeddings: size(map, "max_position_embeddings", Some(512))?,
            type_vocab_size: size(map, "type_vocab_size", Some(2))?,
            layer_norm_eps: number(map, "layer_norm_eps", 1e-12)? as f32,
            pad_token_id: match map.get("pad_token_id") {
                None | Some(Value::Null) => u32::from(roberta),
                Some(value) => value
                    .as_u64()
                    .and_then(|id| u32::try_from(id).ok())
                    .ok_or_else(|| format!("pad_token_id {value} is not a token id"))?,
            },
            initializer_range: number(map, "initializer_range", 0.02)? as f32,
            labels: labels(map)?,
            regression: text(map, "problem_type")? == Some("regression"),
            model_type,
        };
        config.check()?;
        Ok(config)
    }

    /// The width of an attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The table row of the first position: RoBERTa's positions begin after the padding token's.
    pub fn first_position(&self) -> usize {
        if self.model_type == "bert" { 0 } else { self.pad_token_id as usize + 1 }
    }

    /// The longest sequence that has positions.
    pub fn max_length(&self) -> usize {
        self.max_position_embeddings.saturating_sub(self.first_position())
    }

    fn check(&self) -> Result<(), String> {
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if !width.is_multiple_of(heads) {
            return Err(format!("hidden_size {width} is not a multiple of num_attention_heads {heads}"));
        }
        if heads > MOST_HEADS {
            return Err(format!("num_attention_heads is {heads}; it must be at most {MOST_HEADS}"));
        }
        if self.max_length() > MOST_TOKENS {
            let positions = self.max_position_embeddings;
            return Err(format!("max_position_embeddings is {positions}; at most {MOST_TOKENS} can be used"));
        }
        if self.max_length() == 0 {
            return Err(format!(
                "max_position_embeddings {} leaves no position",
                self.max_position_embeddings
            ));
        }
        Ok(())
    }
}

/// No model of today has a dimension beyond this; larger ones would overflow products of sizes.
const LARGEST_SIZE: u64 = 1 << 24;

fn size(map: &Map<String, Value>, key: &str, default: Option<usize>) -> Result<usize, String> {
    match (map.get(key), default) {
        (None | Some(Value::Null), Some(default)) => Ok(default),
        (None | Some(Value::Null), None) => Err(format!("it has no {key}")),
        (Some(value), _) => {
            value.as_u64().filter(|n| (1..=LARGEST_SIZE).contains(n)).map(|n| n as usize).ok_or_else(|| {
                format!("{key} is {value}; it must be a whole number from 1 to {LARGEST_SIZE}")
            })
        }
    }
}

/// No model of today has more layers, each of which takes memory before any weight is looked for.
const LARGEST_DEPTH: usize = 1 << 12;

fn depth(map: &Map<String, Value>) -> Result<usize, String> {
    let layers = size(map, "num_hidden_layers", None)?;
    if layers <= LARGEST_DEPTH {
        return Ok(layers);
    }
    Err(format!("num_hidden_layers is {layers}; it must be a whole number from 1 to {LARGEST_DEPTH}"))
}

fn number(map: &Map<String, Value>, key: &str, default: f64) -> Result<f64, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| format!("{key} is {value}; it must be a number")),
    }
}

fn fraction(map: &Map<String, Value>, key: &str, default: f32) -> Result<f32, String> {
    let value = number(map, key, f64::from(default))?;
    if (0.0..1.0).contains(&value) { Ok(value as f32) } else { Err(format!("{key} is {value}, not in 0..1")) }
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{key} is {other}; it must be a string")),
    }
}

/// `id2label` in the order of its ids, or names for `num_labels` classes; two classes where the file has neither.
fn labels(map: &Map<String, Value>) -> Result<Vec<String>, String> {
    if let Some(names) = map.get("id2label").filter(|value| !value.is_null()) {
        let names = names.as_object().ok_or("id2label must be an object")?;
        let mut labels = vec![None; names.len()];
        for (id, name) in names {
            let slot = id.parse::<usize>().ok().and_then(|id| labels.get_mut(id));
            let slot = slot.ok_or_else(|| format!("id2label has the id {id:?}; ids must count from 0"))?;
            *slot = Some(name.as_str().map_or_else(|| name.to_string(), str::to_owned));
        }
        return labels.into_iter().collect::<Option<_>>().ok_or_else(|| "id2label skips an id".to_owned());
    }
    let count = size(map, "num_labels", Some(2))?.min(1 << 16);
    Ok((0..count).map(|id| format!("LABEL_{id}")).collect())
}
