//! Model architectures, one a file; `config.json` to a model, weights into it.

pub mod bert;
mod cache;
mod config;
pub mod distilbert;
pub mod eight_bits;
pub mod encoder;
pub mod gpt2;
mod head;
mod info;
mod initialise;
mod inputs;
mod keys;
mod layers;
pub mod llama;
mod lm;
mod load;
pub mod mixture;
mod placement;
pub mod roberta;
pub mod t5;
mod ties;
pub mod vit;

use std::path::Path;

pub use cache::Cache;
pub(crate) use cache::select_sequences;
pub(crate) use config::MOST_EXPERTS;
pub use config::{
    Architecture, DecoderConfig, DistilBertConfig, EncoderConfig, Gpt2Config, MODEL_TYPES, MixtureConfig,
    ModelConfig, Rope, RopeKind, T5Config, VitConfig,
};
pub use head::{Head, HeadSpec, HeadStyle};
pub use info::{ExpertNames, ImageShape, ModelInfo};
pub(crate) use initialise::is_inside;
pub use initialise::{initialise, initialise_head, initialise_int8};
pub use inputs::{Images, Inputs, Source, Tokens};
pub(crate) use keys::{Keys, TensorRows, layers_of_expert, written_as};
pub use load::{LoadReport, load, load_as};
pub(crate) use load::{Quantizable, join_rows, keys_of, not_finite, parts_of, quantizable_weights};
pub(crate) use placement::multiply_in_int8;
pub use placement::{LoadIn, MEMORY, Needs, Operands, Placement, planned_memory, quantizable};

use crate::hub::MODEL_CONFIG;
use crate::nn::{Module, for_each_parameter};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

/// A model that turns sequences or images into logits.
pub trait Model: Module + Send + Sync {
    /// What there is to know about the architecture.
    fn info(&self) -> &ModelInfo;

    /// The same, for what only the weights can tell.
    fn info_mut(&mut self) -> &mut ModelInfo;

    /// The logits, f32 where there are few: `[sequences, num_labels]` of a head on sequences or images, and of a head
    /// on tokens `[tokens, num_labels]`, or as many as [`Inputs::rows`] names.
    ///
    /// # Errors
    /// If the inputs are of another kind than the model reads, an id is outside its table, a sequence is empty, or a
    /// parameter has no value.
    fn forward<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var>;

    /// What an encoder-decoder's encoder makes of its source, for [`Source::Encoded`].
    ///
    /// # Errors
    /// As [`Model::forward`]; if the model has no encoder of its own.
    fn encode<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        let _ = (tape, inputs);
        Err(Error::Usage(format!("{} has no encoder of its own", self.info().architecture)))
    }

    /// Room for the keys and values of generation, if the model generates.
    fn new_cache(&self, sequences: usize) -> Option<Cache> {
        let _ = sequences;
        None
    }
}

/// No model of today has more parameters; the bytes of so many, and the ranks of an adapter over them, can be counted.
pub(crate) const MOST_PARAMETERS: usize = 1 << 46;

/// The model that a configuration describes, without values, with a head for a task.
///
/// # Errors
/// [`Error::Usage`] if the architecture has no such head, or the sizes together make more than any machine counts.
pub fn from_config(config: &ModelConfig, head: HeadSpec) -> Result<Box<dyn Model>> {
    let refuse = || {
        let (kind, what) = (&config.model_type, head.kind.as_str());
        Err(Error::Usage(format!("a model of the type {kind:?} has no head for {what}")))
    };
    if head.style != HeadStyle::Default && !encoder::has_style(config, head.kind) {
        let kind = &config.model_type;
        return Err(Error::setting("head", format!("{kind:?} has only the default head for this task")));
    }
    let model: Box<dyn Model> = match (&config.architecture, head.kind) {
        (
            Architecture::Encoder(sizes),
            Head::SequenceClassification | Head::TokenClassification | Head::QuestionAnswering,
        ) => match sizes.model_type.as_str() {
            "bert" => Box::new(bert::new(sizes, head)),
            _ => Box::new(roberta::new(sizes, head)),
        },
        (
            Architecture::DistilBert(sizes),
            Head::SequenceClassification | Head::TokenClassification | Head::QuestionAnswering,
        ) => Box::new(distilbert::new(sizes, head)),
        (Architecture::Vit(sizes), Head::ImageClassification) => {
            Box::new(vit::VitForImageClassification::new(sizes, head.num_labels))
        }
        (Architecture::T5(sizes), Head::Seq2SeqLm) => Box::new(t5::T5ForConditionalGeneration::new(sizes)),
        (Architecture::Gpt2(sizes), Head::CausalLm | Head::SequenceClassification) => {
            Box::new(gpt2::new(sizes, head))
        }
        (Architecture::Decoder(sizes), Head::CausalLm | Head::SequenceClassification) => {
            Box::new(llama::new(sizes, head))
        }
        _ => return refuse(),
    };
    let mut all = 0usize;
    for_each_parameter(&*model, |_, parameter| {
        let sizes = parameter.shape();
        let elements = sizes.dims().iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        all = all.saturating_add(elements.unwrap_or(usize::MAX));
    });
    if all > MOST_PARAMETERS {
        let reason = format!("its sizes make a model of more than {MOST_PARAMETERS} parameters");
        return Err(Error::Usage(format!("{MODEL_CONFIG}: {reason}, one of them is wrong")));
    }
    Ok(model)
}

/// Reads the configuration in a model folder.
///
/// # Errors
/// As [`ModelConfig::read`].
pub fn read_config(folder: &Path) -> Result<ModelConfig> {
    ModelConfig::read(&folder.join(MODEL_CONFIG))
}
