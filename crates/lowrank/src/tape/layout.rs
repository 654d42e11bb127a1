//! Which rows belong to which sequence.

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::dropout::RowId;

use crate::{Error, Result};

/// The place of an adapter among those attached to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(pub u16);

/// The ragged structure of a batch: rows of several sequences, one after the other, without padding.
#[derive(Debug)]
pub struct Layout {
    offsets: Vec<usize>,
    examples: Vec<u32>,
    adapters: Vec<Option<AdapterId>>,
    row_ids: Vec<RowId>,
}

/// Where sequences of these lengths begin, one after the other, and where the last ends.
pub(crate) fn offsets_of(lengths: &[usize]) -> Vec<usize> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

impl Layout {
    /// Sequences between consecutive `offsets` (one more than there are sequences, starting at 0).
    ///
    /// `examples` holds each sequence's index in the whole batch, which keys its dropout: it stays the same when
    /// the batch is cut for gradient accumulation. `adapters` holds the adapter of each sequence.
    ///
    /// # Errors
    /// If the offsets do not start at 0, fall, or the lists differ in length.
    pub fn new(
        offsets: Vec<usize>,
        examples: Vec<u32>,
        adapters: Vec<Option<AdapterId>>,
    ) -> Result<Arc<Self>> {
        let sequences = examples.len();
        if offsets.len() != sequences + 1 || adapters.len() != sequences {
            return Err(Error::Usage(format!(
                "{sequences} sequences need {} offsets and {sequences} adapters, not {} and {}",
                sequences + 1,
                offsets.len(),
                adapters.len()
            )));
        }
        if offsets[0] != 0 || offsets.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(Error::Usage("sequence offsets must start at 0 and never fall".into()));
        }
        let mut row_ids = Vec::with_capacity(offsets[sequences]);
        for (pair, &example) in offsets.windows(2).zip(&examples) {
            row_ids.extend((0..(pair[1] - pair[0]) as u32).map(|token| RowId { example, token }));
        }
        Ok(Arc::new(Self { offsets, examples, adapters, row_ids }))
    }

    /// Sequences of the given lengths, numbered from 0, all with the same adapter.
    pub fn from_lengths(lengths: &[usize], adapter: Option<AdapterId>) -> Arc<Self> {
        let examples = (0..lengths.len() as u32).collect();
        Self::new(offsets_of(lengths), examples, vec![adapter; lengths.len()])
            .expect("lengths make rising offsets")
    }

    /// The layout of some of the rows, in the order of their sequences: dropout knows them by the numbers that they had.
    ///
    /// # Errors
    /// If a row is not there, or one of an earlier sequence follows.
    pub fn with_rows(&self, rows: &[usize]) -> Result<Arc<Self>> {
        let mut offsets = Vec::with_capacity(self.offsets.len());
        offsets.push(0);
        let mut row_ids = Vec::with_capacity(rows.len());
        let mut taken = 0;
        for pair in self.offsets.windows(2) {
            while let Some(row) = rows.get(taken).filter(|row| (pair[0]..pair[1]).contains(*row)) {
                row_ids.push(self.row_ids[*row]);
                taken += 1;
            }
            offsets.push(taken);
        }
        if let Some(row) = rows.get(taken) {
            let all = self.rows();
            return Err(Error::Usage(format!(
                "row {row} of {all} is not there, or follows a later sequence's"
            )));
        }
        Ok(Arc::new(Self {
            offsets,
            examples: self.examples.clone(),
            adapters: self.adapters.clone(),
            row_ids,
        }))
    }

    /// The layout of some of the rows in any order, each as often as it is named: rows that follow each other are of one
    /// sequence as long as they are in its order.
    ///
    /// # Errors
    /// If a row is not there.
    pub fn regrouped(&self, rows: &[usize]) -> Result<Arc<Self>> {
        let lengths = self.offsets.windows(2).map(|pair| pair[1] - pair[0]);
        let sequences: Vec<usize> = lengths
            .enumerate()
            .flat_map(|(sequence, length)| std::iter::repeat_n(sequence, length))
            .collect();
        let mut regrouped =
            Self { offsets: vec![0], examples: Vec::new(), adapters: Vec::new(), row_ids: Vec::new() };
        let mut last = None;
        for (at, row) in rows.iter().enumerate() {
            let Some(&sequence) = sequences.get(*row) else {
                return Err(Error::Usage(format!("row {row} of {} is not there", self.rows())));
            };
            if last.is_none_or(|(before, of)| of != sequence || before >= *row) {
                regrouped.offsets.extend((at > 0).then_some(at));
                regrouped.examples.push(self.examples[sequence]);
                regrouped.adapters.push(self.adapters[sequence]);
            }
            last = Some((*row, sequence));
            regrouped.row_ids.push(self.row_ids[*row]);
        }
        regrouped.offsets.extend((!rows.is_empty()).then_some(rows.len()));
        Ok(Arc::new(regrouped))
    }

    /// The same sequences with other lengths.
    ///
    /// # Errors
    /// If there are not as many lengths as sequences.
    pub fn like(other: &Self, lengths: &[usize]) -> Result<Arc<Self>> {
        Self::new(offsets_of(lengths), other.examples.clone(), other.adapters.clone())
    }

    /// The layout of one row for each sequence of this one, as after pooling.
    pub fn one_row_each(&self) -> Arc<Self> {
        let offsets = (0..=self.sequences()).collect();
        Self::new(offsets, self.examples.clone(), self.adapters.clone()).expect("one row each")
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.examples.len()
    }

    /// The number of rows of all sequences together.
    pub fn rows(&self) -> usize {
        self.row_ids.len()
    }

    /// Where each sequence starts, and the end of the last.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Each sequence's index in the whole batch.
    pub fn examples(&self) -> &[u32] {
        &self.examples
    }

    /// Each sequence's adapter.
    pub fn adapters(&self) -> &[Option<AdapterId>] {
        &self.adapters
    }

    /// Each row's example and token, for dropout.
    pub fn row_ids(&self) -> &[RowId] {
        &self.row_ids
    }

    /// Neighbouring rows with the same adapter, as ranges.
    pub fn segments(&self) -> Vec<(Range<usize>, Option<AdapterId>)> {
        let mut segments: Vec<(Range<usize>, Option<AdapterId>)> = Vec::new();
        for (pair, &adapter) in self.offsets.windows(2).zip(&self.adapters) {
            match segments.last_mut() {
                Some((range, last)) if *last == adapter => range.end = pair[1],
                _ => segments.push((pair[0]..pair[1], adapter)),
            }
        }
        segments
    }
}
