//! Encoder-decoders.

use lowrank_kernels::activation::Activation;
use serde_json::{Map, Value};

use super::fields::{
    check_heads, depth, end_tokens, flag, fraction, named_activation, number, size, text, token_id,
    under_own_keys,
};

/// The sizes of T5 and flan-T5.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Config {
    /// Entries of the word table.
    pub vocab_size: usize,
    /// The width `D` of the hidden rows.
    pub d_model: usize,
    /// The width of an attention head.
    pub d_kv: usize,
    /// The width of the feed-forward layer.
    pub d_ff: usize,
    /// The layers of the encoder.
    pub num_layers: usize,
    /// The layers of the decoder.
    pub num_decoder_layers: usize,
    /// The number of attention heads `H`.
    pub num_heads: usize,
    /// Entries of the table of relative positions.
    pub relative_attention_num_buckets: usize,
    /// The distance from which on all distances share an entry.
    pub relative_attention_max_distance: usize,
    /// Dropout everywhere.
    pub dropout_rate: f32,
    /// What norms add to the mean square.
    pub layer_norm_epsilon: f32,
    /// The feed-forward layer's activation.
    pub activation: Activation,
    /// Whether the feed-forward layer is `activation(wi_0·x) · wi_1·x`.
    pub gated: bool,
    /// Whether the head's weight is the word table.
    pub tied: bool,
    /// Whether the decoder's rows are scaled by `1/√D` before the head.
    pub scale_decoder_outputs: bool,
    /// The padding token.
    pub pad_token_id: u32,
    /// The tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// What a decoder starts from.
    pub decoder_start_token_id: u32,
    /// The factor of the standard deviations of freshly drawn weights.
    pub initializer_factor: f32,
}

impl T5Config {
    pub(super) fn from_map(map: &Map<String, Value>) -> Result<Self, String> {
        let map = &under_own_keys(
            map,
            &[
                ("hidden_size", "d_model"),
                ("num_attention_heads", "num_heads"),
                ("num_hidden_layers", "num_layers"),
                ("head_dim", "d_kv"),
            ],
        )?;
        let kind = text(map, "feed_forward_proj")?.unwrap_or("relu");
        let (gated, act) = match kind.strip_prefix("gated-") {
            // Transformers reads it so, for the checkpoints of T5 1.1 and flan-T5.
            Some("gelu") => (true, "gelu_new"),
            Some(act) => (true, act),
            None => (false, kind),
        };
        let tie_word_embeddings = flag(map, "tie_word_embeddings", true)?;
        let scale_decoder_outputs = flag(map, "scale_decoder_outputs", tie_word_embeddings)?;
        let num_layers = depth(map, "num_layers", Some(6))?;
        let pad_token_id = token_id(map, "pad_token_id")?.unwrap_or(0);
        let config = Self {
            vocab_size: size(map, "vocab_size", Some(32128))?,
            d_model: size(map, "d_model", Some(512))?,
            d_kv: size(map, "d_kv", Some(64))?,
            d_ff: size(map, "d_ff", Some(2048))?,
            num_layers,
            num_decoder_layers: depth(map, "num_decoder_layers", Some(num_layers))?,
            num_heads: size(map, "num_heads", Some(8))?,
            relative_attention_num_buckets: size(map, "relative_attention_num_buckets", Some(32))?,
            relative_attention_max_distance: size(map, "relative_attention_max_distance", Some(128))?,
            dropout_rate: fraction(map, "dropout_rate", 0.1)?,
            layer_norm_epsilon: number(map, "layer_norm_epsilon", 1e-6)? as f32,
            activation: named_activation("feed_forward_proj", act)?,
            gated,
            // Transformers 5 writes `true` for every model, and tells those with a head of their own by the scale.
            tied: tie_word_embeddings && scale_decoder_outputs,
            scale_decoder_outputs,
            pad_token_id,
            eos_token_ids: end_tokens(map, Some(1))?,
            decoder_start_token_id: token_id(map, "decoder_start_token_id")?.unwrap_or(pad_token_id),
            initializer_factor: number(map, "initializer_factor", 1.0)? as f32,
        };
        check_heads(("num_heads", config.num_heads))?;
        if config.relative_attention_num_buckets < 4 {
            return Err("relative_attention_num_buckets is below 4".to_owned());
        }
        Ok(config)
    }
}
