//! Llama (Touvron et al., arXiv 2302.13971), Mistral (Jiang et al., arXiv 2310.06825), Qwen2 (arXiv 2407.10671) and Qwen3
//! (arXiv 2505.09388), and the mixtures among them: Mixtral, Qwen2-MoE and Qwen3-MoE; as Transformers' `…ForCausalLM` and
//! `…ForSequenceClassification`.

use std::sync::Arc;

use super::lm::{Body, Decoder, DecoderHead};
use super::mixture::SparseMoe;
use super::{Cache, DecoderConfig, ExpertNames, HeadSpec, Inputs, ModelInfo, Rope};
use crate::Result;
use crate::module;
use crate::nn::{Embedding, Linear, Module, RmsNorm, Visitor, VisitorMut};
use crate::tape::{Tape, Var, ops};

/// The model's shape, without values.
pub fn new(config: &DecoderConfig, head: HeadSpec) -> Decoder<DecoderModel> {
    let family = match config.model_type.as_str() {
        "mistral" => "Mistral",
        "qwen2" => "Qwen2",
        "qwen3" => "Qwen3",
        "mixtral" => "Mixtral",
        "qwen2_moe" => "Qwen2Moe",
        "qwen3_moe" => "Qwen3Moe",
        _ => "Llama",
    };
    let (width, tied) = (config.hidden_size, config.tie_word_embeddings);
    let lm_head = DecoderHead::new(head, width, config.vocab_size, tied, "model.embed_tokens.weight");
    let info = ModelInfo {
        architecture: head.class(family),
        base_prefix: "model",
        default_targets: &["q_proj", "v_proj"],
        embeddings: &["embed_tokens"],
        layer_norms: if config.head_norms {
            &["input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm"]
        } else {
            &["input_layernorm", "post_attention_layernorm", "norm"]
        },
        max_length: config.max_position_embeddings,
        has_position_table: false,
        counts_rows_beyond: config.windows.iter().flatten().min().copied(),
        pad_token_id: config.pad_token_id,
        eos_token_ids: config.eos_token_ids.clone(),
        initializer_range: config.initializer_range,
        older_name: (config.model_type == "mixtral").then_some(older_name_of_mixtral),
        experts: config.mixture.as_ref().map(|mixture| {
            let (gate, up, down) = match config.model_type.as_str() {
                "mixtral" => ("w1", "w3", "w2"),
                _ => ("gate_proj", "up_proj", "down_proj"),
            };
            let (count, are_targets) = (mixture.num_experts, config.model_type != "qwen2_moe");
            ExpertNames { gate, up, down, count, are_targets }
        }),
        ..lm_head.info(head, config.vocab_size)
    };
    Decoder::new(DecoderModel::new(config), lm_head, info)
}

/// What Transformers 4 called the mixture of a Mixtral's layer.
fn older_name_of_mixtral(path: &str) -> String {
    path.replacen(".mlp.", ".block_sparse_moe.", 1)
}

/// Embeddings, layers and the last norm.
#[derive(Debug)]
pub struct DecoderModel {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    rope: Rope,
    head_dim: usize,
}

module!(DecoderModel { "embed_tokens" => embed_tokens, "layers" => layers, "norm" => norm; "rotary_emb" });

impl DecoderModel {
    fn new(config: &DecoderConfig) -> Self {
        let embed_tokens = Embedding::new(config.vocab_size, config.hidden_size);
        Self {
            embed_tokens: match config.pad_token_id {
                Some(id) => embed_tokens.with_padding_id(id),
                None => embed_tokens,
            },
            layers: (0..config.num_hidden_layers).map(|layer| DecoderLayer::new(config, layer)).collect(),
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps),
            rope: config.rope.clone(),
            head_dim: config.head_dim,
        }
    }
}

impl Body for DecoderModel {
    const NAME: &'static str = "model";

    fn forward<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        let text = inputs.text()?;
        let longest = text.positions.iter().max().map_or(0, |last| *last as usize + 1);
        let (frequencies, factor) = self.rope.frequencies(self.head_dim, longest);
        let rotation = Arc::new(Rotation { positions: text.positions.to_vec(), frequencies, factor });
        let mut hidden = ops::embedding(tape, &[self.embed_tokens.lookup(text.ids)], &text.layout)?;
        for (number, layer) in self.layers.iter().enumerate() {
            hidden = match inputs.cache {
                Some(cache) => layer.forward(tape, &hidden, &rotation, Some((cache, number)))?,
                None => {
                    let rotation = Arc::clone(&rotation);
                    tape.checkpoint(&[&hidden], move |tape, x| layer.forward(tape, &x[0], &rotation, None))?
                }
            };
        }
        self.norm.forward(tape, &hidden)
    }

    fn table(&self) -> &Embedding {
        &self.embed_tokens
    }

    fn depth(&self) -> usize {
        self.layers.len()
    }
}

/// The rotation of a batch's tokens.
struct Rotation {
    positions: Vec<u32>,
    frequencies: Vec<f32>,
    factor: f32,
}

/// Attention and a feed-forward network, each after a norm and added to what it read.
#[derive(Debug)]
pub struct DecoderLayer {
    self_attn: DecoderAttention,
    mlp: FeedForward,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

module!(DecoderLayer {
    "self_attn" => self_attn,
    "mlp" => mlp,
    "input_layernorm" => input_layernorm,
    "post_attention_layernorm" => post_attention_layernorm,
});

impl DecoderLayer {
    fn new(config: &DecoderConfig, layer: usize) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps);
        Self {
            self_attn: DecoderAttention::new(config, layer),
            mlp: FeedForward::new(config, layer),
            input_layernorm: norm(),
            post_attention_layernorm: norm(),
        }
    }

    fn forward(
        &self,
        tape: &mut Tape,
        x: &Var,
        rotation: &Rotation,
        cache: Option<(&Cache, usize)>,
    ) -> Result<Var> {
        let normed = self.input_layernorm.forward(tape, x)?;
        let attended = self.self_attn.forward(tape, &normed, rotation, cache)?;
        let attended = ops::add(tape, &attended, 0.0, x)?;
        let normed = self.post_attention_layernorm.forward(tape, &attended)?;
        let inner = self.mlp.forward(tape, &normed)?;
        ops::add(tape, &inner, 0.0, &attended)
    }
}

/// Attention whose queries share keys and values in groups.
#[derive(Debug)]
pub struct DecoderAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    attention: ops::Attention,
}

module!(DecoderAttention {
    "q_proj" => q_proj,
    "k_proj" => k_proj,
    "v_proj" => v_proj,
    "o_proj" => o_proj,
    "q_norm" => q_norm,
    "k_norm" => k_norm,
});

impl DecoderAttention {
    fn new(config: &DecoderConfig, layer: usize) -> Self {
        let (width, dim) = (config.hidden_size, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let norm = || config.head_norms.then(|| RmsNorm::new(dim, config.rms_norm_eps));
        Self {
            q_proj: Linear::new(width, heads * dim, config.qkv_bias),
            k_proj: Linear::new(width, kv_heads * dim, config.qkv_bias),
            v_proj: Linear::new(width, kv_heads * dim, config.qkv_bias),
            o_proj: Linear::new(heads * dim, width, config.output_bias),
            q_norm: norm(),
            k_norm: norm(),
            attention: ops::Attention {
                heads,
                kv_heads,
                head_dim: dim,
                scale: 1.0 / (dim as f32).sqrt(),
                dropout: config.attention_dropout,
                mask: match config.windows.get(layer).copied().flatten() {
                    Some(window) => ops::AttentionMask::Window(window),
                    None => ops::AttentionMask::Causal,
                },
            },
        }
    }

    fn forward(
        &self,
        tape: &mut Tape,
        x: &Var,
        rotation: &Rotation,
        cache: Option<(&Cache, usize)>,
    ) -> Result<Var> {
        let qkv = Linear::forward_together(&[&self.q_proj, &self.k_proj, &self.v_proj], tape, x)?;
        let norms = self.q_norm.as_ref().zip(self.k_norm.as_ref()).map(|(query, key)| ops::HeadNorms {
            query: &query.weight,
            key: &key.weight,
            eps: query.eps,
        });
        let rotary = ops::Rotary {
            heads: self.attention.heads,
            kv_heads: self.attention.kv_heads,
            head_dim: self.attention.head_dim,
            frequencies: &rotation.frequencies,
            factor: rotation.factor,
            norms,
        };
        let qkv = ops::rotary(tape, &qkv, &rotation.positions, &rotary)?;
        let context = match cache {
            Some((cache, layer)) => {
                ops::cached_attention(tape, &qkv, &self.attention, None, &mut cache.layer(layer))?
            }
            None => ops::attention(tape, &qkv, &self.attention, None)?,
        };
        self.o_proj.forward(tape, &context)
    }
}

/// What follows a layer's attention.
#[derive(Debug)]
pub enum FeedForward {
    /// One network for every row.
    Dense(Box<DecoderMlp>),
    /// A few of many for each.
    Sparse(Box<SparseMoe>),
}

impl FeedForward {
    fn new(config: &DecoderConfig, layer: usize) -> Self {
        let (width, activation) = (config.hidden_size, config.hidden_act);
        match config.mixture.as_ref().filter(|mixture| mixture.is_sparse(layer)) {
            Some(mixture) => Self::Sparse(Box::new(SparseMoe::new(mixture, width, activation))),
            None => {
                let (inner, bias) = (config.intermediate_size, config.mlp_bias);
                Self::Dense(Box::new(DecoderMlp::new(width, inner, bias, activation)))
            }
        }
    }

    fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        match self {
            Self::Dense(mlp) => mlp.forward(tape, x),
            Self::Sparse(mixture) => mixture.forward(tape, x),
        }
    }
}

impl Module for FeedForward {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        match self {
            Self::Dense(mlp) => mlp.visit(path, visitor),
            Self::Sparse(mixture) => mixture.visit(path, visitor),
        }
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        match self {
            Self::Dense(mlp) => mlp.visit_mut(path, visitor),
            Self::Sparse(mixture) => mixture.visit_mut(path, visitor),
        }
    }
}

/// `down(activation(gate·x) · up·x)`.
#[derive(Debug)]
pub struct DecoderMlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    activation: ops::Activation,
}

module!(DecoderMlp { "gate_proj" => gate_proj, "up_proj" => up_proj, "down_proj" => down_proj; "act_fn" });

impl DecoderMlp {
    /// Between hidden rows of `width`.
    pub(super) fn new(width: usize, inner: usize, bias: bool, activation: ops::Activation) -> Self {
        Self {
            gate_proj: Linear::new(width, inner, bias),
            up_proj: Linear::new(width, inner, bias),
            down_proj: Linear::new(inner, width, bias),
            activation,
        }
    }

    pub(super) fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let both = Linear::forward_together(&[&self.gate_proj, &self.up_proj], tape, x)?;
        let inner = ops::gated(tape, &both, self.activation)?;
        self.down_proj.forward(tape, &inner)
    }
}
