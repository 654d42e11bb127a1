//! Text to token ids, as Hugging Face's tokenisers do it.

mod ends;
mod files;
mod windows;
mod words;

use std::path::Path;

use tokenizers::{
    EncodeInput, PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};

use crate::{Error, Result};

pub(super) use windows::{EncodedWindow, WindowEncoder};
pub use words::EncodedWords;

/// A tokeniser read from a model folder.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pad_id: Option<u32>,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    direction: TruncationDirection,
}

/// What a text becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token types, 1 in the second text where the tokeniser tells them apart.
    pub type_ids: Vec<u32>,
    /// Whether tokens were cut off.
    pub truncated: bool,
}

/// What a text becomes, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Where each token begins and ends in the text, in bytes; both 0 for one that was put around the text.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// The tokeniser of a model folder: `tokenizer.json`, else `vocab.json` and `merges.txt` (RoBERTa), else
    /// `vocab.txt` (BERT).
    ///
    /// Padding and truncation that a `tokenizer.json` asks for are ignored.
    ///
    /// # Errors
    /// None of these files is there, or one of them is wrong.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let settings = files::Settings::read(folder)?;
        let mut inner = files::read(folder, &settings)?;
        inner.with_padding(None);
        // Without truncation there is nothing that this could refuse.
        let _ = inner.with_truncation(None);
        let pad_id = settings
            .pad_token
            .iter()
            .map(String::as_str)
            .chain(["<pad>", "[PAD]"])
            .find_map(|token| inner.token_to_id(token));
        let direction = match settings.truncation_side.as_deref() {
            Some("left") => TruncationDirection::Left,
            _ => TruncationDirection::Right,
        };
        let ends = ends::Ends::read(folder, &inner)?;
        Ok(Self { inner, pad_id, bos_id: ends.bos, eos_id: ends.eos, direction })
    }

    /// A text, or a pair, with its special tokens, cut to `max_length` tokens in all.
    ///
    /// # Errors
    /// `max_length` leaves no room for the special tokens, or the tokeniser cannot express the text.
    ///
    /// # Source
    /// Hugging Face's `truncation="longest_first"`: the longer text is cut first, then both alike.
    pub fn encode(&self, text: &str, pair: Option<&str>, max_length: usize) -> Result<Encoding> {
        let special = self.tokens_around(pair.is_some());
        if max_length < special {
            return Err(Error::setting(
                "data.max_length",
                format!("{max_length} leaves no room for the {special} special tokens"),
            ));
        }
        let input = match pair {
            Some(pair) => EncodeInput::from((text, pair)),
            None => EncodeInput::from(text),
        };
        let mut encoding = self.inner.encode_fast(input, true).map_err(refused)?;
        let truncated = encoding.len() > max_length;
        if truncated {
            encoding = self.encode_truncated(text, pair, max_length - special)?;
        }
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            truncated,
        })
    }

    /// A text of any length, and where each of its tokens begins and ends in it, in bytes; with the special tokens that
    /// belong around it if asked for. Those in the text itself are tokens in any case.
    ///
    /// # Errors
    /// The tokeniser cannot express the text.
    pub fn encode_with_offsets(&self, text: &str, special: bool) -> Result<Located> {
        let encoding = self.inner.encode(text, special).map_err(refused)?;
        Ok(Located { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }

    /// The same encoding with at most `room` tokens of text, cut before the special tokens come.
    fn encode_truncated(&self, text: &str, pair: Option<&str>, room: usize) -> Result<tokenizers::Encoding> {
        let text = self.inner.encode_fast(text, false).map_err(refused)?;
        let pair = match pair {
            Some(pair) => {
                let mut pair = self.inner.encode_fast(pair, false).map_err(refused)?;
                pair.set_type_ids(vec![1; pair.len()]);
                Some(pair)
            }
            None => None,
        };
        let params = TruncationParams {
            direction: self.direction,
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (text, pair) = truncate_encodings(text, pair, &params).map_err(refused)?;
        self.inner.post_process(text, pair, true).map_err(refused)
    }

    fn tokens_around(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }

    /// The text of token ids, special tokens left out if asked for.
    ///
    /// # Errors
    /// The tokeniser's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(refused)
    }

    /// The tokens of token ids as the vocabulary writes them; `<unknown ID>` for an id that it does not have.
    pub fn tokens(&self, ids: &[u32]) -> Vec<String> {
        ids.iter()
            .map(|&id| self.inner.id_to_token(id).unwrap_or_else(|| format!("<unknown {id}>")))
            .collect()
    }

    /// The number of tokens in the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of the padding token, where there is one.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_id
    }

    /// The id of the token that begins a text, where there is one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The id of the token that ends a text, where there is one.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// The tokens that are found in a text before it is tokenised and are no part of its words.
    pub fn special_tokens(&self) -> Vec<String> {
        let added = self.inner.get_added_tokens_decoder().into_iter();
        let mut special: Vec<_> = added.filter(|(_, token)| token.special).collect();
        special.sort_by_key(|(id, _)| *id);
        special.into_iter().map(|(_, token)| token.content).collect()
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

fn refused(error: tokenizers::Error) -> Error {
    Error::Usage(format!("the tokeniser refused a text: {error}"))
}
