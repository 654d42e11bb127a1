//! Model architectures, one a file; `config.json` to a model, weights into it.

pub mod bert;
mod config;
mod initialise;
mod load;
pub mod roberta;

use std::path::Path;
use std::sync::Arc;

pub use config::EncoderConfig;
pub use initialise::{initialise, initialise_head};
pub use load::{LoadReport, load};

use crate::Result;
use crate::hub::MODEL_CONFIG;
use crate::nn::Module;
use crate::tape::{Layout, Tape, Var};

/// A ragged batch as a model reads it.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// Token ids, sequence after sequence.
    pub ids: &'a [u32],
    /// Each token's segment.
    pub type_ids: &'a [u32],
    /// Each token's position in its sequence, from 0; the model adds where its table begins.
    pub positions: &'a [u32],
    /// Where the sequences lie, and each one's adapter.
    pub layout: Arc<Layout>,
}

/// What the rest of the program needs to know of an architecture.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The class in Transformers.
    pub architecture: &'static str,
    /// The path of the bare model: the prefix that a bare checkpoint's keys lack.
    pub base_prefix: &'static str,
    /// The last layer of the head: its outputs are the logits.
    pub output: &'static str,
    /// The modules of the head, which is new for each task.
    pub head: Vec<&'static str>,
    /// The module before the head that checkpoints of some tasks lack. [`load`] makes it part of the head then.
    pub pooler: Option<&'static str>,
    /// The layers that LoRA adapts where the user names none.
    pub default_targets: &'static [&'static str],
    /// The modules that `train_embeddings` trains.
    pub embeddings: &'static [&'static str],
    /// The modules that `train_layer_norms` trains.
    pub layer_norms: &'static [&'static str],
    /// The width of the logits.
    pub num_labels: usize,
    /// Entries of the word table.
    pub vocab_size: usize,
    /// Entries of the segment table.
    pub type_vocab_size: usize,
    /// The longest sequence that has positions.
    pub max_length: usize,
    /// The padding token.
    pub pad_token_id: u32,
    /// Whether positions count the tokens that are not padding, rather than columns.
    pub positions_skip_padding: bool,
    /// The standard deviation of freshly drawn weights.
    pub initializer_range: f32,
}

impl ModelInfo {
    /// Facts of a model of one's own: no head to save, no usual targets, no vocabulary.
    pub fn without_head() -> Self {
        Self {
            architecture: "",
            base_prefix: "",
            output: "",
            head: Vec::new(),
            pooler: None,
            default_targets: &[],
            embeddings: &[],
            layer_norms: &[],
            num_labels: 0,
            vocab_size: 0,
            type_vocab_size: 0,
            max_length: 0,
            pad_token_id: 0,
            positions_skip_padding: false,
            initializer_range: 0.02,
        }
    }

    fn sequence_classifier(
        config: &EncoderConfig,
        architecture: &'static str,
        base_prefix: &'static str,
        num_labels: usize,
    ) -> Self {
        Self {
            architecture,
            base_prefix,
            output: if base_prefix == "bert" { "classifier" } else { "classifier.out_proj" },
            head: vec!["classifier"],
            pooler: (base_prefix == "bert").then_some("bert.pooler"),
            default_targets: &["query", "value"],
            embeddings: &["word_embeddings", "position_embeddings", "token_type_embeddings"],
            layer_norms: &["LayerNorm"],
            num_labels,
            vocab_size: config.vocab_size,
            type_vocab_size: config.type_vocab_size,
            max_length: config.max_length(),
            pad_token_id: config.pad_token_id,
            positions_skip_padding: config.first_position() > 0,
            initializer_range: config.initializer_range,
        }
    }
}

/// A model that turns sequences into logits.
pub trait Model: Module + Send + Sync {
    /// What there is to know about the architecture.
    fn info(&self) -> &ModelInfo;

    /// The same, for what only the weights can tell.
    fn info_mut(&mut self) -> &mut ModelInfo;

    /// The logits: `[sequences, num_labels]`.
    ///
    /// # Errors
    /// If an id is outside its table, a sequence is empty, or a parameter has no value.
    fn forward(&self, tape: &mut Tape, inputs: &Inputs<'_>) -> Result<Var>;
}

/// The model that a configuration describes, without values, for sequence classification with `num_labels` classes
/// (1: regression).
pub fn from_config(config: &EncoderConfig, num_labels: usize) -> Box<dyn Model> {
    match config.model_type.as_str() {
        "bert" => Box::new(bert::BertForSequenceClassification::new(config, num_labels)),
        _ => Box::new(roberta::RobertaForSequenceClassification::new(config, num_labels)),
    }
}

/// Reads the configuration in a model folder.
///
/// # Errors
/// As [`EncoderConfig::read`].
pub fn read_config(folder: &Path) -> Result<EncoderConfig> {
    EncoderConfig::read(&folder.join(MODEL_CONFIG))
}
