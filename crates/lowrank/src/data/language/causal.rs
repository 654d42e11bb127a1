//! A tokenised data set for causal language models, packed.

use rayon::prelude::*;

use crate::fnv::Fnv;
use crate::{Error, Result};

/// Rows tokenised in parallel at a time; what one of these holds is the only memory beside the packed result.
const CHUNK: usize = 4096;

/// The token ids of a data set, one after the other, which of them are learnt, and where each example begins.
#[derive(Debug, Clone)]
pub struct CausalDataset {
    ids: Vec<u32>,
    /// Of each token.
    targets: Vec<bool>,
    /// `examples + 1` places in `ids`.
    bounds: Vec<usize>,
    lines: Vec<u32>,
    /// Whether each example lost its end.
    cut: Vec<bool>,
    /// How many examples were longer than the longest allowed and lost their ends.
    pub truncated: usize,
    /// How many rows left nothing to learn and were left out.
    pub skipped: usize,
    /// What is wrong with the first of these.
    pub skipped_because: Option<String>,
}

/// One example of a [`CausalDataset`].
#[derive(Debug, Clone, Copy)]
pub struct CausalExample<'a> {
    /// Its token ids, special tokens included.
    pub ids: &'a [u32],
    /// Whether each token is to be predicted from those before it; the first never is.
    pub targets: &'a [bool],
    /// Its line in the file, counted from 1; that of the first document of a packed block.
    pub line: usize,
    /// Whether it lost its end.
    pub truncated: bool,
}

/// A row made into tokens.
pub(super) struct Tokens {
    pub ids: Vec<u32>,
    pub targets: Vec<bool>,
    pub line: usize,
}

impl CausalDataset {
    pub(super) fn empty() -> Self {
        Self {
            ids: Vec::new(),
            targets: Vec::new(),
            bounds: vec![0],
            lines: Vec::new(),
            cut: Vec::new(),
            truncated: 0,
            skipped: 0,
            skipped_because: None,
        }
    }

    /// Adds an example; one without a target is not added, and `false`.
    pub(super) fn push(&mut self, ids: &[u32], targets: &[bool], line: usize) -> bool {
        if !targets.iter().skip(1).any(|&target| target) {
            return false;
        }
        self.ids.extend_from_slice(ids);
        self.targets.push(false);
        self.targets.extend(targets.iter().skip(1));
        self.bounds.push(self.ids.len());
        self.lines.push(u32::try_from(line).unwrap_or(u32::MAX));
        self.cut.push(false);
        true
    }

    /// Notes that the example that was added last lost its end.
    pub(super) fn note_cut(&mut self) {
        self.truncated += 1;
        if let Some(cut) = self.cut.last_mut() {
            *cut = true;
        }
    }

    /// Adds the examples of another file.
    pub(crate) fn append(&mut self, other: Self) {
        let start = self.ids.len();
        self.ids.extend(other.ids);
        self.targets.extend(other.targets);
        self.bounds.extend(other.bounds.iter().skip(1).map(|bound| start + bound));
        self.lines.extend(other.lines);
        self.cut.extend(other.cut);
        self.truncated += other.truncated;
        self.skipped += other.skipped;
        self.skipped_because = self.skipped_because.take().or(other.skipped_because);
    }

    /// Leaves out a row for this reason; it is an error if `strict`.
    pub(super) fn skip(&mut self, strict: bool, because: Error) -> Result<()> {
        if strict {
            return Err(because);
        }
        self.skipped += 1;
        self.skipped_because.get_or_insert_with(|| because.to_string());
        Ok(())
    }

    /// Gives back memory that growing took.
    pub(super) fn finished(mut self) -> Self {
        self.ids.shrink_to_fit();
        self.targets.shrink_to_fit();
        self
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many tokens all examples have together.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// How many of them are to be predicted.
    pub fn targets(&self) -> usize {
        self.targets.iter().filter(|&&target| target).count()
    }

    /// A number that changes with the tokens, targets and bounds: FNV-1a over all of them.
    pub fn fingerprint(&self) -> u64 {
        let tokens = self.ids.iter().zip(&self.targets);
        let tokens = tokens.map(|(&id, &target)| u64::from(id) << 1 | u64::from(target));
        let mut hash = Fnv::default();
        tokens.chain(self.bounds.iter().map(|&bound| bound as u64)).for_each(|word| hash.add_word(word));
        hash.0
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
    pub fn get(&self, index: usize) -> Option<CausalExample<'_>> {
        let range = *self.bounds.get(index)?..*self.bounds.get(index + 1)?;
        Some(CausalExample {
            ids: &self.ids[range.clone()],
            targets: &self.targets[range],
            line: self.lines[index] as usize,
            truncated: self.cut[index],
        })
    }

    /// The examples in file order.
    pub fn iter(&self) -> impl Iterator<Item = CausalExample<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// Hands what `make` makes of each row to `take`, in order, making them on all threads; the first row's error comes first.
pub(super) fn in_order<T: Sync, M: Send>(
    rows: &[T],
    make: impl Fn(&T) -> Result<M> + Sync,
    mut take: impl FnMut(&T, M) -> Result<()>,
) -> Result<()> {
    for chunk in rows.chunks(CHUNK) {
        let made: Vec<Result<M>> = chunk.par_iter().map(&make).collect();
        for (row, made) in chunk.iter().zip(made) {
            take(row, made?)?;
        }
    }
    Ok(())
}

/// A length in which something can be predicted from something.
pub(super) fn check_length(max_length: usize) -> Result<()> {
    if max_length < 2 {
        let reason = format!("{max_length} leaves no room for a token and the one before it; 2 is the least");
        return Err(Error::setting("data.max_length", reason));
    }
    Ok(())
}
