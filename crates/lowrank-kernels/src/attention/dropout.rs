//! Dropout of the attention's probabilities.

use super::{HASH_KEYS, HASH_QUERIES};
use crate::dropout::{DropoutKey, Hash};
use crate::simd::Vector;

/// Dropout of the attention's probabilities. The mask is a function of the key, the example, the head, and the
/// places of query and key among those of their sequence.
#[derive(Clone, Copy, Debug)]
pub struct AttentionDropout<'a> {
    /// Probability that an attention weight becomes zero.
    pub probability: f32,
    /// What the mask depends on.
    pub key: DropoutKey,
    /// For each sequence its index in the whole batch.
    pub examples: &'a [u32],
}

impl AttentionDropout<'_> {
    pub(super) fn hash(&self) -> Hash {
        Hash::new(self.key, self.probability)
    }
}

/// The dropout of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Multipliers {
    pub(super) hash: Hash,
    pub(super) example: u32,
}

impl Multipliers {
    /// Puts the multipliers of `queries` rows from `first` on (a multiple of [`HASH_QUERIES`]) and `keys` keys from
    /// `start` on (both multiples of [`HASH_KEYS`]) into `out`, rows of `keys`.
    #[inline(always)]
    pub(super) fn fill<V: Vector>(
        &self,
        head: usize,
        [first, queries]: [usize; 2],
        [start, keys]: [usize; 2],
        out: &mut [f32],
    ) {
        let mut chunk = [0.0; HASH_QUERIES * HASH_KEYS];
        for group in (0..queries).step_by(HASH_QUERIES) {
            let rows = HASH_QUERIES.min(queries - group);
            for key in (0..keys).step_by(HASH_KEYS) {
                // Keys take 20 bits of the counter's first word, heads the other 12.
                let counter = (start + key) as u32 | (head as u32) << 20;
                let query = ((first + group) / HASH_QUERIES) as u32;
                self.hash.chunk::<V>(counter, query, self.example, &mut chunk);
                for (row, multipliers) in chunk.chunks_exact(HASH_KEYS).take(rows).enumerate() {
                    out[(group + row) * keys + key..][..HASH_KEYS].copy_from_slice(multipliers);
                }
            }
        }
    }
}
