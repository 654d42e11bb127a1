//! A language model ready to write.

use std::time::Instant;

use lowrank_kernels::{Compute, parallel};
use serde::Serialize;

use super::adapted_model::{AdaptedModel, LoadOptions};
use super::writing::without_end;
use crate::data::Tokenizer;
use crate::data::chat::{ChatTemplate, Message};
use crate::data::language::{ended, prompt_ids};
use crate::data::stream::{CONTEXT, Detokenizer, StopWords, continuation};
use crate::data::tasks::language::chat_template;
use crate::generate::{Author, GenerationSettings, generate, sampling_note};
use crate::hub::{self, RepositoryKind};
use crate::models::{self, LoadIn};
use crate::{Error, Result};

/// A language model with its tokeniser and, where it has one, its chat template.
pub struct TextGenerator {
    adapted: AdaptedModel,
    tokenizer: Tokenizer,
    ends: Vec<u32>,
}

/// Takes a piece of text, and says whether more is wanted.
pub type Show<'a> = dyn FnMut(&str) -> bool + Send + 'a;

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Generated {
    /// The text, up to a stop word or the token that ends it.
    pub text: String,
    /// The tokens that were written, the one that ends the text included.
    pub tokens: usize,
    /// How long that took, reading the prompt included.
    pub seconds: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Whether it ends where the model has no more positions, before its own end and the most tokens that were wanted.
    pub cut: bool,
}

impl TextGenerator {
    /// Loads a model and its adapter, from folders or from the Hub.
    ///
    /// # Errors
    /// As [`AdaptedModel::load`]; if the model writes no text.
    pub fn load(
        model: &str,
        adapter: Option<&str>,
        compute: Option<Compute>,
        load_in: LoadIn,
    ) -> Result<Self> {
        let folder = hub::resolve(model, RepositoryKind::Configuration)?.path;
        let config = models::read_config(&folder)?;
        let head = config.usual_head();
        if !head.is_language_model() {
            let reason = format!(
                "it is of the type {:?}, which writes no text; gpt2, llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe and t5 do",
                config.model_type
            );
            return Err(Error::file(model, reason));
        }
        let options = LoadOptions { compute, load_in, head: Some(head), ..LoadOptions::default() };
        let adapted = AdaptedModel::load(model, adapter, options)?;
        if let Some(missing) = adapted.report().missing_head.first() {
            let reason = format!("it has no weights to write with ({missing} is missing)");
            return Err(Error::file(model, reason));
        }
        let tokenizer = adapted.tokenizer()?;
        let ends = adapted.end_tokens()?;
        Ok(Self { adapted, tokenizer, ends })
    }

    /// What there is to say of the loaded model, a sentence each: as [`AdaptedModel::notes`].
    pub fn notes(&self) -> Vec<String> {
        self.adapted.notes()
    }

    /// As [`sampling_note`].
    ///
    /// # Errors
    /// As [`sampling_note`].
    pub fn sampling_note(&self) -> Result<Option<String>> {
        sampling_note(self.adapted.folder())
    }

    /// The model's chat template.
    ///
    /// # Errors
    /// If it has none, or one that is wrong.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        chat_template(self.adapted.folder())
    }

    /// The tokens of a text that is to be gone on from, or of an encoder-decoder to be answered.
    ///
    /// # Errors
    /// If there are none, or the tokeniser refuses the text.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        if self.adapted.model().info().decoder_start_token_id.is_some() {
            // An encoder reads its text with the end token.
            return Ok(ended(&self.tokenizer, text, usize::MAX)?.0);
        }
        let ids = prompt_ids(&self.tokenizer, text)?;
        if !ids.is_empty() {
            return Ok(ids);
        }
        // What stands before a text in training: the token that begins it, or the one that ended the text before.
        let begins = self.tokenizer.bos_id().or(self.tokenizer.eos_id());
        begins.map(|id| vec![id]).ok_or_else(|| {
            Error::setting("prompt", "it is empty, and the model has no token that a text begins with")
        })
    }

    /// The tokens of a conversation that is to be answered.
    ///
    /// # Errors
    /// If the template refuses the conversation, or the tokeniser its text.
    pub fn conversation(&self, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<u32>> {
        let text = template.render(messages, None, true)?;
        Ok(self.tokenizer.encode_with_offsets(&text, false)?.ids)
    }

    /// The tokens that end a turn of a conversation: those of the model, and the one that its template writes after an
    /// answer, which a base model's own configuration does not name.
    pub fn turn_ends(&self, template: &ChatTemplate) -> Vec<u32> {
        let mut ends = self.ends.clone();
        let special = self.tokenizer.special_tokens();
        ends.extend(template.turn_end(&special).and_then(|token| self.tokenizer.id(token)));
        ends.dedup();
        ends
    }

    /// Writes on from a prompt, up to one of the words `stop`. The text is shown piece by piece as it grows, beam search
    /// apart, which shows an empty piece for each step and at its end the whole; where `show` returns false the text
    /// ends. The tokens that end it are those of the settings, or where they name none the model's own.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn generate(
        &self,
        prompt: &[u32],
        settings: &GenerationSettings,
        stop: &[String],
        show: &mut Show<'_>,
    ) -> Result<Generated> {
        let start = Instant::now();
        let mut settings = settings.clone();
        if settings.eos_token_ids.is_empty() {
            settings.eos_token_ids = self.ends.clone();
        }
        let info = self.adapted.model().info();
        let before = if info.decoder_start_token_id.is_some() { &[][..] } else { prompt };
        let mut page = Page::new(&self.tokenizer, before, stop)?;
        let (adapter, compute) = (self.adapted.first_adapter(), self.adapted.compute());
        let author = Author { model: self.adapted.model(), compute, adapter };
        let mut failure = None;
        let mut wanted = true;
        let mut watch = |_: usize, token: Option<u32>| {
            wanted = match token {
                None => page.show("", show),
                Some(token) if settings.eos_token_ids.contains(&token) => return true,
                Some(token) => page.push(token, show).unwrap_or_else(|error| {
                    failure = Some(error);
                    false
                }),
            };
            wanted
        };
        let prompts = [prompt.to_vec()];
        let written = parallel::awake(|| generate(author, &prompts, &settings, &mut watch))?;
        if let Some(error) = failure {
            return Err(error);
        }
        let written = written.into_iter().next().unwrap_or_default();
        let tokens = written.len();
        let ended = written.last().is_none_or(|last| settings.eos_token_ids.contains(last));
        // The last token is read no more, and needs no position.
        let full = before.len() + tokens > info.positions();
        let cut = full && wanted && !ended && tokens < settings.max_new_tokens;
        if settings.num_beams > 1 {
            let written = without_end(written, &settings.eos_token_ids);
            let text = continuation(before, &written, |ids| self.tokenizer.decode(ids, true))?;
            page.show(&text, show);
        }
        let text = page.finish(show)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Generated { text, tokens, seconds, tokens_per_second: tokens as f64 / seconds.max(1e-9), cut })
    }
}

/// A text that grows, and what of it was shown.
struct Page<'a> {
    tokenizer: &'a Tokenizer,
    letters: Detokenizer,
    stop: StopWords,
    text: String,
}

impl<'a> Page<'a> {
    /// A page after the tokens `before`, which say whether a blank comes first.
    fn new(tokenizer: &'a Tokenizer, before: &[u32], stop: &[String]) -> Result<Self> {
        let mut letters = Detokenizer::default();
        for &id in &before[before.len().saturating_sub(CONTEXT)..] {
            letters.push(id, |ids| tokenizer.decode(ids, true))?;
        }
        letters.finish(|ids| tokenizer.decode(ids, true))?;
        Ok(Self { tokenizer, letters, stop: StopWords::new(stop.iter().cloned()), text: String::new() })
    }

    /// Takes a token, and says whether more are wanted.
    fn push(&mut self, token: u32, show: &mut Show<'_>) -> Result<bool> {
        let piece = self.letters.push(token, |ids| self.tokenizer.decode(ids, true))?;
        Ok(self.show(&piece, show))
    }

    fn show(&mut self, piece: &str, show: &mut Show<'_>) -> bool {
        let piece = self.stop.push(piece);
        self.text.push_str(&piece);
        // Asked even where there is nothing to show: the reader may have gone.
        show(&piece) && !self.stop.stopped()
    }

    /// Shows what was held back, and gives the whole text.
    fn finish(mut self, show: &mut Show<'_>) -> Result<String> {
        let rest = self.letters.finish(|ids| self.tokenizer.decode(ids, true))?;
        self.show(&rest, show);
        let rest = self.stop.finish();
        self.text.push_str(&rest);
        show(&rest);
        Ok(self.text)
    }
}
