//! DistilBERT (Sanh et al., arXiv 1910.01108), as Transformers' `DistilBertForSequenceClassification` and its siblings.

use super::encoder::{Body, Encoder, EncoderHead};
use super::layers::{self, EncoderLayer};
use super::{DistilBertConfig, HeadSpec, ModelInfo, Tokens};
use crate::Result;
use crate::module;
use crate::nn::{Embedding, LayerNorm, Linear};
use crate::tape::{Tape, Var, ops};

/// What Transformers adds to the variance in every norm.
const LAYER_NORM_EPS: f32 = 1e-12;

/// The model's shape, without values.
pub fn new(config: &DistilBertConfig, head: HeadSpec) -> Encoder {
    let width = config.dim;
    let layers =
        EncoderHead::of(head, width, LAYER_NORM_EPS, [config.dropout, config.qa_dropout], |labels| {
            EncoderHead::TwoLayers {
                pre_classifier: Linear::new(width, width, true),
                classifier: Linear::new(width, labels, true),
                dropout: config.seq_classif_dropout,
            }
        });
    let info = ModelInfo {
        architecture: head.class("DistilBert"),
        kind: head.kind,
        base_prefix: "distilbert",
        head: layers.modules(),
        default_targets: &["q_lin", "v_lin"],
        embeddings: &["word_embeddings", "position_embeddings"],
        layer_norms: &["LayerNorm", "sa_layer_norm", "output_layer_norm"],
        num_labels: head.num_labels,
        vocab_size: config.vocab_size,
        max_length: config.max_position_embeddings,
        pad_token_id: Some(config.pad_token_id),
        initializer_range: config.initializer_range,
        ..ModelInfo::without_head()
    };
    Encoder::new(Body::DistilBert(DistilBertModel::new(config)), layers, info)
}

/// Embeddings and layers.
#[derive(Debug)]
pub struct DistilBertModel {
    embeddings: DistilBertEmbeddings,
    transformer: DistilBertTransformer,
}

module!(DistilBertModel { "embeddings" => embeddings, "transformer" => transformer });

impl DistilBertModel {
    fn new(config: &DistilBertConfig) -> Self {
        let width = config.dim;
        let norm = || LayerNorm::new(width, LAYER_NORM_EPS);
        let layer = (0..config.n_layers).map(|_| DistilBertLayer::new(config)).collect();
        Self {
            embeddings: DistilBertEmbeddings {
                word_embeddings: Embedding::new(config.vocab_size, width)
                    .with_padding_id(config.pad_token_id),
                position_embeddings: Embedding::new(config.max_position_embeddings, width),
                layer_norm: norm(),
                dropout: config.dropout,
            },
            transformer: DistilBertTransformer { layer },
        }
    }

    /// The last hidden row of each token: `[tokens, D]`.
    ///
    /// # Errors
    /// If an id is outside its table, or a parameter has no value.
    pub fn forward<'m>(&'m self, tape: &mut Tape<'m>, text: &Tokens<'_>) -> Result<Var> {
        let hidden = self.embeddings.forward(tape, text)?;
        layers::each_token(&self.transformer.layer, tape, hidden)
    }

    /// The last hidden row of each first token, f32: `[sequences, D]`.
    ///
    /// # Errors
    /// As [`DistilBertModel::forward`]; if a sequence is empty.
    pub fn forward_first<'m>(&'m self, tape: &mut Tape<'m>, text: &Tokens<'_>) -> Result<Var> {
        let hidden = self.embeddings.forward(tape, text)?;
        layers::first_tokens(&self.transformer.layer, tape, hidden)
    }
}

/// The sum of word and position rows, normalised.
#[derive(Debug)]
pub struct DistilBertEmbeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    layer_norm: LayerNorm,
    dropout: f32,
}

module!(DistilBertEmbeddings {
    "word_embeddings" => word_embeddings,
    "position_embeddings" => position_embeddings,
    "LayerNorm" => layer_norm;
    "dropout"
});

impl DistilBertEmbeddings {
    fn forward(&self, tape: &mut Tape, text: &Tokens<'_>) -> Result<Var> {
        let lookups =
            [self.word_embeddings.lookup(text.ids), self.position_embeddings.lookup(text.positions)];
        let sum = ops::embedding(tape, &lookups, &text.layout)?;
        let normed = self.layer_norm.forward(tape, &sum)?;
        ops::dropout(tape, &normed, self.dropout)
    }
}

/// A stack of layers.
#[derive(Debug)]
pub struct DistilBertTransformer {
    layer: Vec<DistilBertLayer>,
}

module!(DistilBertTransformer { "layer" => layer });

/// Attention, then a feed-forward network, each with a residual and a norm after it.
#[derive(Debug)]
pub struct DistilBertLayer {
    attention: DistilBertAttention,
    sa_layer_norm: LayerNorm,
    ffn: DistilBertFfn,
    output_layer_norm: LayerNorm,
}

module!(DistilBertLayer {
    "attention" => attention,
    "sa_layer_norm" => sa_layer_norm,
    "ffn" => ffn,
    "output_layer_norm" => output_layer_norm,
});

impl DistilBertLayer {
    fn new(config: &DistilBertConfig) -> Self {
        let width = config.dim;
        let linear = || Linear::new(width, width, true);
        Self {
            attention: DistilBertAttention {
                q_lin: linear(),
                k_lin: linear(),
                v_lin: linear(),
                out_lin: linear(),
                attention: ops::Attention::encoder(
                    config.n_heads,
                    width / config.n_heads,
                    config.attention_dropout,
                ),
            },
            sa_layer_norm: LayerNorm::new(width, LAYER_NORM_EPS),
            ffn: DistilBertFfn {
                lin1: Linear::new(width, config.hidden_dim, true),
                lin2: Linear::new(config.hidden_dim, width, true),
                activation: config.activation,
                dropout: config.dropout,
            },
            output_layer_norm: LayerNorm::new(width, LAYER_NORM_EPS),
        }
    }
}

impl EncoderLayer for DistilBertLayer {
    fn attend(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        self.attention.forward(tape, x)
    }

    fn after_attention(&self, tape: &mut Tape, context: &Var, residual: &Var) -> Result<Var> {
        let attended = self.attention.out_lin.forward(tape, context)?;
        let attended = self.sa_layer_norm.forward_residual(tape, &attended, 0.0, residual)?;
        let inner = self.ffn.forward(tape, &attended)?;
        self.output_layer_norm.forward_residual(tape, &inner, self.ffn.dropout, &attended)
    }
}

/// Queries, keys and values, the attention over them, and the projection after it.
#[derive(Debug)]
pub struct DistilBertAttention {
    q_lin: Linear,
    k_lin: Linear,
    v_lin: Linear,
    out_lin: Linear,
    attention: ops::Attention,
}

module!(DistilBertAttention {
    "q_lin" => q_lin, "k_lin" => k_lin, "v_lin" => v_lin, "out_lin" => out_lin;
    "dropout"
});

impl DistilBertAttention {
    fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let qkv = Linear::forward_together(&[&self.q_lin, &self.k_lin, &self.v_lin], tape, x)?;
        ops::attention(tape, &qkv, &self.attention, None)
    }
}

/// The feed-forward network, without the dropout after it.
#[derive(Debug)]
pub struct DistilBertFfn {
    lin1: Linear,
    lin2: Linear,
    activation: ops::Activation,
    dropout: f32,
}

module!(DistilBertFfn { "lin1" => lin1, "lin2" => lin2; "dropout", "activation" });

impl DistilBertFfn {
    fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let inner = self.lin1.forward(tape, x)?;
        let inner = ops::activation(tape, &inner, self.activation)?;
        self.lin2.forward(tape, &inner)
    }
}
