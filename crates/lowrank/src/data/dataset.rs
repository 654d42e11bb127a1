//! A tokenised data set, packed.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::batch::{Batch, TokenRows};
use super::batches::Pass;
use super::collector::{Classification, Collector};
use super::example::{Example, Examples, Label, Labels};
use super::tasks::TaskInfo;
use super::tokenizer::Tokenizer;
use super::type_ids::TypeIds;
use crate::fnv::Fnv;
use crate::{Error, Result};

/// Examples that a model reads.
pub trait Dataset: Send + Sync {
    /// How many examples there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The examples `rows` as one batch; the first is number `first` of its step. `pass` tells one pass of training from
    /// another, for data that changes between them; absent: the examples as they are.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no such row; if an example cannot be read after all.
    fn gather(&self, rows: &[u32], first: usize, pass: Option<Pass>) -> Result<Batch>;

    /// A number that changes with anything that a batch holds.
    fn fingerprint(&self) -> u64;

    /// How many tokens all examples have together.
    fn tokens(&self) -> usize;

    /// The length of each example, in tokens.
    fn lengths(&self) -> Vec<usize>;

    /// What takes a model's outputs over these examples.
    fn collector<'a>(&'a self, task: &'a TaskInfo) -> Box<dyn Collector + 'a>;

    /// How many examples have each label, by the labels' names; empty where labels are no classes.
    fn label_counts(&self, task: &TaskInfo) -> BTreeMap<String, usize> {
        let _ = task;
        BTreeMap::new()
    }

    /// How many questions are asked: as many as there are examples, unless one is cut into several.
    fn questions(&self) -> usize {
        self.len()
    }

    /// How many examples were longer than the longest allowed and lost their ends.
    fn truncated(&self) -> usize {
        0
    }

    /// How many rows of the file could not be used.
    fn skipped(&self) -> usize {
        0
    }

    /// What is wrong with the first of these, where that is known.
    fn skipped_because(&self) -> Option<String> {
        None
    }

    /// Whether it takes so long to make a batch that another thread shall do it ahead of time. To gather ready tokens
    /// takes microseconds, less than it costs to hand them over.
    fn reads_ahead(&self) -> bool {
        false
    }
}

/// Examples tokenised in parallel at a time; what one of these holds is the only memory beside the packed result.
const CHUNK: usize = 4096;

/// The token ids of a data set, one after the other, and where each example begins.
#[derive(Debug, Clone, Default)]
pub struct TokenizedDataset {
    ids: Vec<u32>,
    type_ids: TypeIds,
    /// `examples + 1` places in `ids`.
    bounds: Vec<usize>,
    labels: Vec<Option<Label>>,
    lines: Vec<u32>,
    /// How many examples were longer than the longest allowed and lost their ends.
    pub truncated: usize,
    /// How many rows of the file could not be used.
    pub skipped: usize,
    /// What is wrong with the first of these, where that is known.
    pub skipped_because: Option<String>,
    /// The line of the first example that has no tokens.
    pub first_without_tokens: Option<usize>,
}

/// One example of a [`TokenizedDataset`].
#[derive(Debug, Clone, Copy)]
pub struct TokenizedExample<'a> {
    /// Its token ids, special tokens included.
    pub ids: &'a [u32],
    /// Its token types; empty if all are 0.
    pub type_ids: &'a [u8],
    /// Its label.
    pub label: Option<Label>,
    /// Its line in the file, counted from 1.
    pub line: usize,
}

impl TokenizedDataset {
    /// Tokenises `examples` on all threads, cutting each to `max_length` tokens. Those that have none are left out.
    ///
    /// # Errors
    /// The tokeniser refuses a text, or `max_length` leaves no room for any.
    pub fn new(tokenizer: &Tokenizer, examples: &Examples, max_length: usize) -> Result<Self> {
        let (skipped, skipped_because) = (examples.skipped, examples.skipped_because.clone());
        let mut dataset = Self { bounds: vec![0], skipped, skipped_because, ..Self::default() };
        for chunk in examples.rows.chunks(CHUNK) {
            let encodings: Vec<_> = chunk
                .par_iter()
                .map(|example| tokenizer.encode(&example.text, example.text_pair.as_deref(), max_length))
                .collect::<Result<_>>()?;
            for (example, encoding) in chunk.iter().zip(encodings) {
                if encoding.ids.is_empty() {
                    dataset.skipped += 1;
                    dataset.first_without_tokens.get_or_insert(example.line);
                    continue;
                }
                dataset.push(example, &encoding.ids, &encoding.type_ids)?;
                dataset.truncated += usize::from(encoding.truncated);
            }
        }
        dataset.ids.shrink_to_fit();
        Ok(dataset)
    }

    /// A data set of ready token ids, for programs that tokenise by themselves.
    ///
    /// # Errors
    /// [`Error::Usage`] if an example has no tokens.
    pub fn from_ids<'a>(examples: impl IntoIterator<Item = (&'a [u32], Option<Label>)>) -> Result<Self> {
        let mut dataset = Self { bounds: vec![0], ..Self::default() };
        for (index, (ids, label)) in examples.into_iter().enumerate() {
            let example = Example { text: String::new(), text_pair: None, label, line: index + 1 };
            dataset.push(&example, ids, &[])?;
        }
        Ok(dataset)
    }

    fn push(&mut self, example: &Example, ids: &[u32], type_ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::Usage(format!("the example of line {} has no tokens", example.line)));
        }
        self.type_ids.push(self.ids.len(), type_ids, ids.len());
        self.ids.extend_from_slice(ids);
        self.bounds.push(self.ids.len());
        self.labels.push(example.label);
        self.lines.push(u32::try_from(example.line).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Adds the examples of another file.
    pub(in crate::data) fn append(&mut self, other: Self) {
        let start = self.ids.len();
        self.type_ids.append(start, other.type_ids, other.ids.len());
        self.ids.extend(other.ids);
        self.bounds.extend(other.bounds.iter().skip(1).map(|bound| start + bound));
        self.labels.extend(other.labels);
        self.lines.extend(other.lines);
        self.truncated += other.truncated;
        self.skipped += other.skipped;
        self.skipped_because = self.skipped_because.take().or(other.skipped_because);
    }

    /// The largest token id, to be compared with the model's vocabulary.
    pub fn largest_id(&self) -> Option<u32> {
        self.ids.iter().copied().max()
    }

    /// The length of the longest example.
    pub fn longest(&self) -> usize {
        self.bounds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// The example at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<TokenizedExample<'_>> {
        let range = *self.bounds.get(index)?..*self.bounds.get(index + 1)?;
        Some(TokenizedExample {
            ids: &self.ids[range.clone()],
            type_ids: self.type_ids.get(range),
            label: self.labels[index],
            line: self.lines[index] as usize,
        })
    }

    /// The examples in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TokenizedExample<'_>> {
        self.bounds.windows(2).enumerate().map(|(index, pair)| TokenizedExample {
            ids: &self.ids[pair[0]..pair[1]],
            type_ids: self.type_ids.get(pair[0]..pair[1]),
            label: self.labels[index],
            line: self.lines[index] as usize,
        })
    }
}

impl Dataset for TokenizedDataset {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn gather(&self, rows: &[u32], first: usize, _: Option<Pass>) -> Result<Batch> {
        let mut tokens = TokenRows::default();
        let mut labels = Vec::with_capacity(rows.len());
        for &row in rows {
            let example = self.get(row as usize).ok_or_else(|| no_such_row(row, self.len()))?;
            tokens.push(example.ids, example.type_ids);
            labels.push(example.label);
        }
        Batch::of_tokens(tokens, Labels::gather(labels), first)
    }

    /// FNV-1a over the tokens, segments and labels.
    fn fingerprint(&self) -> u64 {
        let labels = self.labels.iter().copied().map(|label| match label {
            None => 0,
            Some(Label::Class(class)) => 1 + (u64::from(class) << 2),
            Some(Label::Score(score)) => 2 + (u64::from(score.to_bits()) << 2),
        });
        let ids = self.ids.iter().map(|&id| u64::from(id));
        let bounds = self.bounds.iter().map(|&bound| bound as u64);
        let mut hash = Fnv::default();
        ids.chain(self.type_ids.words()).chain(bounds).chain(labels).for_each(|word| hash.add_word(word));
        hash.0
    }

    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn lengths(&self) -> Vec<usize> {
        self.bounds.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn collector<'a>(&'a self, task: &'a TaskInfo) -> Box<dyn Collector + 'a> {
        let lines = self.lines.iter().map(|line| *line as usize).collect();
        Box::new(Classification::new(task, lines))
    }

    fn label_counts(&self, task: &TaskInfo) -> BTreeMap<String, usize> {
        let mut counts: BTreeMap<String, usize> = task.labels.iter().map(|name| (name.clone(), 0)).collect();
        for label in self.labels.iter().flatten().copied() {
            if let Label::Class(_) = label {
                *counts.entry(task.name_of(Some(label))).or_default() += 1;
            }
        }
        counts
    }

    fn truncated(&self) -> usize {
        self.truncated
    }

    fn skipped(&self) -> usize {
        self.skipped
    }

    fn skipped_because(&self) -> Option<String> {
        self.skipped_because.clone()
    }
}

/// The error of a row that a data set does not have.
pub(super) fn no_such_row(row: u32, examples: usize) -> Error {
    Error::Usage(format!("the data set has {examples} examples, no number {row}"))
}
