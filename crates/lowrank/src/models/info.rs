//! What the rest of the program needs to know of an architecture.

use super::head::Head;

/// Facts of a model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The class in Transformers.
    pub architecture: String,
    /// What it predicts.
    pub kind: Head,
    /// The path of the bare model: the prefix that a bare checkpoint's keys lack.
    pub base_prefix: &'static str,
    /// The modules of the head, which is new for each task.
    pub head: Vec<&'static str>,
    /// The layer before a language model's logits, which `all-linear` does not mean.
    pub output: Option<&'static str>,
    /// The table that the output layer shares where a checkpoint has no value for it.
    pub output_may_share: Option<&'static str>,
    /// The module before the head that checkpoints of some tasks lack. [`load`](super::load) makes it part of the head
    /// then.
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
    /// Entries of the segment table; 0: the model reads no segments.
    pub type_vocab_size: usize,
    /// The longest sequence that the model was made for.
    pub max_length: usize,
    /// Whether there is a table of positions, beyond which nothing can be computed.
    pub has_position_table: bool,
    /// Where attention counts the rows between two tokens (relative positions, sliding windows): the longest sequence in
    /// which that makes no difference. In a longer one, what is hidden must be at its ends.
    pub counts_rows_beyond: Option<usize>,
    /// The padding token.
    pub pad_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// What a decoder of answers starts from.
    pub decoder_start_token_id: Option<u32>,
    /// Whether positions count the tokens that are not padding, rather than columns.
    pub positions_skip_padding: bool,
    /// What the model sees, if it is images.
    pub image: Option<ImageShape>,
    /// The name in checkpoints, and in Transformers 4, of what Transformers 5 renamed.
    pub older_name: Option<fn(&str) -> String>,
    /// What the layers of each expert are called in checkpoints, if there are experts.
    pub experts: Option<ExpertNames>,
    /// The standard deviation of freshly drawn weights.
    pub initializer_range: f32,
}

/// The layers of an expert in a checkpoint, each a tensor below the expert's number. Transformers 5 joins them: the first
/// two, one below the other, and all experts behind each other, are `gate_up_proj`; the third of all are `down_proj`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertNames {
    /// What the activation is applied to.
    pub gate: &'static str,
    /// What that is multiplied by.
    pub up: &'static str,
    /// Back to the hidden width.
    pub down: &'static str,
    /// How many experts a layer has.
    pub count: usize,
    /// Whether PEFT takes these names, as targets, for the stacks; else they mean other layers of the same name alone.
    pub are_targets: bool,
}

impl ExpertNames {
    /// The stack that a layer of an expert is part of.
    pub fn stack_of(&self, layer: &str) -> Option<&'static str> {
        [GATE_UP, DOWN].into_iter().find(|stack| self.layers_of(stack).contains(&layer))
    }

    /// The layers of an expert whose rows, one below the other, are its part of a stack.
    pub fn layers_of(&self, stack: &str) -> Vec<&'static str> {
        match stack {
            GATE_UP => vec![self.gate, self.up],
            DOWN => vec![self.down],
            _ => Vec::new(),
        }
    }
}

/// The stack of what an expert's activation is applied to, and of what that is multiplied by.
const GATE_UP: &str = "gate_up_proj";
/// The stack of what leads back to the hidden width.
const DOWN: &str = "down_proj";

/// The images of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Colours.
    pub channels: usize,
    /// Height and width, in pixels.
    pub size: usize,
    /// Height and width of a patch, in pixels.
    pub patch: usize,
}

impl ImageShape {
    /// The rows that an image becomes: one for each patch, and one for the class.
    pub fn tokens(&self, height: usize, width: usize) -> usize {
        (height / self.patch.max(1)) * (width / self.patch.max(1)) + 1
    }
}

impl ModelInfo {
    /// Whether a head on sequences reads their first token, not their last.
    pub fn reads_first_token(&self) -> bool {
        !self.head.contains(&"score")
    }

    /// The most tokens of a sequence that the model can compute, were it made for so many or not.
    pub fn positions(&self) -> usize {
        if self.has_position_table { self.max_length } else { lowrank_kernels::attention::MOST_TOKENS }
    }

    /// Facts of a model of one's own: no head to save, no usual targets, no vocabulary.
    pub fn without_head() -> Self {
        Self {
            architecture: String::new(),
            kind: Head::SequenceClassification,
            base_prefix: "",
            head: Vec::new(),
            output: None,
            output_may_share: None,
            pooler: None,
            default_targets: &[],
            embeddings: &[],
            layer_norms: &[],
            num_labels: 0,
            vocab_size: 0,
            type_vocab_size: 0,
            max_length: 0,
            has_position_table: true,
            counts_rows_beyond: None,
            pad_token_id: None,
            eos_token_ids: Vec::new(),
            decoder_start_token_id: None,
            positions_skip_padding: false,
            image: None,
            older_name: None,
            experts: None,
            initializer_range: 0.02,
        }
    }
}
