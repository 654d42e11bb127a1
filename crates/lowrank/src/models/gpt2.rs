//! GPT-2 (Radford et al., 2019), as Transformers' `GPT2LMHeadModel` and `GPT2ForSequenceClassification`.

use super::lm::{Body, Decoder, DecoderHead};
use super::{Cache, Gpt2Config, HeadSpec, Inputs, ModelInfo};
use crate::Result;
use crate::module;
use crate::nn::{Embedding, LayerNorm, Linear};
use crate::tape::{Tape, Var, ops};

/// The model's shape, without values.
pub fn new(config: &Gpt2Config, head: HeadSpec) -> Decoder<Gpt2Model> {
    let lm_head = DecoderHead::new(
        head,
        config.n_embd,
        config.vocab_size,
        config.tie_word_embeddings,
        "transformer.wte.weight",
    );
    let info = ModelInfo {
        architecture: head.class("GPT2"),
        base_prefix: "transformer",
        default_targets: &["c_attn"],
        embeddings: &["wte", "wpe"],
        layer_norms: &["ln_1", "ln_2", "ln_f"],
        max_length: config.n_positions,
        pad_token_id: config.pad_token_id,
        eos_token_ids: config.eos_token_ids.clone(),
        initializer_range: config.initializer_range,
        ..lm_head.info(head, config.vocab_size)
    };
    Decoder::new(Gpt2Model::new(config), lm_head, info)
}

/// Embeddings, blocks and the last norm.
#[derive(Debug)]
pub struct Gpt2Model {
    wte: Embedding,
    wpe: Embedding,
    h: Vec<Gpt2Block>,
    ln_f: LayerNorm,
    dropout: f32,
}

module!(Gpt2Model { "wte" => wte, "wpe" => wpe, "h" => h, "ln_f" => ln_f; "drop" });

impl Gpt2Model {
    fn new(config: &Gpt2Config) -> Self {
        Self {
            wte: Embedding::new(config.vocab_size, config.n_embd),
            wpe: Embedding::new(config.n_positions, config.n_embd),
            h: (0..config.n_layer).map(|layer| Gpt2Block::new(config, layer)).collect(),
            ln_f: LayerNorm::new(config.n_embd, config.layer_norm_epsilon),
            dropout: config.embd_pdrop,
        }
    }
}

impl Body for Gpt2Model {
    const NAME: &'static str = "transformer";

    fn forward<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        let text = inputs.text()?;
        let lookups = [self.wte.lookup(text.ids), self.wpe.lookup(text.positions)];
        let hidden = ops::embedding(tape, &lookups, &text.layout)?;
        let mut hidden = ops::dropout(tape, &hidden, self.dropout)?;
        for (number, block) in self.h.iter().enumerate() {
            hidden = match inputs.cache {
                Some(cache) => block.forward(tape, &hidden, Some((cache, number)))?,
                None => tape.checkpoint(&[&hidden], move |tape, x| block.forward(tape, &x[0], None))?,
            };
        }
        self.ln_f.forward(tape, &hidden)
    }

    fn table(&self) -> &Embedding {
        &self.wte
    }

    fn depth(&self) -> usize {
        self.h.len()
    }
}

/// Attention and a feed-forward network, each after a norm and added to what it read.
#[derive(Debug)]
pub struct Gpt2Block {
    ln_1: LayerNorm,
    attn: Gpt2Attention,
    ln_2: LayerNorm,
    mlp: Gpt2Mlp,
    dropout: f32,
}

module!(Gpt2Block { "ln_1" => ln_1, "attn" => attn, "ln_2" => ln_2, "mlp" => mlp });

impl Gpt2Block {
    fn new(config: &Gpt2Config, layer: usize) -> Self {
        let (width, heads) = (config.n_embd, config.n_head);
        let norm = || LayerNorm::new(width, config.layer_norm_epsilon);
        let mut scale = 1.0;
        if config.scale_attn_weights {
            scale /= ((width / heads) as f32).sqrt();
        }
        if config.scale_attn_by_inverse_layer_idx {
            scale /= (layer + 1) as f32;
        }
        let attention = ops::Attention {
            scale,
            mask: ops::AttentionMask::Causal,
            ..ops::Attention::encoder(heads, width / heads, config.attn_pdrop)
        };
        Self {
            ln_1: norm(),
            attn: Gpt2Attention {
                c_attn: Linear::transposed(width, 3 * width),
                c_proj: Linear::transposed(width, width),
                attention,
            },
            ln_2: norm(),
            mlp: Gpt2Mlp {
                c_fc: Linear::transposed(width, config.n_inner),
                c_proj: Linear::transposed(config.n_inner, width),
                activation: config.activation_function,
            },
            dropout: config.resid_pdrop,
        }
    }

    fn forward(&self, tape: &mut Tape, x: &Var, cache: Option<(&Cache, usize)>) -> Result<Var> {
        let normed = self.ln_1.forward(tape, x)?;
        let attended = self.attn.forward(tape, &normed, cache)?;
        let attended = ops::add(tape, &attended, self.dropout, x)?;
        let normed = self.ln_2.forward(tape, &attended)?;
        let inner = self.mlp.forward(tape, &normed)?;
        ops::add(tape, &inner, self.dropout, &attended)
    }
}

/// Queries, keys and values from one layer, the attention over them, and the projection after it.
#[derive(Debug)]
pub struct Gpt2Attention {
    c_attn: Linear,
    c_proj: Linear,
    attention: ops::Attention,
}

module!(Gpt2Attention { "c_attn" => c_attn, "c_proj" => c_proj; "attn_dropout", "resid_dropout" });

impl Gpt2Attention {
    fn forward(&self, tape: &mut Tape, x: &Var, cache: Option<(&Cache, usize)>) -> Result<Var> {
        let qkv = self.c_attn.forward(tape, x)?;
        let context = match cache {
            Some((cache, layer)) => {
                ops::cached_attention(tape, &qkv, &self.attention, None, &mut cache.layer(layer))?
            }
            None => ops::attention(tape, &qkv, &self.attention, None)?,
        };
        self.c_proj.forward(tape, &context)
    }
}

/// The feed-forward network.
#[derive(Debug)]
pub struct Gpt2Mlp {
    c_fc: Linear,
    c_proj: Linear,
    activation: ops::Activation,
}

module!(Gpt2Mlp { "c_fc" => c_fc, "c_proj" => c_proj; "act", "dropout" });

impl Gpt2Mlp {
    fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let inner = self.c_fc.forward(tape, x)?;
        let inner = ops::activation(tape, &inner, self.activation)?;
        self.c_proj.forward(tape, &inner)
    }
}
