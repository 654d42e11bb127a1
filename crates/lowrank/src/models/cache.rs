//! What a model keeps between the tokens that it generates.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::tape::{KeyValues, Var};

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
    pub fn reorder(&self, order: &[usize]) {
        self.layers.iter().for_each(|layer| lock(layer).reorder(order));
    }

    pub(super) fn layer(&self, layer: usize) -> MutexGuard<'_, KeyValues> {
        lock(&self.layers[layer])
    }

    pub(super) fn source(&self, layer: usize) -> MutexGuard<'_, Option<Var>> {
        lock(&self.sources[layer])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
