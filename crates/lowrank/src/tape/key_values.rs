//! Keys and values that are kept between calls.

use std::ops::Range;

use super::Var;
use super::ops::with_rows;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Rows that there is room for beyond those that are held, at least, unless that is more than are held.
const LEAST_ROOM: usize = 16;

/// The keys and values of one layer for several sequences, which grow as tokens are generated.
///
/// Each sequence has room for an eighth more rows than it holds, so that a token costs no copy of those before it but now
/// and then, which is little beside attention's reading them all for each. Under a sliding window, rows that no later
/// token sees are dropped when room runs out.
#[derive(Clone, Debug)]
pub struct KeyValues {
    /// `[sequences·room, width]`, the rows of a sequence at the start of its room.
    rows: Tensor,
    room: usize,
    sequences: Vec<Held>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Rows that are held.
    rows: usize,
    /// Tokens that were ever added.
    tokens: usize,
}

impl KeyValues {
    /// Of sequences without tokens.
    pub fn new(sequences: usize) -> Self {
        let rows = Tensor::zeros([0, 0], DType::F32);
        Self { rows, room: 0, sequences: vec![Held::default(); sequences] }
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences.len()
    }

    /// The number of tokens that a sequence has had so far: the position of its next. 0 for one that there is not.
    pub fn len(&self, sequence: usize) -> usize {
        self.sequences.get(sequence).map_or(0, |held| held.tokens)
    }

    /// Whether no sequence has had a token.
    pub fn is_empty(&self) -> bool {
        self.sequences.iter().all(|held| held.tokens == 0)
    }

    /// Makes sequence `i` a copy of the old sequence `order[i]`, as beam search does after each token. There may be more
    /// or fewer sequences than before.
    ///
    /// # Errors
    /// If a sequence is named that there is not.
    pub fn reorder(&mut self, order: &[usize]) -> Result<()> {
        if let Some(missing) = order.iter().find(|old| **old >= self.sequences.len()) {
            return Err(Error::Usage(format!(
                "sequence {missing} of a cache of {} sequences cannot be kept",
                self.sequences.len()
            )));
        }
        if order.iter().copied().eq(0..self.sequences.len()) {
            return Ok(());
        }
        let copies: Vec<_> = order.iter().map(|&old| self.part(old, self.sequences[old].rows)).collect();
        self.refill(&copies, self.room);
        self.sequences = order.iter().map(|old| self.sequences[*old]).collect();
        Ok(())
    }

    /// Adds the keys and values of new tokens: the columns of `qkv` from `start` on.
    ///
    /// # Errors
    /// If there are other sequences than here, or rows of another width or type than before.
    pub(super) fn append(&mut self, qkv: &Var, start: usize, window: Option<usize>) -> Result<()> {
        let (offsets, value) = (qkv.layout().offsets(), qkv.value());
        let (all, dtype) = (value.shape().width(), value.dtype());
        let width = all - start;
        if qkv.layout().sequences() != self.sequences.len() {
            return Err(Error::Usage(format!(
                "rows of {} sequences for a cache of {}",
                qkv.layout().sequences(),
                self.sequences.len()
            )));
        }
        let held = (self.rows.shape().width(), self.rows.dtype());
        if self.is_empty() {
            (self.rows, self.room) = (Tensor::zeros([0, width], dtype), 0);
        } else if held != (width, dtype) {
            return Err(Error::Usage(format!(
                "keys and values of {width} {dtype} numbers for a cache of rows of {} {}",
                held.0, held.1
            )));
        }
        let new = |sequence: usize| offsets[sequence + 1] - offsets[sequence];
        let count = self.sequences.len();
        if (0..count).any(|sequence| self.sequences[sequence].rows + new(sequence) > self.room) {
            // The first new token sees one key less than the window holds.
            let kept = |held: &Held| held.rows.min(window.map_or(usize::MAX, |window| window.max(1) - 1));
            let kept: Vec<usize> = self.sequences.iter().map(kept).collect();
            let needed = (0..count).map(|sequence| kept[sequence] + new(sequence)).max().unwrap_or(0);
            let parts: Vec<_> = (0..count).map(|sequence| self.part(sequence, kept[sequence])).collect();
            self.refill(&parts, needed + (needed / 8).max(needed.min(LEAST_ROOM)));
            self.sequences.iter_mut().zip(kept).for_each(|(held, kept)| held.rows = kept);
        }
        let Self { rows, room, sequences } = self;
        with_rows!(qkv.compute(), T => {
            let (from, to) = (value.as_slice::<T>(), rows.make_mut::<T>());
            for (sequence, held) in sequences.iter_mut().enumerate() {
                let to = to[(sequence * *room + held.rows) * width..].chunks_exact_mut(width);
                for (to, row) in to.zip(offsets[sequence]..offsets[sequence + 1]) {
                    to.copy_from_slice(&from[row * all + start..(row + 1) * all]);
                }
                held.rows += new(sequence);
                held.tokens += new(sequence);
            }
        });
        Ok(())
    }

    /// The rows of all sequences, among others.
    pub(super) fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// The rows of each sequence.
    pub(super) fn ranges(&self) -> Vec<Range<usize>> {
        let held = self.sequences.iter().enumerate();
        held.map(|(sequence, held)| sequence * self.room..sequence * self.room + held.rows).collect()
    }

    /// The last rows of a sequence.
    fn part(&self, sequence: usize, rows: usize) -> Range<usize> {
        let end = sequence * self.room + self.sequences[sequence].rows;
        end - rows..end
    }

    /// Gives each of these ranges of rows a room of its own.
    fn refill(&mut self, parts: &[Range<usize>], room: usize) {
        let (width, dtype) = (self.rows.shape().width(), self.rows.dtype());
        let mut rows = Tensor::uninit([parts.len() * room, width], dtype);
        with_rows!(dtype.into(), T => {
            let (from, to) = (self.rows.as_slice::<T>(), rows.make_mut::<T>());
            for (i, part) in parts.iter().enumerate() {
                let from = &from[part.start * width..part.end * width];
                to[i * room * width..][..from.len()].copy_from_slice(from);
            }
        });
        (self.rows, self.room) = (rows, room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::Layout;

    #[test]
    fn a_prompt_takes_little_more_room_than_it_has_rows_and_tokens_are_copied_seldom() {
        let mut held = KeyValues::new(2);
        let mut add = |lengths: [usize; 2]| {
            let rows = Tensor::zeros([lengths[0] + lengths[1], 6], DType::F32);
            held.append(&Var::constant(rows, Layout::from_lengths(&lengths, None)), 2, None).unwrap();
            held.room
        };
        let room = add([800, 3]);
        assert!((801..=900).contains(&room), "{room}");
        let rooms: Vec<usize> = (0..200).map(|_| add([1, 1])).collect();
        let copies = rooms.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(copies <= 2, "{copies} copies for 200 tokens");
    }
}
