//! A bias of the scores by the distance between key and query.

use std::ops::Range;

use super::AttentionMask;
use crate::rows::Rows;

/// What is added to the score of a query and a key, by the key's position less the query's.
#[derive(Clone, Copy, Debug)]
pub struct DistanceBias<'a> {
    /// A row for each head, of neighbouring distances.
    ///
    /// # Shapes
    /// `[heads, distances]`.
    pub values: Rows<'a, f32>,
    /// The column of distance 0.
    pub zero: usize,
}

impl<'a> DistanceBias<'a> {
    pub(super) fn check(&self, heads: usize, mask: AttentionMask, queries: usize, keys: usize) {
        assert_eq!(self.values.rows(), heads, "biases of {heads} heads");
        if queries == 0 || keys == 0 {
            return;
        }
        let (before, after) = match mask {
            AttentionMask::Full => (keys - 1, queries - 1),
            AttentionMask::Causal => (keys - 1, 0),
            AttentionMask::Window(most) => (most.min(keys).max(1) - 1, 0),
        };
        let inside = self.zero >= before && after < self.values.cols().saturating_sub(self.zero);
        assert!(inside, "biases from {before} before to {after} after a query");
    }

    /// The biases of query `i` of `queries` for the keys that it sees of `keys`.
    #[inline(always)]
    pub(super) fn row(&self, head: usize, [i, queries, keys]: [usize; 3], seen: &Range<usize>) -> &'a [f32] {
        if seen.is_empty() {
            return &[];
        }
        let start = self.zero + seen.start + queries - i - keys;
        &self.values.row(head)[start..start + seen.len()]
    }
}

/// The gradients of the biases in one sequence: for each head the distances from `1 - keys` to `queries - 1`.
#[derive(Clone, Copy)]
pub(super) struct Distances {
    pub(super) queries: usize,
    pub(super) keys: usize,
}

impl Distances {
    pub(super) fn len(&self) -> usize {
        if self.queries == 0 || self.keys == 0 { 0 } else { self.queries + self.keys - 1 }
    }

    /// The places of query `i` and the keys `seen`.
    #[inline(always)]
    pub(super) fn row(&self, i: usize, seen: &Range<usize>) -> Range<usize> {
        let first = self.queries - 1 - i;
        seen.start + first..seen.end + first
    }

    /// Adds one head's sums to a row of distances whose column `zero` is distance 0.
    pub(super) fn add(&self, sums: &[f32], zero: usize, to: &mut [f32]) {
        // What lies beyond the row belongs to pairs that the mask hides, and is zero.
        let skip = (self.keys.saturating_sub(1)).saturating_sub(zero);
        let start = (zero + 1 + skip).saturating_sub(self.keys);
        let sums = sums.get(skip..).unwrap_or(&[]);
        to.get_mut(start..).unwrap_or(&mut []).iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
    }
}
