//! Words as the tokens that a model reads, packed.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::collector::TagCollector;
use super::rows::Tagged;
use crate::data::batch::{Batch, TokenRows};
use crate::data::batches::Pass;
use crate::data::collector::Collector;
use crate::data::dataset::{Dataset, no_such_row};
use crate::data::example::{IGNORED, Label, Labels};
use crate::data::tasks::TaskInfo;
use crate::data::tokenizer::Tokenizer;
use crate::fnv::Fnv;
use crate::{Error, Result};

/// Texts tokenised in parallel at a time.
const CHUNK: usize = 4096;

/// Texts whose words have labels, of which the first token of each word is told.
#[derive(Default)]
pub(super) struct TaggedDataset {
    ids: Vec<u32>,
    /// `examples + 1` places in `ids`.
    bounds: Vec<usize>,
    /// For each word that the model sees, the place of its first token in its text, and that of the word.
    firsts: Vec<[u32; 2]>,
    /// The label of each of these; empty if nobody knows.
    classes: Vec<u32>,
    /// `examples + 1` places in `firsts`.
    first_bounds: Vec<usize>,
    /// How many words each example has.
    pub words: Vec<u32>,
    pub lines: Vec<u32>,
    truncated: usize,
    pub skipped: usize,
    /// What is wrong with the first of these.
    pub skipped_because: Option<String>,
}

/// The words of an example that the model sees.
pub(super) struct SeenWords<'a> {
    pub firsts: &'a [[u32; 2]],
    pub classes: &'a [u32],
}

impl TaggedDataset {
    /// Tokenises rows on all threads, each with the classes of its words where they are known. Those whose words all
    /// have no token are left out.
    pub fn new(
        tokenizer: &Tokenizer,
        path: &Path,
        rows: &[(Option<Vec<u32>>, Tagged)],
        max_length: usize,
    ) -> Result<Self> {
        let mut dataset = Self { bounds: vec![0], first_bounds: vec![0], ..Self::default() };
        for chunk in rows.chunks(CHUNK) {
            let encoded: Vec<_> = chunk
                .par_iter()
                .map(|(_, row)| tokenizer.encode_words(&row.words, max_length))
                .collect::<Result<_>>()?;
            for ((classes, row), encoded) in chunk.iter().zip(encoded) {
                if encoded.firsts.is_empty() {
                    dataset.skip(Error::row(path, row.line, "no word of it has a token"));
                    continue;
                }
                let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
                let seen = encoded.firsts.iter().map(|[_, word]| *word as usize);
                dataset.classes.extend(
                    classes
                        .iter()
                        .flat_map(|classes| seen.clone().filter_map(move |word| classes.get(word).copied())),
                );
                dataset.ids.extend(encoded.ids);
                dataset.bounds.push(dataset.ids.len());
                dataset.firsts.extend(encoded.firsts);
                dataset.first_bounds.push(dataset.firsts.len());
                dataset.words.push(number(row.words.len()));
                dataset.lines.push(number(row.line));
                dataset.truncated += usize::from(encoded.truncated);
            }
        }
        Ok(dataset)
    }

    /// Leaves out a row for this reason.
    pub fn skip(&mut self, because: Error) {
        self.skipped += 1;
        self.skipped_because.get_or_insert_with(|| because.to_string());
    }

    /// Adds the texts of another file.
    pub fn append(&mut self, other: Self) {
        let (tokens, firsts) = (self.ids.len(), self.firsts.len());
        self.ids.extend(other.ids);
        self.bounds.extend(other.bounds.iter().skip(1).map(|bound| tokens + bound));
        self.firsts.extend(other.firsts);
        self.classes.extend(other.classes);
        self.first_bounds.extend(other.first_bounds.iter().skip(1).map(|bound| firsts + bound));
        self.words.extend(other.words);
        self.lines.extend(other.lines);
        self.truncated += other.truncated;
        self.skipped += other.skipped;
        self.skipped_because = self.skipped_because.take().or(other.skipped_because);
    }

    pub fn largest_id(&self) -> Option<u32> {
        self.ids.iter().copied().max()
    }

    /// The words of an example that the model sees.
    pub fn seen(&self, row: usize) -> Option<SeenWords<'_>> {
        let range = *self.first_bounds.get(row)?..*self.first_bounds.get(row + 1)?;
        let classes = self.classes.get(range.clone()).unwrap_or_default();
        Some(SeenWords { firsts: self.firsts.get(range)?, classes })
    }
}

impl Dataset for TaggedDataset {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn gather(&self, rows: &[u32], first: usize, _: Option<Pass>) -> Result<Batch> {
        let mut tokens = TokenRows::default();
        let mut targets = Vec::new();
        for &row in rows {
            let missing = || no_such_row(row, self.len());
            let row = row as usize;
            let bounds = self.bounds.get(row..row + 2).ok_or_else(missing)?;
            let start = targets.len();
            tokens.push(&self.ids[bounds[0]..bounds[1]], &[]);
            targets.resize(tokens.ids.len(), IGNORED);
            let seen = self.seen(row).ok_or_else(missing)?;
            for ([token, _], class) in seen.firsts.iter().zip(seen.classes) {
                if let Some(target) = targets.get_mut(start + *token as usize) {
                    *target = i64::from(*class);
                }
            }
        }
        let labels = if self.classes.is_empty() { Labels::None } else { Labels::Tokens(targets) };
        Batch::of_tokens(tokens, labels, first)
    }

    /// FNV-1a over the tokens, their places and labels.
    fn fingerprint(&self) -> u64 {
        let ids = self.ids.iter().chain(&self.classes).map(|&id| u64::from(id));
        let firsts = self.firsts.iter().map(|&[token, word]| (u64::from(token) << 32) | u64::from(word));
        let bounds = self.bounds.iter().map(|&bound| bound as u64);
        let mut hash = Fnv::default();
        ids.chain(firsts).chain(bounds).for_each(|word| hash.add_word(word));
        hash.0
    }

    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn lengths(&self) -> Vec<usize> {
        self.bounds.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn collector<'a>(&'a self, task: &'a TaskInfo) -> Box<dyn Collector + 'a> {
        Box::new(TagCollector::new(self, task))
    }

    fn label_counts(&self, task: &TaskInfo) -> BTreeMap<String, usize> {
        let mut counts: BTreeMap<String, usize> = task.labels.iter().map(|name| (name.clone(), 0)).collect();
        for &class in &self.classes {
            *counts.entry(task.name_of(Some(Label::Class(class)))).or_default() += 1;
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
