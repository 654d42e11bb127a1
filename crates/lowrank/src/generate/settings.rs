//! How text is written.

use crate::{Error, Result};

/// The settings of generation, under Transformers' names. The defaults are those of greedy search; what a model folder's
/// `generation_config.json` says of sampling is not read, see [`sampling_note`](super::sampling_note).
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationSettings {
    /// The most tokens to write.
    pub max_new_tokens: usize,
    /// What the logits are divided by before sampling; 0: always the likeliest token.
    pub temperature: f32,
    /// Sample among this many of the likeliest tokens; 0: among all.
    pub top_k: usize,
    /// Sample among the likeliest tokens whose probabilities add up to this.
    pub top_p: f32,
    /// Beams; 1: no beam search.
    pub num_beams: usize,
    /// Beam search divides a text's log-probability by this power of its length.
    pub length_penalty: f32,
    /// When beam search is content.
    pub early_stopping: EarlyStopping,
    /// What sampling comes from.
    pub seed: u64,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
}

/// When beam search ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best open text, at its length so far, is no better than the worst that is finished.
    #[default]
    Heuristic,
    /// When there are as many finished texts as beams.
    WhenFull,
    /// When no open text can become better, at any length.
    Never,
}

impl Default for GenerationSettings {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
            seed: 42,
            eos_token_ids: Vec::new(),
        }
    }
}

impl GenerationSettings {
    /// Checks that every setting is in its range.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::setting("temperature", format!("{} is below 0", self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::setting("top_p", format!("{} is not above 0 and at most 1", self.top_p)));
        }
        if self.num_beams == 0 {
            return Err(Error::setting("num_beams", "it is 0; it must be at least 1"));
        }
        if self.num_beams > 1 && self.temperature > 0.0 {
            return Err(Error::setting("num_beams", "beam search does not sample: leave temperature at 0"));
        }
        Ok(())
    }
}
