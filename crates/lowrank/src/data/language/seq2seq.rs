//! A tokenised data set for encoder-decoders, packed.

use super::causal::in_order;
use super::example::{Rows, SourceTarget};
use crate::data::tokenizer::Tokenizer;
use crate::fnv::Fnv;
use crate::{Error, Result};

/// The most tokens of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seq2SeqLengths {
    /// Of a source, its end token included.
    pub source: usize,
    /// Of a target, its end token included.
    pub target: usize,
}

/// Texts one after the other, and where each begins.
#[derive(Debug, Clone)]
struct Side {
    ids: Vec<u32>,
    bounds: Vec<usize>,
}

/// The token ids of sources and of targets.
#[derive(Debug, Clone)]
pub struct Seq2SeqDataset {
    sources: Side,
    targets: Side,
    lines: Vec<u32>,
    /// Whether a side of each example was cut.
    cut: Vec<bool>,
    /// How many sources were longer than the longest allowed and lost their ends.
    pub truncated_sources: usize,
    /// How many targets were.
    pub truncated_targets: usize,
}

/// One example of a [`Seq2SeqDataset`].
#[derive(Debug, Clone, Copy)]
pub struct Seq2SeqExample<'a> {
    /// What the encoder reads, its end token included.
    pub source: &'a [u32],
    /// What the decoder is to write, its end token included; empty where it is only to be predicted.
    pub target: &'a [u32],
    /// Its line in the file, counted from 1.
    pub line: usize,
    /// Whether a side of it lost its end.
    pub truncated: bool,
}

impl Seq2SeqDataset {
    /// Tokenises sources and targets on all threads, each ending with the end-of-text token.
    ///
    /// # Errors
    /// The tokeniser refuses a text, or a length leaves no room for any.
    pub fn new(tokenizer: &Tokenizer, rows: &Rows<SourceTarget>, lengths: Seq2SeqLengths) -> Result<Self> {
        let mut dataset = Self {
            sources: Side::empty(),
            targets: Side::empty(),
            lines: Vec::with_capacity(rows.rows.len()),
            cut: Vec::with_capacity(rows.rows.len()),
            truncated_sources: 0,
            truncated_targets: 0,
        };
        let make = |row: &SourceTarget| {
            let source = ended(tokenizer, &row.source, lengths.source)?;
            let target = row.target.as_deref();
            let target = target.map(|text| ended(tokenizer, text, lengths.target)).transpose()?;
            Ok((source, target.unwrap_or_default()))
        };
        in_order(&rows.rows, make, |row, (source, target)| {
            let cut = [dataset.sources.push(source), dataset.targets.push(target)];
            dataset.truncated_sources += usize::from(cut[0]);
            dataset.truncated_targets += usize::from(cut[1]);
            dataset.cut.push(cut[0] || cut[1]);
            dataset.lines.push(u32::try_from(row.line).unwrap_or(u32::MAX));
            Ok(())
        })?;
        dataset.sources.ids.shrink_to_fit();
        dataset.targets.ids.shrink_to_fit();
        Ok(dataset)
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many examples lost the end of a side.
    pub fn truncated(&self) -> usize {
        self.cut.iter().filter(|cut| **cut).count()
    }

    /// How many tokens the sources have together, and the targets.
    pub fn tokens(&self) -> (usize, usize) {
        (self.sources.ids.len(), self.targets.ids.len())
    }

    /// A number that changes with the tokens and bounds: FNV-1a over all of them.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        for side in [&self.sources, &self.targets] {
            side.ids.iter().for_each(|&id| hash.add_word(u64::from(id)));
            side.bounds.iter().for_each(|&bound| hash.add_word(bound as u64));
        }
        hash.0
    }

    /// The largest token id, to be compared with the model's vocabulary.
    pub fn largest_id(&self) -> Option<u32> {
        self.sources.ids.iter().chain(&self.targets.ids).copied().max()
    }

    /// The lengths of the longest source and the longest target.
    pub fn longest(&self) -> Seq2SeqLengths {
        Seq2SeqLengths { source: self.sources.longest(), target: self.targets.longest() }
    }

    /// The example at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<Seq2SeqExample<'_>> {
        Some(Seq2SeqExample {
            source: self.sources.get(index)?,
            target: self.targets.get(index)?,
            line: *self.lines.get(index)? as usize,
            truncated: *self.cut.get(index)?,
        })
    }

    /// The examples in file order.
    pub fn iter(&self) -> impl Iterator<Item = Seq2SeqExample<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl Side {
    fn empty() -> Self {
        Self { ids: Vec::new(), bounds: vec![0] }
    }

    fn push(&mut self, (ids, truncated): (Vec<u32>, bool)) -> bool {
        self.ids.extend(ids);
        self.bounds.push(self.ids.len());
        truncated
    }

    fn get(&self, index: usize) -> Option<&[u32]> {
        self.ids.get(*self.bounds.get(index)?..*self.bounds.get(index + 1)?)
    }

    fn longest(&self) -> usize {
        self.bounds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }
}

/// The ids of a text with the end token last, at most `max_length` of them, and whether it was cut.
pub(crate) fn ended(tokenizer: &Tokenizer, text: &str, max_length: usize) -> Result<(Vec<u32>, bool)> {
    if max_length == 0 {
        return Err(Error::setting("data.max_length", "0 leaves no room for any token"));
    }
    let encoding = tokenizer.encode(text, None, max_length)?;
    let (mut ids, mut truncated) = (encoding.ids, encoding.truncated);
    if let Some(end) = tokenizer.eos_id().filter(|end| ids.last() != Some(end)) {
        truncated |= ids.len() == max_length;
        ids.truncate(max_length - 1);
        ids.push(end);
    }
    Ok((ids, truncated))
}
