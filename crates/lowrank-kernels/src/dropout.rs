//! Dropout whose masks are recomputed instead of stored.
//!
//! Whether an element is dropped is a function of (seed, step, site, example in the whole batch, token, feature):
//! forward and backward, any number of threads and any split of the batch see the same mask. Philox4x32 with seven
//! rounds hashes the element's coordinates as its counter, under a key made from seed and step with ten rounds. One
//! block of four words decides eight elements (16 bits each: a probability is met to within 2⁻¹⁷).

use crate::element::Element;
use crate::parallel::for_each_row_block;
use crate::random::{FAST_ROUNDS, ROUNDS, philox4x32, philox4x32_vector, words};
use crate::rows::{Rows, RowsMut};
use crate::simd::{Vector, each};

/// Counters hashed together; one hash of a chunk decides `8 * LANES` features.
const LANES: usize = 16;
/// Features that one call of the hash decides. Ranges that start at a multiple waste nothing.
pub const CHUNK: usize = 8 * LANES;

/// What a mask depends on beside the element's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropoutKey {
    /// Seed of the run.
    pub seed: u64,
    /// Optimiser step.
    pub step: u64,
    /// Which dropout of the model.
    pub site: u32,
}

/// The name of a row, the same however the batch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowId {
    /// Index of the sequence in the whole batch (over all accumulated parts).
    pub example: u32,
    /// Index of the token in its sequence.
    pub token: u32,
}

/// A dropout of rows.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// Probability that an element becomes zero, in `[0, 1]`.
    pub probability: f32,
    /// What the mask depends on.
    pub key: DropoutKey,
    /// The names of the rows.
    pub rows: &'a [RowId],
}

/// The hash of one site at one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hash {
    key: [u32; 2],
    site: u32,
    /// Elements whose 16 bits are below are dropped.
    threshold: u32,
    /// Factor of the elements that stay.
    scale: f32,
}

impl Hash {
    pub(crate) fn new(key: DropoutKey, probability: f32) -> Self {
        assert!((0.0..=1.0).contains(&probability), "a dropout probability of {probability}");
        let [low, high] = words(key.step);
        let block = philox4x32::<ROUNDS>([low, high, 0, 0], words(key.seed));
        Self {
            key: [block[0], block[1]],
            site: key.site,
            threshold: (probability * 65_536.0).round() as u32,
            scale: if probability < 1.0 { 1.0 / (1.0 - probability) } else { 0.0 },
        }
    }

    /// Puts the multipliers (0 or the scale) of the eight groups of lanes of one chunk into `out`.
    #[inline(always)]
    pub(crate) fn chunk<V: Vector>(&self, first: u32, row: u32, example: u32, out: &mut [f32]) {
        let out = &mut out[..CHUNK];
        let (threshold, low) = (V::bits(self.threshold), V::bits(0xffff));
        let (zero, scale) = (V::splat(0.0), V::splat(self.scale));
        let mut lane = 0;
        while lane < LANES {
            let counter = [
                V::ascending(first.wrapping_add(lane as u32)),
                V::bits(row),
                V::bits(example),
                V::bits(self.site),
            ];
            let words = philox4x32_vector::<V, FAST_ROUNDS>(counter, self.key);
            for (i, word) in words.into_iter().enumerate() {
                let at = 2 * i * LANES + lane;
                let even = V::select_bits_below(V::and(word, low), threshold, zero, scale);
                let odd = V::select_bits_below(V::shr::<16>(word), threshold, zero, scale);
                even.store(&mut out[at..at + V::LANES]);
                odd.store(&mut out[at + LANES..at + LANES + V::LANES]);
            }
            lane += V::LANES;
        }
    }

    /// Puts the multipliers of the features `start..` of a row into `out`.
    #[inline(always)]
    pub(crate) fn fill<V: Vector>(&self, row: RowId, start: usize, out: &mut [f32]) {
        let mut filled = 0;
        while filled < out.len() {
            let (index, skip) = ((start + filled) / CHUNK, (start + filled) % CHUNK);
            let out = &mut out[filled..];
            let (first, len) = ((index * LANES) as u32, (CHUNK - skip).min(out.len()));
            // One call of the hash in the code, whether the chunk is whole or not.
            let mut part = [0.0; CHUNK];
            let whole = len == CHUNK;
            self.chunk::<V>(first, row.token, row.example, if whole { &mut *out } else { &mut part });
            if !whole {
                out[..len].copy_from_slice(&part[skip..skip + len]);
            }
            filled += len;
        }
    }
}

impl Dropout<'_> {
    pub(crate) fn hash(&self) -> Hash {
        Hash::new(self.key, self.probability)
    }

    pub(crate) fn check(&self, rows: usize) {
        assert_eq!(self.rows.len(), rows, "a dropout of {} rows on {rows}", self.rows.len());
    }
}

multiversion! {
    fn apply_row[V, T: Element](x: &[T], hash: &Hash, row: RowId, y: &mut [T]) {
        let mut factors = [0.0; CHUNK];
        for (index, (x, y)) in x.chunks(CHUNK).zip(y.chunks_mut(CHUNK)).enumerate() {
            hash.chunk::<V>((index * LANES) as u32, row.token, row.example, &mut factors);
            each::<V>(x.len(), #[inline(always)] |at, n| {
                V::load_some(x, at, n).mul(V::load(&factors[at..])).store_some(y, at, n);
            });
        }
    }
}

/// `y = dropout(x)`. Backward is the same function on gradients.
///
/// # Shapes
/// `x` and `y`: `[rows, cols]`; `dropout` names as many rows.
pub fn apply<T: Element>(x: Rows<T>, dropout: &Dropout, y: RowsMut<T>) {
    (T::COMPILED.dropout)(x, dropout, y);
}

pub(crate) fn apply_kernel<T: Element>(x: Rows<T>, dropout: &Dropout, y: RowsMut<T>) {
    dropout.check(x.rows());
    assert_eq!((x.rows(), x.cols()), (y.rows(), y.cols()));
    let hash = dropout.hash();
    for_each_row_block(x.rows(), 4 * x.cols(), y, |range, mut y| {
        for (i, row) in range.enumerate() {
            apply_row(x.row(row), &hash, dropout.rows[row], y.row(i));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Plain;

    #[test]
    fn a_part_of_a_row_has_the_mask_of_the_whole_there() {
        let hash = Hash::new(DropoutKey { seed: 42, step: 1 << 33, site: 5 }, 0.5);
        let row = RowId { example: 7, token: 13 };
        let mut whole = [0.0; 500];
        hash.fill::<Plain>(row, 0, &mut whole);
        for (start, len) in [(0, 500), (1, 3), (127, 2), (128, 128), (200, 299), (499, 1), (0, 0)] {
            let mut part = vec![9.0; len];
            hash.fill::<Plain>(row, start, &mut part);
            assert_eq!(part, whole[start..][..len]);
        }
    }
}
