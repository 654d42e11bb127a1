//! Documents as tokens: one after the other in blocks of one length, or each by itself.

use super::causal::{CausalDataset, check_length, in_order};
use super::example::{Document, Rows};
use crate::data::tokenizer::Tokenizer;
use crate::{Error, Result};

impl CausalDataset {
    /// Tokenises texts on all threads, every token to be predicted.
    ///
    /// Each document has the tokens that the tokeniser puts around a text, and the end-of-text token. `packed`: all of
    /// them follow one another, cut into blocks of `max_length`, the last one shorter; else each stands by itself, a
    /// longer one in pieces. Nothing is cut off; a last piece of one token has nothing to predict and is left out.
    ///
    /// # Errors
    /// The tokeniser refuses a text, or `max_length` is below 2; `strict` and a row without text.
    pub fn from_documents(
        tokenizer: &Tokenizer,
        documents: &Rows<Document>,
        max_length: usize,
        packed: bool,
        strict: bool,
    ) -> Result<Self> {
        check_length(max_length)?;
        let mut dataset = Self::empty();
        let (mut block, mut line) = (Vec::new(), 0);
        let make = |document: &Document| tokenizer.encode(&document.text, None, usize::MAX);
        in_order(&documents.rows, make, |document, encoding| {
            if document.text.is_empty() {
                return dataset.skip(strict, Error::row(&documents.path, document.line, "it has no text"));
            }
            let mut rest = encoding.ids;
            if let Some(end) = tokenizer.eos_id().filter(|end| rest.last() != Some(end)) {
                rest.push(end);
            }
            let mut rest = rest.as_slice();
            while !rest.is_empty() {
                if block.is_empty() {
                    line = document.line;
                }
                let (now, later) = rest.split_at(rest.len().min(max_length - block.len()));
                block.extend_from_slice(now);
                rest = later;
                if block.len() == max_length || (!packed && rest.is_empty()) {
                    dataset.push(&block, &vec![true; block.len()], line);
                    block.clear();
                }
            }
            Ok(())
        })?;
        dataset.push(&block, &vec![true; block.len()], line);
        Ok(dataset.finished())
    }
}
