//! A model in the middle of several texts.

use std::sync::Arc;

use super::Author;
use crate::models::{Cache, Inputs, Source, Tokens, select_sequences};
use crate::tape::{Layout, Tape, Var, is_finite};
use crate::tensor::DType;
use crate::{Error, Result};

/// Several texts that grow by a token each at a time.
pub(super) struct Writer<'a> {
    author: Author<'a>,
    cache: Cache,
    /// What an encoder made of each text's source.
    encoded: Option<Var>,
    /// The tokens that each text begins with.
    starts: Vec<Vec<u32>>,
    /// The tokens that each text has got.
    written: usize,
}

impl<'a> Writer<'a> {
    /// Texts that begin with the prompts, each `copies` times in a row; of an encoder-decoder, answers to them.
    pub fn new(author: Author<'a>, prompts: &[Vec<u32>], copies: usize) -> Result<Self> {
        let info = author.model.info();
        if let Some(empty) = prompts.iter().position(Vec::is_empty) {
            return Err(Error::Usage(format!("prompt {empty} has no tokens")));
        }
        let count = prompts.len() * copies;
        let refuse = || Error::Usage(format!("{} writes no text", info.architecture));
        let cache = author.model.new_cache(count).ok_or_else(refuse)?;
        let copied = |rows: &[Vec<u32>]| -> Vec<Vec<u32>> {
            rows.iter().flat_map(|row| std::iter::repeat_n(row.clone(), copies)).collect()
        };
        let Some(start) = info.decoder_start_token_id else {
            return Ok(Self { author, cache, encoded: None, starts: copied(prompts), written: 0 });
        };
        let starts = vec![vec![start]; count];
        let mut writer = Self { author, cache, encoded: None, starts, written: 0 };
        let rows = Rows::new(prompts, &vec![0; prompts.len()], author)?;
        let mut tape = Tape::inference(author.compute);
        let encoded = author.model.encode(&mut tape, &Inputs::tokens(rows.tokens()))?;
        let order: Vec<usize> = (0..count).map(|text| text / copies).collect();
        writer.encoded = Some(select_sequences(&encoded, &order)?);
        Ok(writer)
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// The logits of each text's first new token.
    pub fn first(&mut self) -> Result<Logits> {
        let starts = std::mem::take(&mut self.starts);
        let logits = self.read(&starts);
        self.starts = starts;
        logits
    }

    /// The logits after one more token in each text.
    pub fn next(&mut self, tokens: &[u32]) -> Result<Logits> {
        self.read(&tokens.iter().map(|token| vec![*token]).collect::<Vec<_>>())
    }

    /// Each text becomes a copy of the one with this number, of the same source.
    pub fn reorder(&mut self, order: &[usize]) -> Result<()> {
        self.cache.reorder(order)
    }

    /// The texts with these numbers stay, the others are left.
    pub fn keep(&mut self, texts: &[usize]) -> Result<()> {
        self.starts = texts.iter().filter_map(|text| self.starts.get(*text)).cloned().collect();
        if let Some(encoded) = &self.encoded {
            self.encoded = Some(select_sequences(encoded, texts)?);
        }
        self.cache.keep(texts)
    }

    /// How many more tokens the model can read.
    pub fn room(&self) -> usize {
        let held = (0..self.len()).map(|text| self.cache.len(text)).max().unwrap_or(0);
        self.author.model.info().positions().saturating_sub(held)
    }

    fn read(&mut self, rows: &[Vec<u32>]) -> Result<Logits> {
        let held: Vec<usize> = (0..rows.len()).map(|text| self.cache.len(text)).collect();
        let rows = Rows::new(rows, &held, self.author)?;
        let last: Vec<usize> = rows.layout.offsets().iter().skip(1).map(|end| end - 1).collect();
        let inputs = match &self.encoded {
            Some(encoded) => Inputs {
                source: Source::Encoded(encoded),
                target: Some(rows.tokens()),
                rows: Some(&last),
                cache: Some(&self.cache),
            },
            None => Inputs { rows: Some(&last), cache: Some(&self.cache), ..Inputs::tokens(rows.tokens()) },
        };
        let mut tape = Tape::inference(self.author.compute);
        let logits = self.author.model.forward(&mut tape, &inputs)?;
        let width = logits.value().shape().width();
        self.written += 1;
        if !is_finite(logits.value()) {
            return Err(Error::NotFinite {
                step: self.written,
                tensor: format!("the output of {}", self.author.model.info().output.unwrap_or("the model")),
                advice:
                    "the weights or the adapter hold numbers that are not finite, or too large for bf16: try \
                         --dtype f32"
                        .to_owned(),
            });
        }
        Ok(Logits { values: logits.value().to_dtype(DType::F32).as_slice::<f32>().to_vec(), width })
    }
}

/// The logits of each text's next token.
pub(super) struct Logits {
    values: Vec<f32>,
    width: usize,
}

impl Logits {
    pub fn rows(&mut self) -> std::slice::ChunksExactMut<'_, f32> {
        self.values.chunks_exact_mut(self.width)
    }

    pub fn width(&self) -> usize {
        self.width
    }
}

/// New tokens side by side.
struct Rows {
    ids: Vec<u32>,
    positions: Vec<u32>,
    layout: Arc<Layout>,
}

impl Rows {
    /// The tokens of each text, after as many as it has already.
    fn new(rows: &[Vec<u32>], held: &[usize], author: Author<'_>) -> Result<Self> {
        let entries = author.model.info().vocab_size;
        if let Some(id) = rows.iter().flatten().find(|id| **id as usize >= entries) {
            return Err(Error::Usage(format!(
                "the id {id} is not in the model's table of {entries} entries"
            )));
        }
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let positions = rows.iter().zip(held).flat_map(|(row, held)| {
            let first = u32::try_from(*held).unwrap_or(u32::MAX);
            (0..row.len() as u32).map(move |token| first.saturating_add(token))
        });
        Ok(Self {
            ids: rows.concat(),
            positions: positions.collect(),
            layout: Layout::from_lengths(&lengths, author.adapter),
        })
    }

    fn tokens(&self) -> Tokens<'_> {
        Tokens { ids: &self.ids, type_ids: &[], positions: &self.positions, layout: Arc::clone(&self.layout) }
    }
}
