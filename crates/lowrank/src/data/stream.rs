//! Generated tokens as text that can be shown while it grows.

use crate::Result;

/// Token ids to text, piece by piece; a piece ends where a character does.
///
/// # Source
/// Hugging Face's `DecodeStream`: two windows of ids are decoded, and what the longer has more is new.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    /// Those that were shown last, which give the next ones their context, and those that were not shown yet.
    ids: Vec<u32>,
    shown: usize,
}

/// A character is at most four bytes, and a token that is one of them at least one: more than this many tokens without
/// a whole character make none.
const LONGEST_CHARACTER: usize = 8;

impl Detokenizer {
    /// The text that `id` completes: empty while a character lacks bytes.
    ///
    /// # Errors
    /// Whatever `decode`, which makes text of ids, gives.
    pub fn push(&mut self, id: u32, decode: impl Fn(&[u32]) -> Result<String>) -> Result<String> {
        self.ids.push(id);
        let waiting = self.ids.len() - self.shown;
        self.advance(decode, waiting > LONGEST_CHARACTER)
    }

    /// The text that is still held back, whole characters or not.
    ///
    /// # Errors
    /// As [`Detokenizer::push`].
    pub fn finish(&mut self, decode: impl Fn(&[u32]) -> Result<String>) -> Result<String> {
        self.advance(decode, true)
    }

    fn advance(&mut self, decode: impl Fn(&[u32]) -> Result<String>, all: bool) -> Result<String> {
        let shown = decode(&self.ids[..self.shown])?;
        let whole = decode(&self.ids)?;
        if whole.ends_with(char::REPLACEMENT_CHARACTER) && !all {
            return Ok(String::new());
        }
        // Bytes that turn out not to be UTF-8 can change text that was shown: what both have in common stays.
        let common = shown.chars().zip(whole.chars()).take_while(|(a, b)| a == b);
        let text = whole[common.map(|(letter, _)| letter.len_utf8()).sum()..].to_owned();
        if !text.is_empty() {
            self.ids.drain(..self.shown);
            self.shown = self.ids.len();
        }
        Ok(text)
    }
}

/// The tokens before a text that show whether a blank stands between the two.
pub(crate) const CONTEXT: usize = 8;

/// The text of `new` tokens as it goes on after those `before`: with the blank that a text of its own would not begin with.
///
/// # Errors
/// Whatever `decode`, which makes text of ids, gives.
pub fn continuation(
    before: &[u32],
    new: &[u32],
    decode: impl Fn(&[u32]) -> Result<String>,
) -> Result<String> {
    let context = &before[before.len().saturating_sub(CONTEXT)..];
    let (known, whole) = (decode(context)?, decode(&[context, new].concat())?);
    let common = known.chars().zip(whole.chars()).take_while(|(a, b)| a == b);
    Ok(whole[common.map(|(letter, _)| letter.len_utf8()).sum()..].to_owned())
}

/// Finds stop words in a text that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct StopWords {
    words: Vec<String>,
    /// Text that may be the beginning of a stop word.
    held: String,
    stopped: bool,
}

impl StopWords {
    /// Stops at the first of `words`; empty ones are none.
    ///
    /// ```
    /// use lowrank::data::stream::StopWords;
    ///
    /// let mut stop = StopWords::new(["\nUser:"]);
    /// assert_eq!(stop.push("It is nine.\nUs"), "It is nine.");
    /// assert_eq!(stop.push("er: and"), "");
    /// assert!(stop.stopped());
    /// ```
    pub fn new<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Self {
        let words = words.into_iter().map(Into::into).filter(|word: &String| !word.is_empty()).collect();
        Self { words, ..Self::default() }
    }

    /// The text that can be shown now: up to the first stop word, and without an end that may begin one.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        if let Some(end) = self.words.iter().filter_map(|word| self.held.find(word.as_str())).min() {
            self.stopped = true;
            self.held.truncate(end);
            return std::mem::take(&mut self.held);
        }
        let longest = self.words.iter().map(String::len).max().unwrap_or(0);
        let mut ends = self.held.char_indices().map(|(place, _)| place);
        let begins = |place: &usize| {
            let end = &self.held[*place..];
            end.len() < longest && self.words.iter().any(|word| word.starts_with(end))
        };
        let keep = ends.find(begins).unwrap_or(self.held.len());
        let held = self.held.split_off(keep);
        std::mem::replace(&mut self.held, held)
    }

    /// The text that was held back, once no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether a stop word was found; what comes after it is not shown.
    pub fn stopped(&self) -> bool {
        self.stopped
    }
}
