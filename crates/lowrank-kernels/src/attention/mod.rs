//! Attention on ragged rows: within sequences or from targets to sources, masked or not.
//!
//! A task is a sequence and one of its heads of keys, with the heads of queries that read it. It brings its keys and
//! values into thread-local memory and works on blocks of query rows, so that no more than a block of scores exists
//! at a time, over the keys that the mask leaves them; backward recomputes probabilities from the logarithm of their
//! sum. The products of a block are on vectors, in f32, or for rows of bf16 on the tiles of a matrix unit (`Engine`).

pub(crate) mod backward;
mod bias;
mod dropout;
pub(crate) mod forward;
mod heads;
mod mask;
mod products;
mod task;
#[cfg(any(test, target_arch = "x86_64"))]
mod tiles;
mod vectors;

use std::ops::Range;

pub use backward::{AttentionGradients, backward};
pub use bias::DistanceBias;
pub use dropout::AttentionDropout;
pub use forward::forward;
pub use mask::AttentionMask;

use crate::element::Element;
use crate::rows::Rows;

/// Queries that share a hash of the dropout.
const HASH_QUERIES: usize = 8;
/// Keys that share a hash of the dropout; the keys of a block of scores start at a multiple of this.
const HASH_KEYS: usize = 16;

/// The most heads of an attention: their numbers have twelve bits in a dropout's counter.
pub const MOST_HEADS: usize = (1 << 12) - 1;
/// The most tokens of a sequence under dropout: their numbers have the other twenty.
pub const MOST_TOKENS: usize = 1 << 20;

/// The heads of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Number of heads.
    pub heads: usize,
    /// Number of heads that keys and values have; it divides `heads`. Head `h` of the queries reads head
    /// `h / (heads / kv_heads)` of them.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / √head_dim`.
    pub scale: f32,
}

impl AttentionShape {
    /// Heads of the queries that read the same keys.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// The rows that hold the keys and values of each sequence.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// One sequence after the other: where each starts, and the end of the last.
    Offsets(&'a [usize]),
    /// Each sequence's rows, which may lie anywhere, as in a cache with room to grow.
    Ranges(&'a [Range<usize>]),
}

impl Keys<'_> {
    fn sequences(&self) -> usize {
        match self {
            Self::Offsets(offsets) => offsets.len().saturating_sub(1),
            Self::Ranges(ranges) => ranges.len(),
        }
    }

    fn of(&self, sequence: usize) -> Range<usize> {
        match self {
            Self::Offsets(offsets) => offsets[sequence]..offsets[sequence + 1],
            Self::Ranges(ranges) => ranges[sequence].clone(),
        }
    }
}

/// What an attention reads.
///
/// # Shapes
/// `q`: `[targets, heads·head_dim]`; `k` and `v`: `[sources, kv_heads·head_dim]`. Head `h` begins at column
/// `h·head_dim`.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a, T> {
    /// The queries.
    pub q: Rows<'a, T>,
    /// The keys.
    pub k: Rows<'a, T>,
    /// The values.
    pub v: Rows<'a, T>,
    /// Where the queries of each sequence start, and the end of the last. Rows of no sequence are left alone.
    pub queries: &'a [usize],
    /// The keys and values of each sequence.
    pub keys: Keys<'a>,
    /// The heads.
    pub shape: AttentionShape,
    /// Which keys a query sees.
    pub mask: AttentionMask,
    /// What is added to the scores.
    pub bias: Option<DistanceBias<'a>>,
    /// Dropout of the probabilities.
    pub dropout: Option<AttentionDropout<'a>>,
}

impl<'a, T: Element> Attention<'a, T> {
    /// Attention within the sequences between `offsets`, every token seeing every other.
    ///
    /// # Shapes
    /// `qkv`: `[tokens, (heads + 2·kv_heads)·head_dim]`, queries, keys and values side by side.
    ///
    /// # Panics
    /// If the rows have another width.
    pub fn within(qkv: Rows<'a, T>, offsets: &'a [usize], shape: AttentionShape) -> Self {
        let [q, kv] = widths(shape);
        assert_eq!(
            Some(qkv.cols()),
            kv.checked_mul(2).and_then(|kv| kv.checked_add(q)),
            "q, k and v side by side"
        );
        Self {
            q: qkv.narrow(0, q),
            k: qkv.narrow(q, kv),
            v: qkv.narrow(q + kv, kv),
            queries: offsets,
            keys: Keys::Offsets(offsets),
            shape,
            mask: AttentionMask::Full,
            bias: None,
            dropout: None,
        }
    }

    /// Fails unless everything fits together.
    fn check(&self) {
        let (sequences, shape) = (self.keys.sequences(), self.shape);
        let [q, kv] = widths(shape);
        assert_eq!((self.q.cols(), self.k.cols(), self.v.cols()), (q, kv, kv), "widths of q, k and v");
        assert_eq!(self.k.rows(), self.v.rows(), "as many keys as values");
        assert_eq!(self.queries.len(), sequences + 1, "offsets of {sequences} sequences of keys");
        assert!(self.queries.is_sorted(), "offsets ascend");
        assert!(self.queries[sequences] <= self.q.rows(), "offsets of {} queries", self.q.rows());
        for sequence in 0..sequences {
            let (keys, queries) =
                (self.keys.of(sequence), self.queries[sequence + 1] - self.queries[sequence]);
            assert!(
                keys.start <= keys.end && keys.end <= self.k.rows(),
                "keys {keys:?} of {}",
                self.k.rows()
            );
            if let Some(bias) = &self.bias {
                bias.check(shape.heads, self.mask, queries, keys.len());
            }
            let fits = queries <= MOST_TOKENS && keys.len() <= MOST_TOKENS;
            assert!(self.dropout.is_none() || fits, "at most {MOST_TOKENS} tokens in a sequence");
        }
        if let Some(dropout) = &self.dropout {
            assert_eq!(dropout.examples.len(), sequences);
        }
    }
}

/// The widths of the queries, and of the keys or the values.
fn widths(shape: AttentionShape) -> [usize; 2] {
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    assert!(heads <= MOST_HEADS, "at most {MOST_HEADS} heads");
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads over {kv_heads} of keys");
    let width = |heads: usize| heads.checked_mul(head_dim).expect("heads that fit into memory");
    [width(heads), width(kv_heads)]
}
