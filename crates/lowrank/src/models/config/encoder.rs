//! BERT-like encoders.

use lowrank_kernels::activation::Activation;
use serde_json::{Map, Value};

use super::fields::{
    activation, check_attention, depth, fraction, must_be_off, number, size, text, token_id, under_own_keys,
};

/// The sizes of BERT, RoBERTa or XLM-RoBERTa.
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
}

impl EncoderConfig {
    pub(super) fn from_map(map: &Map<String, Value>, model_type: &str) -> Result<Self, String> {
        if let Some(kind) = text(map, "position_embedding_type")?
            && kind != "absolute"
        {
            return Err(format!("position_embedding_type {kind:?} is not supported, only \"absolute\""));
        }
        must_be_off(map, &["is_decoder", "add_cross_attention"], "this is no encoder")?;
        let hidden_dropout_prob = fraction(map, "hidden_dropout_prob", 0.1)?;
        let config = Self {
            vocab_size: size(map, "vocab_size", None)?,
            hidden_size: size(map, "hidden_size", None)?,
            num_hidden_layers: depth(map, "num_hidden_layers", None)?,
            num_attention_heads: size(map, "num_attention_heads", None)?,
            intermediate_size: size(map, "intermediate_size", None)?,
            hidden_act: activation(map, "hidden_act", "gelu")?,
            hidden_dropout_prob,
            attention_probs_dropout_prob: fraction(map, "attention_probs_dropout_prob", 0.1)?,
            classifier_dropout: fraction(map, "classifier_dropout", hidden_dropout_prob)?,
            max_position_embeddings: size(map, "max_position_embeddings", Some(512))?,
            type_vocab_size: size(map, "type_vocab_size", Some(2))?,
            layer_norm_eps: number(map, "layer_norm_eps", 1e-12)? as f32,
            pad_token_id: token_id(map, "pad_token_id")?.unwrap_or(u32::from(model_type != "bert")),
            initializer_range: number(map, "initializer_range", 0.02)? as f32,
            model_type: model_type.to_owned(),
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
        check_attention(
            ("num_attention_heads", heads),
            ("max_position_embeddings", self.max_position_embeddings),
        )?;
        if self.max_length() == 0 {
            return Err(format!(
                "max_position_embeddings {} leaves no position",
                self.max_position_embeddings
            ));
        }
        Ok(())
    }
}

/// The sizes of DistilBERT.
#[derive(Clone, Debug, PartialEq)]
pub struct DistilBertConfig {
    /// Entries of the word table.
    pub vocab_size: usize,
    /// The width `D` of the hidden rows.
    pub dim: usize,
    /// The number of layers.
    pub n_layers: usize,
    /// The number of attention heads `H`.
    pub n_heads: usize,
    /// The width of the feed-forward layer.
    pub hidden_dim: usize,
    /// The feed-forward layer's activation.
    pub activation: Activation,
    /// Dropout on hidden rows.
    pub dropout: f32,
    /// Dropout on attention weights.
    pub attention_dropout: f32,
    /// Dropout before the classifier of sequences.
    pub seq_classif_dropout: f32,
    /// Dropout before the span head.
    pub qa_dropout: f32,
    /// Entries of the position table.
    pub max_position_embeddings: usize,
    /// The padding token.
    pub pad_token_id: u32,
    /// The standard deviation of freshly drawn weights.
    pub initializer_range: f32,
}

impl DistilBertConfig {
    pub(super) fn from_map(map: &Map<String, Value>) -> Result<Self, String> {
        let map = &under_own_keys(
            map,
            &[("hidden_size", "dim"), ("num_attention_heads", "n_heads"), ("num_hidden_layers", "n_layers")],
        )?;
        let config = Self {
            vocab_size: size(map, "vocab_size", Some(30522))?,
            dim: size(map, "dim", Some(768))?,
            n_layers: depth(map, "n_layers", Some(6))?,
            n_heads: size(map, "n_heads", Some(12))?,
            hidden_dim: size(map, "hidden_dim", Some(4 * 768))?,
            activation: activation(map, "activation", "gelu")?,
            dropout: fraction(map, "dropout", 0.1)?,
            attention_dropout: fraction(map, "attention_dropout", 0.1)?,
            seq_classif_dropout: fraction(map, "seq_classif_dropout", 0.2)?,
            qa_dropout: fraction(map, "qa_dropout", 0.1)?,
            max_position_embeddings: size(map, "max_position_embeddings", Some(512))?,
            pad_token_id: token_id(map, "pad_token_id")?.unwrap_or(0),
            initializer_range: number(map, "initializer_range", 0.02)? as f32,
        };
        if !config.dim.is_multiple_of(config.n_heads) {
            return Err(format!("dim {} is not a multiple of n_heads {}", config.dim, config.n_heads));
        }
        check_attention(
            ("n_heads", config.n_heads),
            ("max_position_embeddings", config.max_position_embeddings),
        )?;
        Ok(config)
    }
}
