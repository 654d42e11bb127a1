//! `config.json`, as Transformers 4 and 5 write it.

mod decoder;
mod encoder;
mod fields;
mod rope;
mod t5;
mod vit;

use std::path::Path;

use serde_json::{Map, Value};

pub(crate) use decoder::MOST_EXPERTS;
pub use decoder::{DecoderConfig, Gpt2Config, MixtureConfig};
pub use encoder::{DistilBertConfig, EncoderConfig};
pub use rope::{Rope, RopeKind};
pub use t5::T5Config;
pub use vit::VitConfig;

use super::Head;
use crate::{Error, Result};

/// The values of `model_type` that there are models for.
pub const MODEL_TYPES: [&str; 14] = [
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "vit",
    "t5",
    "gpt2",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
];

/// A model's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// One of [`MODEL_TYPES`].
    pub model_type: String,
    /// The sizes, which each architecture has of its own.
    pub architecture: Architecture,
    /// The head of the class that the file names, if this program has it.
    pub head: Option<Head>,
    /// The names of the classes in the order of their ids, as far as the file gives them.
    pub labels: Vec<String>,
    /// Whether the file says that the head predicts a number.
    pub regression: bool,
}

/// The sizes of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Architecture {
    /// BERT, RoBERTa, XLM-RoBERTa.
    Encoder(EncoderConfig),
    /// DistilBERT.
    DistilBert(DistilBertConfig),
    /// ViT.
    Vit(VitConfig),
    /// T5 and flan-T5.
    T5(T5Config),
    /// GPT-2.
    Gpt2(Gpt2Config),
    /// Llama, Mistral, Qwen2, Qwen3, and the mixtures Mixtral, Qwen2-MoE, Qwen3-MoE.
    Decoder(DecoderConfig),
}

impl ModelConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// If the file is missing, is not a JSON object, lacks a size or holds one that makes no model, or asks for
    /// something that this program does not do (another architecture, relative positions, an unknown activation).
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let value = serde_json::from_str(&text).map_err(|e| Error::file(path, format!("not JSON: {e}")))?;
        Self::from_json(&value).map_err(|reason| Error::file(path, reason))
    }

    /// Reads a parsed `config.json`; the error is a sentence without the file's name.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let map = value.as_object().ok_or("not a JSON object")?;
        let model_type = fields::text(map, "model_type")?.ok_or("it has no model_type")?;
        let architecture = match model_type {
            "bert" | "roberta" | "xlm-roberta" => {
                Architecture::Encoder(EncoderConfig::from_map(map, model_type)?)
            }
            "distilbert" => Architecture::DistilBert(DistilBertConfig::from_map(map)?),
            "vit" => Architecture::Vit(VitConfig::from_map(map)?),
            "t5" => Architecture::T5(T5Config::from_map(map)?),
            "gpt2" => Architecture::Gpt2(Gpt2Config::from_map(map)?),
            "llama" | "mistral" | "qwen2" | "qwen3" | "mixtral" | "qwen2_moe" | "qwen3_moe" => {
                Architecture::Decoder(DecoderConfig::from_map(map, model_type)?)
            }
            _ => return Err(format!("model_type {model_type:?} is not one of {}", MODEL_TYPES.join(", "))),
        };
        Ok(Self {
            architecture,
            head: declared_head(map),
            labels: fields::labels(map)?,
            regression: fields::text(map, "problem_type")? == Some("regression"),
            model_type: model_type.to_owned(),
        })
    }

    /// The head that this architecture is for where nothing names another.
    pub fn usual_head(&self) -> Head {
        match self.architecture {
            Architecture::Encoder(_) | Architecture::DistilBert(_) => Head::SequenceClassification,
            Architecture::Vit(_) => Head::ImageClassification,
            Architecture::T5(_) => Head::Seq2SeqLm,
            Architecture::Gpt2(_) | Architecture::Decoder(_) => Head::CausalLm,
        }
    }
}

/// The head of the first class of `architectures`.
fn declared_head(map: &Map<String, Value>) -> Option<Head> {
    Head::from_class(map.get("architectures")?.as_array()?.first()?.as_str()?)
}

#[cfg(test)]
mod tests;
