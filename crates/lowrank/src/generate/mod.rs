//! Text from a language model: greedy, sampled, or by beam search.

mod beams;
mod ends;
mod sample;
mod settings;
mod writer;

pub use ends::{GENERATION_CONFIG, end_tokens, sampling_note};
pub use settings::{EarlyStopping, GenerationSettings};

use self::writer::Writer;
use crate::models::Model;
use crate::tape::AdapterId;
use crate::{Compute, Error, Result};

/// What is written to.
#[derive(Clone, Copy)]
pub struct Author<'a> {
    /// The model, with a head on its vocabulary.
    pub model: &'a dyn Model,
    /// The type that it computes in.
    pub compute: Compute,
    /// The adapter that it writes under.
    pub adapter: Option<AdapterId>,
}

/// Writes on from each prompt, or of an encoder-decoder an answer to it, and returns the new tokens of each, the one that
/// ends it included. Each new token is shown to `watch` with the number of its prompt; where `watch` returns false that
/// prompt's text ends there. Beam search, whose tokens are certain only at its end, asks for each step instead, without
/// a token: where `watch` returns false the best texts so far are the result.
///
/// A prompt gives the same alone and beside others, but under [`RopeKind::Dynamic`](crate::models::RopeKind::Dynamic)
/// once one of them is longer than the model was made for. A text ends, too, where the model has no more positions:
/// those of its table, if it has one.
///
/// # Errors
/// If the model writes no text, a prompt is empty or beyond the model's positions, or a setting is out of range; if
/// logits are not finite; or as [`Model::forward`].
///
/// # Source
/// Transformers' `generate`: greedy and beam search give its tokens.
pub fn generate(
    author: Author<'_>,
    prompts: &[Vec<u32>],
    settings: &GenerationSettings,
    watch: &mut dyn FnMut(usize, Option<u32>) -> bool,
) -> Result<Vec<Vec<u32>>> {
    settings.check()?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let positions = author.model.info().positions();
    if longest >= positions && author.model.info().decoder_start_token_id.is_none() {
        let reason = format!(
            "it has {longest} tokens, which leaves none of the model's {positions} positions; shorten it"
        );
        return Err(Error::setting("prompt", reason));
    }
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    if settings.num_beams > 1 {
        let writer = Writer::new(author, prompts, settings.num_beams)?;
        return beams::search(writer, prompts.len(), settings, &mut || watch(0, None));
    }
    let writer = Writer::new(author, prompts, 1)?;
    sample::write(writer, prompts.len(), settings, watch)
}
