//! What language models have in common: the head on the vocabulary, and a classifier on the last token.

use std::fmt::Debug;

use super::encoder::wanted_rows;
use super::{Cache, Head, HeadSpec, Inputs, Model, ModelInfo, Tokens};
use crate::nn::{Embedding, Linear, Module, Visitor, VisitorMut, assign_names, join};
use crate::tape::{Tape, Var, ops};
use crate::{Error, Result};

/// What a decoder is without its head.
pub trait Body: Module + Debug + Send + Sync {
    /// What it is called in the whole model.
    const NAME: &'static str;

    /// The last hidden row of each token, normalised: `[tokens, D]`.
    fn forward<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var>;

    /// The table of words.
    fn table(&self) -> &Embedding;

    /// The number of layers.
    fn depth(&self) -> usize;
}

/// A decoder and its head.
#[derive(Debug)]
pub struct Decoder<B> {
    body: B,
    head: DecoderHead,
    info: ModelInfo,
}

impl<B: Body> Decoder<B> {
    /// A whole model, whose parameters know their names.
    pub(super) fn new(body: B, head: DecoderHead, info: ModelInfo) -> Self {
        let mut model = Self { body, head, info };
        assign_names(&mut model);
        model
    }
}

impl<B: Body> Module for Decoder<B> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.enter(path, &self.info.architecture);
        self.body.visit(&join(path, B::NAME), visitor);
        self.head.linear.visit(&join(path, self.head.name), visitor);
        visitor.leave();
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        self.body.visit_mut(&join(path, B::NAME), visitor);
        self.head.linear.visit_mut(&join(path, self.head.name), visitor);
    }
}

impl<B: Body> Model for Decoder<B> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn info_mut(&mut self) -> &mut ModelInfo {
        &mut self.info
    }

    fn forward<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        let hidden = self.body.forward(tape, inputs)?;
        self.head.forward(tape, &hidden, self.body.table(), inputs, &self.info)
    }

    fn new_cache(&self, sequences: usize) -> Option<Cache> {
        (self.info.kind == Head::CausalLm).then(|| Cache::new(self.body.depth(), sequences))
    }
}

/// The head of a decoder.
#[derive(Debug)]
pub(super) struct DecoderHead {
    pub name: &'static str,
    pub linear: Linear,
    /// Whether the weight is the word table's.
    tied: bool,
}

impl DecoderHead {
    /// `lm_head` on the vocabulary, or `score` on the last token. `table` is the name of the word table's parameter.
    pub fn new(head: HeadSpec, width: usize, vocab_size: usize, tied: bool, table: &'static str) -> Self {
        if head.kind != Head::CausalLm {
            return Self { name: "score", linear: Linear::new(width, head.num_labels, false), tied: false };
        }
        let linear = Linear::new(width, vocab_size, false);
        let linear = if tied { linear.tied_to(table) } else { linear };
        Self { name: "lm_head", linear, tied }
    }

    /// The facts of a decoder with this head; the rest is for the architecture to fill in.
    pub fn info(&self, head: HeadSpec, vocab_size: usize) -> ModelInfo {
        let language_model = head.kind == Head::CausalLm;
        ModelInfo {
            kind: head.kind,
            head: if language_model { Vec::new() } else { vec![self.name] },
            output: language_model.then_some(self.name),
            num_labels: if language_model { vocab_size } else { head.num_labels },
            vocab_size,
            ..ModelInfo::without_head()
        }
    }

    /// The logits of the rows that are asked for, or of each sequence's last token.
    pub fn forward(
        &self,
        tape: &mut Tape,
        hidden: &Var,
        table: &Embedding,
        inputs: &Inputs<'_>,
        info: &ModelInfo,
    ) -> Result<Var> {
        if info.kind == Head::CausalLm {
            let hidden = wanted_rows(tape, hidden, inputs.rows)?;
            return lm_logits(tape, &hidden, &self.linear, self.tied.then_some(table));
        }
        let rows = last_tokens(inputs.text()?, info.pad_token_id)?;
        let last = ops::select_rows(tape, hidden, &rows, &hidden.layout().one_row_each(), true)?;
        self.linear.forward(tape, &last)
    }
}

/// `x·Wᵀ` with the head's own weight, or the word table's in the base model where it has none and no adapter brought one
/// along.
pub(super) fn lm_logits(tape: &mut Tape, x: &Var, head: &Linear, table: Option<&Embedding>) -> Result<Var> {
    match table {
        Some(table) => head.forward_tied(tape, x, &table.weight),
        None => head.forward(tape, x),
    }
}

/// The row of each sequence's last token that is not padding.
///
/// # Source
/// Transformers' `GenericForSequenceClassification`: the rightmost id that is not `pad_token_id`, or the first of a
/// sequence of nothing else.
fn last_tokens(text: &Tokens<'_>, pad: Option<u32>) -> Result<Vec<usize>> {
    text.layout
        .offsets()
        .windows(2)
        .map(|pair| {
            let ids = text.ids.get(pair[0]..pair[1]).unwrap_or_default();
            let last = ids.iter().rposition(|id| Some(*id) != pad).or((!ids.is_empty()).then_some(0));
            let last = last.ok_or_else(|| Error::Usage("a sequence without tokens has no last token".into()));
            Ok(pair[0] + last?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::Layout;

    #[test]
    fn the_last_token_is_the_last_that_is_no_padding_or_the_first_where_all_are() {
        let ids = [5, 6, 0, 0, 0, 0, 7, 8];
        let layout = Layout::from_lengths(&[3, 3, 2], None);
        let text = Tokens { ids: &ids, type_ids: &[], positions: &[], layout };
        assert_eq!(last_tokens(&text, Some(0)).unwrap(), [1, 3, 7]);
        assert_eq!(last_tokens(&text, None).unwrap(), [2, 5, 7]);
    }
}
