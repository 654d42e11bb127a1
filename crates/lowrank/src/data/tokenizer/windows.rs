//! Pairs whose second text is cut into overlapping windows.

use std::ops::Range;

use tokenizers::{PostProcessorWrapper, TruncationParams, TruncationStrategy, truncate_encodings};

use super::{Tokenizer, refused};
use crate::{Error, Result};

/// Makes windows: the whole first text with as much of the second as there is room for, again and again.
///
/// # Source
/// Hugging Face's `truncation="only_second"` with `stride`, `return_overflowing_tokens` and `return_offsets_mapping`.
#[derive(Debug)]
pub struct WindowEncoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The same without its post-processor, which would trim a text's offsets once more for each window.
    bare: tokenizers::Tokenizer,
    /// Tokens of text in a window.
    room: usize,
    stride: usize,
}

/// One text, tokenised to become a part of windows.
#[derive(Debug, Clone)]
pub struct EncodedPart(tokenizers::Encoding);

/// A window's tokens, and where those of the second text come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedWindow {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token types, 1 in the second text where the tokeniser tells them apart.
    pub type_ids: Vec<u32>,
    /// The place of the first special token.
    pub cls: usize,
    /// The places of the second text's tokens.
    pub second: Range<usize>,
    /// For each of these, its begin and end in the second text, in code points.
    pub spans: Vec<[u32; 2]>,
}

impl<'a> WindowEncoder<'a> {
    /// Windows of at most `max_length` tokens, of which consecutive ones share `stride` tokens of the second text.
    ///
    /// # Errors
    /// [`Error::Setting`] if windows of this length could not move on.
    pub fn new(tokenizer: &'a Tokenizer, max_length: usize, stride: usize) -> Result<Self> {
        let special = tokenizer.tokens_around(true);
        let room = max_length.saturating_sub(special);
        if room <= stride {
            return Err(Error::setting(
                "data.stride",
                format!(
                    "{stride} tokens shared by windows of max_length {max_length}, {special} of them special, \
                     leave none to move on by"
                ),
            ));
        }
        let mut bare = tokenizer.inner.clone();
        bare.with_post_processor(None::<PostProcessorWrapper>);
        Ok(Self { tokenizer, bare, room, stride })
    }

    /// Tokenises one text without special tokens.
    ///
    /// # Errors
    /// The tokeniser cannot express it.
    pub fn part(&self, text: &str) -> Result<EncodedPart> {
        self.bare.encode_char_offsets(text, false).map(EncodedPart).map_err(refused)
    }

    /// The windows of a pair; none where the first text leaves no room for windows that move on.
    ///
    /// # Errors
    /// The tokeniser's post-processor fails.
    pub fn windows(&self, first: &EncodedPart, second: &EncodedPart) -> Result<Option<Vec<EncodedWindow>>> {
        let (first, mut second) = (first.0.clone(), second.0.clone());
        let room = self.room.saturating_sub(first.len());
        // The library's own cut panics on windows that cannot move on.
        if second.len() > room && room <= self.stride {
            return Ok(None);
        }
        second.set_type_ids(vec![1; second.len()]);
        // Not as a setting of the tokeniser: it would stop to tokenise the second text after one window.
        let params = TruncationParams {
            direction: self.tokenizer.direction,
            max_length: self.room,
            strategy: TruncationStrategy::OnlySecond,
            stride: self.stride,
        };
        let (first, second) = truncate_encodings(first, Some(second), &params).map_err(refused)?;
        let mut encoding = self.tokenizer.inner.post_process(first, second, true).map_err(refused)?;
        let others = encoding.take_overflowing();
        Ok(Some(std::iter::once(encoding).chain(others).map(EncodedWindow::from).collect()))
    }

    /// The most tokens that the first text of a pair with a long second one can have.
    pub fn longest_first(&self) -> usize {
        self.room - self.stride - 1
    }
}

impl EncodedPart {
    /// How many tokens it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<tokenizers::Encoding> for EncodedWindow {
    fn from(encoding: tokenizers::Encoding) -> Self {
        let is_second: Vec<bool> =
            encoding.get_sequence_ids().into_iter().map(|sequence| sequence == Some(1)).collect();
        let begin = is_second.iter().position(|&second| second).unwrap_or(0);
        let end = is_second.iter().rposition(|&second| second).map_or(begin, |last| last + 1);
        let narrow = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        let spans = encoding.get_offsets()[begin..end].iter();
        Self {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            cls: encoding.get_special_tokens_mask().iter().position(|&special| special == 1).unwrap_or(0),
            second: begin..end,
            spans: spans.map(|&(from, to)| [narrow(from), narrow(to)]).collect(),
        }
    }
}
