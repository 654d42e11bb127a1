//! Decoders.

use lowrank_kernels::activation::Activation;
use serde_json::{Map, Value};

use super::fields::{
    activation, check_attention, depth, end_tokens, flag, fraction, must_be_off, number, optional_size, size,
    token_id, under_own_keys,
};
use super::rope::Rope;

/// The sizes of Llama, Mistral, Qwen2 or Qwen3.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// `llama`, `mistral`, `qwen2` or `qwen3`.
    pub model_type: String,
    /// Entries of the word table.
    pub vocab_size: usize,
    /// The width `D` of the hidden rows.
    pub hidden_size: usize,
    /// The width of the feed-forward layer.
    pub intermediate_size: usize,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The number of query heads `H`.
    pub num_attention_heads: usize,
    /// The number of key and value heads.
    pub num_key_value_heads: usize,
    /// The width of an attention head.
    pub head_dim: usize,
    /// The feed-forward layer's activation.
    pub hidden_act: Activation,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    /// What norms add to the mean square.
    pub rms_norm_eps: f32,
    /// Rotary positions.
    pub rope: Rope,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub mlp_bias: bool,
    /// Whether each head's queries and keys are normalised.
    pub head_norms: bool,
    /// Dropout on attention weights.
    pub attention_dropout: f32,
    /// For each layer the width of its sliding window, if it has one.
    pub windows: Vec<Option<usize>>,
    /// Whether the head's weight is the word table.
    pub tie_word_embeddings: bool,
    /// The padding token.
    pub pad_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The standard deviation of freshly drawn weights.
    pub initializer_range: f32,
}

impl DecoderConfig {
    pub(super) fn from_map(map: &Map<String, Value>, model_type: &str) -> Result<Self, String> {
        let hidden_size = size(map, "hidden_size", None)?;
        let heads = size(map, "num_attention_heads", None)?;
        let (kv_heads, positions) = match model_type {
            "llama" => (heads, 2048),
            "mistral" => (8, 4096 * 32),
            _ => (32, 32768),
        };
        let kv_heads = match map.get("num_key_value_heads") {
            Some(Value::Null) => heads,
            _ => size(map, "num_key_value_heads", Some(kv_heads))?,
        };
        let usual_dim = if model_type == "qwen3" { 128 } else { hidden_size / heads };
        let positions = size(map, "max_position_embeddings", Some(positions))?;
        let num_hidden_layers = depth(map, "num_hidden_layers", None)?;
        let attention_bias = flag(map, "attention_bias", false)?;
        let config = Self {
            vocab_size: size(map, "vocab_size", None)?,
            hidden_size,
            intermediate_size: size(map, "intermediate_size", None)?,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: size(map, "head_dim", Some(usual_dim.max(1)))?,
            hidden_act: activation(map, "hidden_act", "silu")?,
            max_position_embeddings: positions,
            rms_norm_eps: number(map, "rms_norm_eps", 1e-6)? as f32,
            rope: Rope::from_map(map, positions, 10_000.0)?,
            qkv_bias: model_type == "qwen2" || (model_type != "mistral" && attention_bias),
            output_bias: matches!(model_type, "llama" | "qwen3") && attention_bias,
            mlp_bias: model_type == "llama" && flag(map, "mlp_bias", false)?,
            head_norms: model_type == "qwen3",
            attention_dropout: fraction(map, "attention_dropout", 0.0)?,
            windows: windows(map, model_type, num_hidden_layers)?,
            tie_word_embeddings: flag(map, "tie_word_embeddings", false)?,
            pad_token_id: token_id(map, "pad_token_id")?,
            eos_token_ids: end_tokens(map, matches!(model_type, "llama" | "mistral").then_some(2))?,
            initializer_range: number(map, "initializer_range", 0.02)? as f32,
            model_type: model_type.to_owned(),
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            ));
        }
        if !config.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim {} is not even, as rotary positions need it", config.head_dim));
        }
        check_attention(("num_attention_heads", heads), ("max_position_embeddings", positions))?;
        Ok(config)
    }
}

/// The window of each layer. Mistral has one everywhere, Qwen where it is switched on from a layer onwards.
fn windows(map: &Map<String, Value>, model_type: &str, layers: usize) -> Result<Vec<Option<usize>>, String> {
    let window = match (model_type, map.get("sliding_window")) {
        ("llama", _) => None,
        (_, None) => Some(4096),
        _ => optional_size(map, "sliding_window")?,
    };
    let is_switched_on = matches!(model_type, "llama" | "mistral") || flag(map, "use_sliding_window", false)?;
    if model_type == "mistral" || window.is_none() {
        return Ok(vec![window; layers]);
    }
    let window = window.filter(|_| is_switched_on);
    if let Some(Value::Array(types)) = map.get("layer_types") {
        if types.len() != layers {
            return Err(format!("layer_types names {} layers of {layers}", types.len()));
        }
        return types
            .iter()
            .map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") if window.is_some() => Ok(window),
                _ => Err(format!("layer_types holds {kind}; only full_attention and, with use_sliding_window, sliding_attention are known")),
            })
            .collect();
    }
    let first = match map.get("max_window_layers") {
        None | Some(Value::Null) => 28,
        Some(value) => {
            value.as_u64().ok_or_else(|| format!("max_window_layers {value} is no number of layers"))?
                as usize
        }
    };
    Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect())
}

/// The sizes of GPT-2.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt2Config {
    /// Entries of the word table.
    pub vocab_size: usize,
    /// Entries of the position table.
    pub n_positions: usize,
    /// The width `D` of the hidden rows.
    pub n_embd: usize,
    /// The number of layers.
    pub n_layer: usize,
    /// The number of attention heads `H`.
    pub n_head: usize,
    /// The width of the feed-forward layer.
    pub n_inner: usize,
    /// The feed-forward layer's activation.
    pub activation_function: Activation,
    /// Dropout after each block.
    pub resid_pdrop: f32,
    /// Dropout on the embeddings.
    pub embd_pdrop: f32,
    /// Dropout on attention weights.
    pub attn_pdrop: f32,
    /// What layer norms add to the variance.
    pub layer_norm_epsilon: f32,
    /// Whether scores are divided by `√head_dim`.
    pub scale_attn_weights: bool,
    /// Whether scores are divided by the number of the layer, from 1.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether the head's weight is the word table.
    pub tie_word_embeddings: bool,
    /// The padding token.
    pub pad_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The standard deviation of freshly drawn weights.
    pub initializer_range: f32,
}

impl Gpt2Config {
    pub(super) fn from_map(map: &Map<String, Value>) -> Result<Self, String> {
        let map = &under_own_keys(
            map,
            &[
                ("hidden_size", "n_embd"),
                ("max_position_embeddings", "n_positions"),
                ("num_attention_heads", "n_head"),
                ("num_hidden_layers", "n_layer"),
            ],
        )?;
        must_be_off(map, &["add_cross_attention"], "there is nothing that it would attend to")?;
        let n_embd = size(map, "n_embd", Some(768))?;
        let config = Self {
            vocab_size: size(map, "vocab_size", Some(50257))?,
            n_positions: size(map, "n_positions", Some(1024))?,
            n_embd,
            n_layer: depth(map, "n_layer", Some(12))?,
            n_head: size(map, "n_head", Some(12))?,
            n_inner: optional_size(map, "n_inner")?.unwrap_or(4 * n_embd),
            activation_function: activation(map, "activation_function", "gelu_new")?,
            resid_pdrop: fraction(map, "resid_pdrop", 0.1)?,
            embd_pdrop: fraction(map, "embd_pdrop", 0.1)?,
            attn_pdrop: fraction(map, "attn_pdrop", 0.1)?,
            layer_norm_epsilon: number(map, "layer_norm_epsilon", 1e-5)? as f32,
            scale_attn_weights: flag(map, "scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: flag(map, "scale_attn_by_inverse_layer_idx", false)?,
            tie_word_embeddings: flag(map, "tie_word_embeddings", true)?,
            pad_token_id: token_id(map, "pad_token_id")?,
            eos_token_ids: end_tokens(map, Some(50256))?,
            initializer_range: number(map, "initializer_range", 0.02)? as f32,
        };
        if !n_embd.is_multiple_of(config.n_head) {
            return Err(format!("n_embd {n_embd} is not a multiple of n_head {}", config.n_head));
        }
        check_attention(("n_head", config.n_head), ("n_positions", config.n_positions))?;
        Ok(config)
    }
}
