//! Texts that are words already.

use std::borrow::Cow;

use tokenizers::truncate_encodings;
use tokenizers::{EncodeInput, InputSequence, PreTokenizerWrapper, TruncationParams, TruncationStrategy};

use super::{Tokenizer, refused};
use crate::{Error, Result};

/// What words become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedWords {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token types.
    pub type_ids: Vec<u32>,
    /// For each word that has a token, the place of its first one and that of the word.
    pub firsts: Vec<[u32; 2]>,
    /// Whether tokens were cut off.
    pub truncated: bool,
}

impl Tokenizer {
    /// Words with the special tokens around them, cut to `max_length` tokens in all.
    ///
    /// # Errors
    /// `max_length` leaves no room for the special tokens, or the tokeniser cannot express a word.
    ///
    /// # Source
    /// Hugging Face's `is_split_into_words=True` with truncation; a tokeniser of bytes has `add_prefix_space=True`, as
    /// `run_ner.py` loads it.
    pub fn encode_words(&self, words: &[String], max_length: usize) -> Result<EncodedWords> {
        let special = self.tokens_around(false);
        let Some(room) = max_length.checked_sub(special) else {
            return Err(Error::setting(
                "data.max_length",
                format!("{max_length} leaves no room for the {special} special tokens"),
            ));
        };
        let spaced = matches!(self.inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(_)));
        let words: Vec<Cow<'_, str>> = words.iter().map(|word| with_space(word, spaced)).collect();
        let input = EncodeInput::Single(InputSequence::PreTokenizedCow(Cow::Borrowed(&words)));
        let encoding = self.inner.encode(input, false).map_err(refused)?;
        let truncated = encoding.len() > room;
        let params = TruncationParams {
            direction: self.direction,
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (encoding, _) = truncate_encodings(encoding, None, &params).map_err(refused)?;
        let encoding = self.inner.post_process(encoding, None, true).map_err(refused)?;
        let mut firsts: Vec<[u32; 2]> = Vec::new();
        for (token, word) in (0u32..).zip(encoding.get_word_ids()) {
            if let Some(word) = word
                && firsts.last().is_none_or(|[_, last]| last != word)
            {
                firsts.push([token, *word]);
            }
        }
        Ok(EncodedWords {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            firsts,
            truncated,
        })
    }
}

fn with_space(word: &str, spaced: bool) -> Cow<'_, str> {
    if spaced && !word.is_empty() && !word.starts_with(char::is_whitespace) {
        Cow::Owned(format!(" {word}"))
    } else {
        Cow::Borrowed(word)
    }
}
