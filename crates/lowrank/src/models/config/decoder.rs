//! Decoders.

use lowrank_kernels::activation::Activation;
use serde_json::{Map, Value};

use super::fields::{
    activation, check_attention, depth, end_tokens, flag, fraction, must_be_off, number, optional_size,
    product, size, token_id, under_own_keys, value,
};
use super::rope::Rope;

/// No mixture of today has more experts in a layer, or in all: each takes memory before any weight is looked for.
pub(crate) const MOST_EXPERTS: usize = 1 << 12;
const MOST_EXPERTS_IN_ALL: usize = 1 << 16;

/// The sizes of Llama, Mistral, Qwen2 or Qwen3, or of a mixture among them.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// `llama`, `mistral`, `qwen2`, `qwen3`, `mixtral`, `qwen2_moe` or `qwen3_moe`.
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
    /// The experts of a mixture.
    pub mixture: Option<MixtureConfig>,
}

impl DecoderConfig {
    pub(super) fn from_map(map: &Map<String, Value>, model_type: &str) -> Result<Self, String> {
        let hidden_size = size(map, "hidden_size", None)?;
        let heads = size(map, "num_attention_heads", None)?;
        let (kv_heads, positions) = match model_type {
            "llama" => (heads, 2048),
            "mistral" | "mixtral" => (8, 4096 * 32),
            "qwen2_moe" => (16, 32768),
            "qwen3_moe" => (4, 32768),
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
        let is_mixtral = model_type == "mixtral";
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
            rms_norm_eps: number(map, "rms_norm_eps", if is_mixtral { 1e-5 } else { 1e-6 })? as f32,
            rope: Rope::from_map(map, positions, if is_mixtral { 1e6 } else { 10_000.0 })?,
            qkv_bias: match model_type {
                "qwen2" => true,
                "qwen2_moe" => flag(map, "qkv_bias", true)?,
                "mistral" | "mixtral" => false,
                _ => attention_bias,
            },
            output_bias: matches!(model_type, "llama" | "qwen3" | "qwen3_moe") && attention_bias,
            mlp_bias: model_type == "llama" && flag(map, "mlp_bias", false)?,
            head_norms: matches!(model_type, "qwen3" | "qwen3_moe"),
            attention_dropout: fraction(map, "attention_dropout", 0.0)?,
            windows: windows(map, model_type, num_hidden_layers)?,
            tie_word_embeddings: flag(map, "tie_word_embeddings", false)?,
            pad_token_id: token_id(map, "pad_token_id")?,
            eos_token_ids: end_tokens(
                map,
                matches!(model_type, "llama" | "mistral" | "mixtral").then_some(2),
            )?,
            initializer_range: number(map, "initializer_range", 0.02)? as f32,
            mixture: MixtureConfig::from_map(map, model_type, num_hidden_layers)?,
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

/// The experts of a mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct MixtureConfig {
    /// How many experts a layer has.
    pub num_experts: usize,
    /// How many of them each row passes.
    pub num_experts_per_tok: usize,
    /// Whether the weights of a row's experts add up to 1.
    pub norm_topk_prob: bool,
    /// The width inside an expert.
    pub intermediate_size: usize,
    /// The width inside the expert that every row passes, if there is one.
    pub shared_intermediate_size: Option<usize>,
    /// For each layer whether it is a mixture.
    sparse: Vec<bool>,
}

impl MixtureConfig {
    /// Whether a layer is a mixture.
    pub fn is_sparse(&self, layer: usize) -> bool {
        self.sparse.get(layer).copied().unwrap_or(false)
    }

    fn from_map(map: &Map<String, Value>, model_type: &str, layers: usize) -> Result<Option<Self>, String> {
        let (experts, chosen, inner) = match model_type {
            "mixtral" => (8, 2, None),
            "qwen2_moe" => (60, 4, Some(1408)),
            "qwen3_moe" => (128, 8, Some(768)),
            _ => return Ok(None),
        };
        let is_mixtral = model_type == "mixtral";
        let (own, other) = if is_mixtral {
            ("num_local_experts", "num_experts")
        } else {
            ("num_experts", "num_local_experts")
        };
        let of_experts = if value(map, own).is_none() && value(map, other).is_some() { other } else { own };
        let map = &under_own_keys(map, &[(other, own)])?;
        must_be_off(map, &["output_router_logits"], "the loss that balances experts is not computed here")?;
        if number(map, "router_jitter_noise", 0.0)? != 0.0 {
            return Err(
                "router_jitter_noise is not 0: noise on what experts read is not computed here".into()
            );
        }
        let key = if is_mixtral { "intermediate_size" } else { "moe_intermediate_size" };
        let shared = model_type == "qwen2_moe";
        let shared = shared.then(|| size(map, "shared_expert_intermediate_size", Some(5632))).transpose()?;
        let config = Self {
            num_experts: size(map, of_experts, Some(experts))?,
            num_experts_per_tok: size(map, "num_experts_per_tok", Some(chosen))?,
            norm_topk_prob: is_mixtral || flag(map, "norm_topk_prob", false)?,
            intermediate_size: size(map, key, inner)?,
            shared_intermediate_size: shared,
            sparse: if is_mixtral { vec![true; layers] } else { sparse_layers(map, layers)? },
        };
        if config.num_experts_per_tok > config.num_experts {
            let (chosen, experts) = (config.num_experts_per_tok, config.num_experts);
            return Err(format!("num_experts_per_tok {chosen} is beyond {of_experts} {experts}"));
        }
        if config.num_experts > MOST_EXPERTS {
            return Err(format!("{of_experts} is {}; it must be at most {MOST_EXPERTS}", config.num_experts));
        }
        let all = config.num_experts * config.sparse.iter().filter(|sparse| **sparse).count();
        if all > MOST_EXPERTS_IN_ALL {
            return Err(format!(
                "it has {all} experts in all its layers; {MOST_EXPERTS_IN_ALL} are the most"
            ));
        }
        product("gate and up of an expert", &[2, config.intermediate_size])?;
        Ok(Some(config))
    }
}

/// Which layers of a Qwen are mixtures.
fn sparse_layers(map: &Map<String, Value>, layers: usize) -> Result<Vec<bool>, String> {
    let step = size(map, "decoder_sparse_step", Some(1))?;
    let dense: Vec<usize> = match map.get("mlp_only_layers") {
        None | Some(Value::Null) => Vec::new(),
        Some(value) => {
            let number = |value: &Value| value.as_u64().map(|number| number as usize);
            let numbers = value.as_array().and_then(|values| values.iter().map(number).collect());
            numbers.ok_or_else(|| format!("mlp_only_layers is {value}; it must be a list of layers"))?
        }
    };
    Ok((0..layers).map(|layer| !dense.contains(&layer) && (layer + 1) % step == 0).collect())
}

/// The window of each layer. Mistral and Mixtral have one everywhere, Qwen where it is switched on from a layer onwards;
/// Qwen2-MoE in every other layer before that, Qwen3-MoE everywhere.
fn windows(map: &Map<String, Value>, model_type: &str, layers: usize) -> Result<Vec<Option<usize>>, String> {
    let window = match (model_type, map.get("sliding_window")) {
        ("llama", _) | ("mixtral", None) => None,
        (_, None) => Some(4096),
        _ => optional_size(map, "sliding_window")?,
    };
    if matches!(model_type, "llama" | "mistral" | "mixtral") {
        return Ok(vec![window; layers]);
    }
    let is_switched_on = flag(map, "use_sliding_window", false)?;
    let is_the_same_everywhere = model_type == "qwen3_moe" || window.is_none();
    let window = window.filter(|_| is_switched_on);
    if is_the_same_everywhere {
        return Ok(vec![window; layers]);
    }
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
    let has_window = |layer: usize| match model_type {
        "qwen2_moe" => layer.is_multiple_of(2) && layer < first,
        _ => layer >= first,
    };
    Ok((0..layers).map(|layer| window.filter(|_| has_window(layer))).collect())
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
