//! What a model keeps between the tokens that it generates.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::tape::{KeyValues, Layout, Tape, Var, offsets_of, ops};
use crate::{Error, Result};

/// The keys and values of every layer, for several sequences.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<Mutex<KeyValues>>,
    /// For each layer of an encoder-decoder its source's keys and values, once they are there.
    sources: Vec<Mutex<Option<Var>>>,
}

impl Cache {
    /// Nothing yet.
    pub fn new(layers: usize, sequences: usize) -> Self {
        Self {
            layers: (0..layers).map(|_| Mutex::new(KeyValues::new(sequences))).collect(),
            sources: (0..layers).map(|_| Mutex::default()).collect(),
        }
    }

    /// How many tokens of a sequence are kept.
    pub fn len(&self, sequence: usize) -> usize {
        self.layers.first().map_or(0, |layer| lock(layer).len(sequence))
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len(0) == 0
    }

    /// The sequences become copies of those with these numbers, which are of the same sources.
    ///
    /// # Errors
    /// If there is no such sequence.
    pub fn reorder(&self, order: &[usize]) -> Result<()> {
        self.layers.iter().try_for_each(|layer| lock(layer).reorder(order))
    }

    /// The sequences with these numbers stay, the others are left.
    ///
    /// # Errors
    /// If there is no such sequence.
    pub fn keep(&self, sequences: &[usize]) -> Result<()> {
        for source in &self.sources {
            let mut source = lock(source);
            if let Some(kept) = source.as_mut() {
                *kept = select_sequences(kept, sequences)?;
            }
        }
        self.reorder(sequences)
    }

    pub(super) fn layer(&self, layer: usize) -> MutexGuard<'_, KeyValues> {
        lock(&self.layers[layer])
    }

    pub(super) fn source(&self, layer: usize) -> MutexGuard<'_, Option<Var>> {
        lock(&self.sources[layer])
    }
}

/// The rows of some of the sequences, each of which may be taken several times; no gradient goes back.
pub(crate) fn select_sequences(x: &Var, sequences: &[usize]) -> Result<Var> {
    let offsets = x.layout().offsets();
    let (mut rows, mut lengths, mut adapters) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in sequences {
        let (Some(start), Some(end)) = (offsets.get(*sequence), offsets.get(sequence + 1)) else {
            return Err(Error::Usage(format!("there is no sequence {sequence}")));
        };
        rows.extend(*start..*end);
        lengths.push(end - start);
        adapters.extend(x.layout().adapters().get(*sequence));
    }
    let examples = (0..sequences.len() as u32).collect();
    let layout = Layout::new(offsets_of(&lengths), examples, adapters)?;
    ops::select_rows(&mut Tape::inference(x.compute()), x, &rows, &layout, false)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
