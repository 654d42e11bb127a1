//! T5 (Raffel et al., arXiv 1910.10683) and flan-T5, as Transformers' `T5ForConditionalGeneration`.

use super::encoder::wanted_rows;
use super::lm::lm_logits;
use super::{Cache, Head, HeadSpec, Inputs, Model, ModelInfo, Source, T5Config, Tokens};
use crate::nn::{Embedding, Linear, Module, RmsNorm, Visitor, VisitorMut, assign_names, join};
use crate::tape::{Tape, Var, ops};
use crate::{Error, Result, module};

/// An encoder, a decoder and a head on the vocabulary.
#[derive(Debug)]
pub struct T5ForConditionalGeneration {
    shared: Embedding,
    encoder: T5Stack,
    decoder: T5Stack,
    lm_head: Linear,
    /// What the decoder's rows are multiplied by before the head.
    output_scale: f32,
    info: ModelInfo,
}

module!(T5ForConditionalGeneration {
    "shared" => shared, "encoder" => encoder, "decoder" => decoder, "lm_head" => lm_head
});

/// The parameter that stands for both stacks' word tables, and for the head's weight where it is tied.
const SHARED: &str = "shared.weight";

impl T5ForConditionalGeneration {
    /// The model's shape, without values.
    pub fn new(config: &T5Config) -> Self {
        let (width, vocab_size) = (config.d_model, config.vocab_size);
        let lm_head = Linear::new(width, vocab_size, false);
        let info = ModelInfo {
            architecture: HeadSpec::new(Head::Seq2SeqLm, vocab_size).class("T5"),
            kind: Head::Seq2SeqLm,
            output: Some("lm_head"),
            output_may_share: Some(SHARED),
            default_targets: &["q", "v"],
            embeddings: &["embed_tokens"],
            layer_norms: &["layer_norm", "final_layer_norm"],
            num_labels: vocab_size,
            vocab_size,
            max_length: lowrank_kernels::attention::MOST_TOKENS,
            has_position_table: false,
            counts_rows_beyond: Some(1),
            pad_token_id: Some(config.pad_token_id),
            eos_token_ids: config.eos_token_ids.clone(),
            decoder_start_token_id: Some(config.decoder_start_token_id),
            initializer_range: 0.02 * config.initializer_factor,
            ..ModelInfo::without_head()
        };
        let mut model = Self {
            shared: Embedding::new(vocab_size, width),
            encoder: T5Stack::new(config, false),
            decoder: T5Stack::new(config, true),
            lm_head: if config.tied { lm_head.tied_to(SHARED) } else { lm_head },
            output_scale: if config.scale_decoder_outputs { 1.0 / (width as f32).sqrt() } else { 1.0 },
            info,
        };
        assign_names(&mut model);
        model
    }
}

impl Model for T5ForConditionalGeneration {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn info_mut(&mut self) -> &mut ModelInfo {
        &mut self.info
    }

    fn encode<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        self.encoder.forward(tape, &self.shared, inputs.text()?, None, None)
    }

    fn forward<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        let encoded = match &inputs.source {
            Source::Encoded(encoded) => (*encoded).clone(),
            _ => self.encode(tape, inputs)?,
        };
        let Some(target) = &inputs.target else {
            return Err(Error::Usage(
                "an encoder-decoder needs the tokens of its answer, or what they start with".into(),
            ));
        };
        let hidden = self.decoder.forward(tape, &self.shared, target, Some(&encoded), inputs.cache)?;
        let hidden = wanted_rows(tape, &hidden, inputs.rows)?;
        let hidden =
            if self.output_scale == 1.0 { hidden } else { ops::scale(tape, &hidden, self.output_scale)? };
        lm_logits(tape, &hidden, &self.lm_head, Some(&self.shared))
    }

    fn new_cache(&self, sequences: usize) -> Option<Cache> {
        Some(Cache::new(self.decoder.block.len(), sequences))
    }
}

/// An encoder or a decoder.
#[derive(Debug)]
pub struct T5Stack {
    embed_tokens: Embedding,
    block: Vec<T5Block>,
    final_layer_norm: RmsNorm,
    dropout: f32,
    max_distance: usize,
    is_decoder: bool,
}

module!(T5Stack {
    "embed_tokens" => embed_tokens, "block" => block, "final_layer_norm" => final_layer_norm; "dropout"
});

impl T5Stack {
    fn new(config: &T5Config, is_decoder: bool) -> Self {
        let layers = if is_decoder { config.num_decoder_layers } else { config.num_layers };
        Self {
            embed_tokens: Embedding::new(config.vocab_size, config.d_model).tied_to(SHARED),
            block: (0..layers).map(|layer| T5Block::new(config, is_decoder, layer == 0)).collect(),
            final_layer_norm: RmsNorm::new(config.d_model, config.layer_norm_epsilon),
            dropout: config.dropout_rate,
            max_distance: config.relative_attention_max_distance,
            is_decoder,
        }
    }

    /// The last hidden row of each token, normalised: `[tokens, D]`.
    fn forward<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        shared: &'m Embedding,
        text: &Tokens<'_>,
        encoded: Option<&Var>,
        cache: Option<&Cache>,
    ) -> Result<Var> {
        let hidden =
            ops::embedding(tape, &[self.embed_tokens.lookup_tied(text.ids, &shared.weight)], &text.layout)?;
        let mut hidden = ops::dropout(tape, &hidden, self.dropout)?;
        // The first block's table serves all.
        let table = self
            .block
            .first()
            .and_then(|block| block.self_attention.attention.relative_attention_bias.as_ref());
        let bias = table.map(|table| ops::RelativeBias {
            table: &table.weight,
            bidirectional: !self.is_decoder,
            max_distance: self.max_distance,
        });
        for (number, block) in self.block.iter().enumerate() {
            hidden = match (cache, encoded) {
                (Some(cache), _) => {
                    block.forward(tape, &hidden, bias.as_ref(), encoded, Some((cache, number)))?
                }
                (None, Some(encoded)) => tape.checkpoint(&[&hidden, encoded], move |tape, x| {
                    block.forward(tape, &x[0], bias.as_ref(), Some(&x[1]), None)
                })?,
                (None, None) => tape.checkpoint(&[&hidden], move |tape, x| {
                    block.forward(tape, &x[0], bias.as_ref(), None, None)
                })?,
            };
        }
        let hidden = self.final_layer_norm.forward(tape, &hidden)?;
        ops::dropout(tape, &hidden, self.dropout)
    }
}

/// Self-attention, in a decoder attention to the source, and a feed-forward network, each after a norm and added to
/// what it read.
#[derive(Debug)]
pub struct T5Block {
    self_attention: T5AttentionLayer,
    cross_attention: Option<T5AttentionLayer>,
    feed_forward: T5FeedForwardLayer,
}

impl Module for T5Block {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.enter(path, "T5Block");
        let list = join(path, "layer");
        visitor.enter(&list, "ModuleList");
        self.self_attention.visit_named(&join(&list, "0"), "SelfAttention", visitor);
        if let Some(cross) = &self.cross_attention {
            cross.visit_named(&join(&list, "1"), "EncDecAttention", visitor);
        }
        self.feed_forward.visit(&join(&list, self.last()), visitor);
        visitor.leave();
        visitor.leave();
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        let (list, last) = (join(path, "layer"), self.last());
        self.self_attention.visit_named_mut(&join(&list, "0"), "SelfAttention", visitor);
        if let Some(cross) = &mut self.cross_attention {
            cross.visit_named_mut(&join(&list, "1"), "EncDecAttention", visitor);
        }
        self.feed_forward.visit_mut(&join(&list, last), visitor);
    }
}

impl T5Block {
    fn new(config: &T5Config, is_decoder: bool, first: bool) -> Self {
        let mask = if is_decoder { ops::AttentionMask::Causal } else { ops::AttentionMask::Full };
        Self {
            self_attention: T5AttentionLayer::new(config, mask, first),
            cross_attention: is_decoder
                .then(|| T5AttentionLayer::new(config, ops::AttentionMask::Full, false)),
            feed_forward: T5FeedForwardLayer {
                dense: T5Dense::new(config),
                layer_norm: RmsNorm::new(config.d_model, config.layer_norm_epsilon),
                dropout: config.dropout_rate,
            },
        }
    }

    fn last(&self) -> &'static str {
        if self.cross_attention.is_some() { "2" } else { "1" }
    }

    fn forward(
        &self,
        tape: &mut Tape,
        x: &Var,
        bias: Option<&ops::RelativeBias<'_>>,
        encoded: Option<&Var>,
        cache: Option<(&Cache, usize)>,
    ) -> Result<Var> {
        let mut hidden = self.self_attention.forward_self(tape, x, bias, cache)?;
        if let Some((cross, encoded)) = self.cross_attention.as_ref().zip(encoded) {
            hidden = cross.forward_cross(tape, &hidden, encoded, cache)?;
        }
        self.feed_forward.forward(tape, &hidden)
    }
}

/// Attention after a norm, added to what it read.
#[derive(Debug)]
pub struct T5AttentionLayer {
    attention: T5Attention,
    layer_norm: RmsNorm,
    dropout: f32,
}

impl T5AttentionLayer {
    fn new(config: &T5Config, mask: ops::AttentionMask, relative: bool) -> Self {
        let (width, heads, dim) = (config.d_model, config.num_heads, config.d_kv);
        let inward = || Linear::new(width, heads * dim, false);
        let table = || Embedding::new(config.relative_attention_num_buckets, heads).not_looked_up();
        Self {
            attention: T5Attention {
                q: inward(),
                k: inward(),
                v: inward(),
                o: Linear::new(heads * dim, width, false),
                relative_attention_bias: relative.then(table),
                // T5 does not divide scores by √head_dim.
                attention: ops::Attention {
                    heads,
                    kv_heads: heads,
                    head_dim: dim,
                    scale: 1.0,
                    dropout: config.dropout_rate,
                    mask,
                },
            },
            layer_norm: RmsNorm::new(width, config.layer_norm_epsilon),
            dropout: config.dropout_rate,
        }
    }

    fn visit_named<'a>(&'a self, path: &str, name: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.enter(path, "T5AttentionLayer");
        self.attention.visit(&join(path, name), visitor);
        self.layer_norm.visit(&join(path, "layer_norm"), visitor);
        visitor.step(&join(path, "dropout"));
        visitor.leave();
    }

    fn visit_named_mut(&mut self, path: &str, name: &str, visitor: &mut dyn VisitorMut) {
        self.attention.visit_mut(&join(path, name), visitor);
        self.layer_norm.visit_mut(&join(path, "layer_norm"), visitor);
    }

    fn forward_self(
        &self,
        tape: &mut Tape,
        x: &Var,
        bias: Option<&ops::RelativeBias<'_>>,
        cache: Option<(&Cache, usize)>,
    ) -> Result<Var> {
        let T5Attention { q, k, v, o, attention, .. } = &self.attention;
        let normed = self.layer_norm.forward(tape, x)?;
        let qkv = Linear::forward_together(&[q, k, v], tape, &normed)?;
        let context = match cache {
            Some((cache, layer)) => {
                ops::cached_attention(tape, &qkv, attention, bias, &mut cache.layer(layer))?
            }
            None => ops::attention(tape, &qkv, attention, bias)?,
        };
        let attended = o.forward(tape, &context)?;
        ops::add(tape, &attended, self.dropout, x)
    }

    fn forward_cross(
        &self,
        tape: &mut Tape,
        x: &Var,
        encoded: &Var,
        cache: Option<(&Cache, usize)>,
    ) -> Result<Var> {
        let T5Attention { q, k, v, o, attention, .. } = &self.attention;
        let normed = self.layer_norm.forward(tape, x)?;
        let queries = q.forward(tape, &normed)?;
        let kept = cache.and_then(|(cache, layer)| cache.source(layer).clone());
        let kv = match kept {
            Some(kv) => kv,
            None => {
                let kv = Linear::forward_together(&[k, v], tape, encoded)?;
                if let Some((cache, layer)) = cache {
                    *cache.source(layer) = Some(kv.clone());
                }
                kv
            }
        };
        let context = ops::cross_attention(tape, &queries, &kv, attention)?;
        let attended = o.forward(tape, &context)?;
        ops::add(tape, &attended, self.dropout, x)
    }
}

/// The projections of attention, and in a stack's first block the table of relative positions.
#[derive(Debug)]
pub struct T5Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    relative_attention_bias: Option<Embedding>,
    attention: ops::Attention,
}

module!(T5Attention {
    "q" => q, "k" => k, "v" => v, "o" => o, "relative_attention_bias" => relative_attention_bias
});

/// The feed-forward network after a norm, added to what it read.
#[derive(Debug)]
pub struct T5FeedForwardLayer {
    dense: T5Dense,
    layer_norm: RmsNorm,
    dropout: f32,
}

module!(T5FeedForwardLayer { "DenseReluDense" => dense, "layer_norm" => layer_norm; "dropout" });

impl T5FeedForwardLayer {
    fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let normed = self.layer_norm.forward(tape, x)?;
        let inner = self.dense.forward(tape, &normed)?;
        ops::add(tape, &inner, self.dropout, x)
    }
}

/// `wo(activation(wi·x))`, or `wo(activation(wi_0·x) · wi_1·x)`.
#[derive(Debug)]
pub struct T5Dense {
    wi: Option<Linear>,
    wi_0: Option<Linear>,
    wi_1: Option<Linear>,
    wo: Linear,
    activation: ops::Activation,
    dropout: f32,
}

module!(T5Dense { "wi" => wi, "wi_0" => wi_0, "wi_1" => wi_1, "wo" => wo; "dropout", "act" });

impl T5Dense {
    fn new(config: &T5Config) -> Self {
        let inward = || Linear::new(config.d_model, config.d_ff, false);
        Self {
            wi: (!config.gated).then(inward),
            wi_0: config.gated.then(inward),
            wi_1: config.gated.then(inward),
            wo: Linear::new(config.d_ff, config.d_model, false),
            activation: config.activation,
            dropout: config.dropout_rate,
        }
    }

    fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let inner = match (&self.wi, &self.wi_0, &self.wi_1) {
            (Some(wi), _, _) => {
                let inner = wi.forward(tape, x)?;
                ops::activation(tape, &inner, self.activation)?
            }
            (None, Some(gate), Some(up)) => {
                let both = Linear::forward_together(&[gate, up], tape, x)?;
                ops::gated(tape, &both, self.activation)?
            }
            _ => x.clone(),
        };
        let inner = ops::dropout(tape, &inner, self.dropout)?;
        self.wo.forward(tape, &inner)
    }
}
