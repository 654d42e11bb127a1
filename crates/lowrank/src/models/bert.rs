//! BERT (Devlin et al., arXiv 1810.04805), as Transformers' `BertForSequenceClassification` and its siblings.

use super::encoder::{Body, Encoder, EncoderHead};
use super::layers::{self, EncoderLayer};
use super::{EncoderConfig, Head, HeadSpec, HeadStyle, ModelInfo, Tokens};
use crate::Result;
use crate::module;
use crate::nn::{Embedding, LayerNorm, Linear};
use crate::tape::{Tape, Var, ops};

/// The model's shape, without values.
pub fn new(config: &EncoderConfig, head: HeadSpec) -> Encoder {
    let pooled = head.kind == Head::SequenceClassification && head.style == HeadStyle::Default;
    let (width, dropout) = (config.hidden_size, config.classifier_dropout);
    let layers = EncoderHead::of(head, width, config.layer_norm_eps, [dropout, 0.0], |labels| {
        let linear = Linear::new(width, labels, true);
        EncoderHead::Linear { name: "classifier", linear, dropout, dropout_is_module: true }
    });
    let info =
        ModelInfo { pooler: pooled.then_some("bert.pooler"), ..info(config, head, &layers, "Bert", "bert") };
    Encoder::new(Body::Bert(BertModel::new(config, pooled)), layers, info)
}

/// What BERT and RoBERTa have in common. `class` begins the name of the class in Transformers.
pub(super) fn info(
    config: &EncoderConfig,
    head: HeadSpec,
    layers: &EncoderHead,
    class: &str,
    base_prefix: &'static str,
) -> ModelInfo {
    ModelInfo {
        architecture: head.class(class),
        kind: head.kind,
        base_prefix,
        head: layers.modules(),
        default_targets: &["query", "value"],
        embeddings: &["word_embeddings", "position_embeddings", "token_type_embeddings"],
        layer_norms: &["LayerNorm"],
        num_labels: head.num_labels,
        vocab_size: config.vocab_size,
        type_vocab_size: config.type_vocab_size,
        max_length: config.max_length(),
        pad_token_id: Some(config.pad_token_id),
        positions_skip_padding: config.first_position() > 0,
        initializer_range: config.initializer_range,
        ..ModelInfo::without_head()
    }
}

/// Embeddings, encoder and, for those that use it, pooler.
#[derive(Debug)]
pub struct BertModel {
    embeddings: BertEmbeddings,
    encoder: BertEncoder,
    pooler: Option<BertPooler>,
}

module!(BertModel { "embeddings" => embeddings, "encoder" => encoder, "pooler" => pooler });

impl BertModel {
    /// The model's shape, without values.
    pub fn new(config: &EncoderConfig, pooler: bool) -> Self {
        let layer = (0..config.num_hidden_layers).map(|_| BertLayer::new(config)).collect();
        let dense = Linear::new(config.hidden_size, config.hidden_size, true);
        Self {
            embeddings: BertEmbeddings::new(config),
            encoder: BertEncoder { layer },
            pooler: pooler.then_some(BertPooler { dense }),
        }
    }

    /// The last hidden row of each token: `[tokens, D]`. `positions` are rows of the position table.
    ///
    /// # Errors
    /// If an id is outside its table, or a parameter has no value.
    pub fn forward<'m>(&'m self, tape: &mut Tape<'m>, text: &Tokens<'_>, positions: &[u32]) -> Result<Var> {
        let hidden = self.embeddings.forward(tape, text, positions)?;
        layers::each_token(&self.encoder.layer, tape, hidden)
    }

    /// The last hidden row of each first token, f32: `[sequences, D]`. `positions` are rows of the position table.
    ///
    /// # Errors
    /// If an id is outside its table, a sequence is empty, or a parameter has no value.
    pub fn forward_first<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        text: &Tokens<'_>,
        positions: &[u32],
    ) -> Result<Var> {
        let hidden = self.embeddings.forward(tape, text, positions)?;
        layers::first_tokens(&self.encoder.layer, tape, hidden)
    }

    /// `tanh(W·h + b)` of each first token: `[sequences, D]`; without a pooler the first tokens themselves.
    ///
    /// # Errors
    /// If a parameter has no value.
    pub fn pool(&self, tape: &mut Tape, first: &Var) -> Result<Var> {
        let Some(pooler) = &self.pooler else { return Ok(first.clone()) };
        let pooled = pooler.dense.forward(tape, first)?;
        ops::activation(tape, &pooled, ops::Activation::Tanh)
    }
}

/// The sum of word, position and segment rows, normalised.
#[derive(Debug)]
pub struct BertEmbeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    layer_norm: LayerNorm,
    dropout: f32,
}

module!(BertEmbeddings {
    "word_embeddings" => word_embeddings,
    "position_embeddings" => position_embeddings,
    "token_type_embeddings" => token_type_embeddings,
    "LayerNorm" => layer_norm;
    "dropout"
});

impl BertEmbeddings {
    fn new(config: &EncoderConfig) -> Self {
        let width = config.hidden_size;
        let positions = Embedding::new(config.max_position_embeddings, width);
        let pad = config.pad_token_id;
        Self {
            word_embeddings: Embedding::new(config.vocab_size, width).with_padding_id(pad),
            position_embeddings: match config.first_position() {
                0 => positions,
                _ => positions.with_padding_id(pad),
            },
            token_type_embeddings: Embedding::new(config.type_vocab_size, width),
            layer_norm: LayerNorm::new(width, config.layer_norm_eps),
            dropout: config.hidden_dropout_prob,
        }
    }

    fn forward(&self, tape: &mut Tape, text: &Tokens<'_>, positions: &[u32]) -> Result<Var> {
        let lookups = [
            self.word_embeddings.lookup(text.ids),
            self.position_embeddings.lookup(positions),
            self.token_type_embeddings.lookup(text.type_ids),
        ];
        let sum = ops::embedding(tape, &lookups, &text.layout)?;
        let normed = self.layer_norm.forward(tape, &sum)?;
        ops::dropout(tape, &normed, self.dropout)
    }
}

/// A stack of layers.
#[derive(Debug)]
pub struct BertEncoder {
    layer: Vec<BertLayer>,
}

module!(BertEncoder { "layer" => layer });

/// Attention, then a feed-forward network, each with a residual and a norm after it.
#[derive(Debug)]
pub struct BertLayer {
    attention: BertAttention,
    intermediate: BertIntermediate,
    output: BertOutput,
}

module!(BertLayer { "attention" => attention, "intermediate" => intermediate, "output" => output });

impl BertLayer {
    fn new(config: &EncoderConfig) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        Self {
            attention: BertAttention {
                self_attention: BertSelfAttention::new(config),
                output: BertOutput::new(config, width),
            },
            intermediate: BertIntermediate {
                dense: Linear::new(width, inner, true),
                activation: config.hidden_act,
            },
            output: BertOutput::new(config, inner),
        }
    }
}

impl EncoderLayer for BertLayer {
    fn attend(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        self.attention.self_attention.forward(tape, x)
    }

    fn after_attention(&self, tape: &mut Tape, context: &Var, residual: &Var) -> Result<Var> {
        let attended = self.attention.output.forward(tape, context, residual)?;
        let inner = self.intermediate.forward(tape, &attended)?;
        self.output.forward(tape, &inner, &attended)
    }
}

/// Self-attention and its output projection.
#[derive(Debug)]
pub struct BertAttention {
    self_attention: BertSelfAttention,
    output: BertOutput,
}

module!(BertAttention { "self" => self_attention, "output" => output });

/// Queries, keys and values, and the attention over them.
#[derive(Debug)]
pub struct BertSelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    attention: ops::Attention,
}

module!(BertSelfAttention { "query" => query, "key" => key, "value" => value; "dropout" });

impl BertSelfAttention {
    fn new(config: &EncoderConfig) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true);
        let dropout = config.attention_probs_dropout_prob;
        let attention = ops::Attention::encoder(config.num_attention_heads, config.head_dim(), dropout);
        Self { query: linear(), key: linear(), value: linear(), attention }
    }

    fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let qkv = Linear::forward_together(&[&self.query, &self.key, &self.value], tape, x)?;
        ops::attention(tape, &qkv, &self.attention, None)
    }
}

/// The feed-forward network's first half.
#[derive(Debug)]
pub struct BertIntermediate {
    dense: Linear,
    activation: ops::Activation,
}

module!(BertIntermediate { "dense" => dense; "intermediate_act_fn" });

impl BertIntermediate {
    fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let inner = self.dense.forward(tape, x)?;
        ops::activation(tape, &inner, self.activation)
    }
}

/// A projection back to the hidden width, with residual and norm: attention's and the feed-forward network's.
#[derive(Debug)]
pub struct BertOutput {
    dense: Linear,
    layer_norm: LayerNorm,
    dropout: f32,
}

module!(BertOutput { "dense" => dense, "LayerNorm" => layer_norm; "dropout" });

impl BertOutput {
    fn new(config: &EncoderConfig, inputs: usize) -> Self {
        Self {
            dense: Linear::new(inputs, config.hidden_size, true),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps),
            dropout: config.hidden_dropout_prob,
        }
    }

    fn forward(&self, tape: &mut Tape, x: &Var, residual: &Var) -> Result<Var> {
        let projected = self.dense.forward(tape, x)?;
        self.layer_norm.forward_residual(tape, &projected, self.dropout, residual)
    }
}

/// The projection of the first token.
#[derive(Debug)]
pub struct BertPooler {
    dense: Linear,
}

module!(BertPooler { "dense" => dense; "activation" });
