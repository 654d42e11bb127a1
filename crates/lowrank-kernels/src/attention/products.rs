//! What a task of an attention multiplies, whatever computes it: vectors or a matrix unit.

use std::ops::Range;

use super::mask::Span;
use super::task::Task;
use super::{Attention, AttentionMask, HASH_KEYS, HASH_QUERIES};
use crate::element::Element;
use crate::rows::Rows;
use crate::simd::Vector;

/// Neighbouring queries of one head.
pub(super) struct Block {
    /// Their rows.
    pub(super) rows: Range<usize>,
    /// The head's first column, and its width.
    pub(super) columns: [usize; 2],
}

/// The most query rows of a block.
pub(super) const MOST_QUERIES: usize = 32;

/// Evaluates `$body` with `$engine` as what multiplies rows of `$element` fastest here.
macro_rules! with_engine {
    ($element:ty, $engine:ident => $body:expr) => {{
        type Vectors = $crate::attention::vectors::VectorEngine;
        #[cfg(target_arch = "x86_64")]
        type Tiles = $crate::attention::tiles::TileEngine<$crate::gemm::amx::Processor>;
        #[cfg(not(target_arch = "x86_64"))]
        type Tiles = Vectors;
        let in_bf16 = <$element>::COMPUTE == $crate::Compute::Bf16;
        if in_bf16 && $crate::Tier::active() == $crate::Tier::Amx {
            type $engine = Tiles;
            $body
        } else {
            type $engine = Vectors;
            $body
        }
    }};
}
pub(super) use with_engine;

/// How products are computed.
///
/// A block of scores has a row for each query, as wide as the span of its keys says; one of results or of their gradients has
/// rows of [`padded`](Self::padded) numbers. Both have room for [`QUERY_BLOCK`](Self::QUERY_BLOCK) rows, of which those beyond
/// the block's may be written.
pub(super) trait Engine {
    /// Query rows whose scores exist together.
    const QUERY_BLOCK: usize;
    /// Rows are padded to a multiple of this, itself a multiple of [`HASH_KEYS`].
    const WIDTH: usize;

    /// Fails to compile where the constants do not fit together.
    const CHECKED: () = assert!(
        Self::QUERY_BLOCK <= MOST_QUERIES
            && Self::QUERY_BLOCK.is_multiple_of(HASH_QUERIES)
            && Self::WIDTH.is_multiple_of(HASH_KEYS)
    );

    /// The forward products of a task.
    type Forward<'w>: Forward;
    /// The backward products of a task.
    type Backward<'w>: Backward;

    /// The width of rows of a head.
    fn padded(dim: usize) -> usize {
        dim.next_multiple_of(Self::WIDTH)
    }

    /// The most columns of a block of scores. Spans start at multiples of [`HASH_KEYS`], so that a padded one may end beyond
    /// the padded keys.
    fn columns(keys: usize) -> usize {
        keys.next_multiple_of(HASH_KEYS) + Self::WIDTH - HASH_KEYS
    }

    /// Floats of working memory that [`Engine::forward`] needs.
    fn forward_len(keys: usize, dim: usize) -> usize;

    /// Floats of working memory that [`Engine::backward`] needs.
    fn backward_len(keys: usize, dim: usize) -> usize;

    /// Reads the keys and values of a task.
    fn forward<'w, V: Vector, T: Element>(
        a: &Attention<T>,
        task: &Task,
        working: &'w mut [f32],
    ) -> Self::Forward<'w>;

    /// As [`Engine::forward`].
    fn backward<'w, V: Vector, T: Element>(
        a: &Attention<T>,
        task: &Task,
        working: &'w mut [f32],
    ) -> Self::Backward<'w>;
}

/// The forward products of a task.
pub(super) trait Forward {
    /// `scores = scale·q·kᵀ` of a block; columns of no key hold any finite number.
    fn scores<V: Vector, T: Element>(
        &mut self,
        a: &Attention<T>,
        block: &Block,
        span: &Span,
        scores: &mut [f32],
    );

    /// `results = p·v` of a block of so many rows; columns of no key are 0 in `p`.
    fn results<V: Vector>(&mut self, p: &[f32], rows: usize, span: &Span, results: &mut [f32]);
}

/// The backward products of a task.
pub(super) trait Backward {
    /// As [`Forward::scores`], and `dp = dout·vᵀ`.
    fn scores<V: Vector, T: Element>(
        &mut self,
        a: &Attention<T>,
        dout: Rows<T>,
        block: &Block,
        span: &Span,
        scores: &mut [f32],
        dp: &mut [f32],
    );

    /// From a block's probabilities and the gradients of its scores, after their [`Backward::scores`]: `dq = scale·ds·k`; sums
    /// `scale·dsᵀ·q` and `pᵀ·dout` for the keys and the values. Columns of no key are 0.
    fn gradients<V: Vector>(
        &mut self,
        p: &[f32],
        ds: &[f32],
        rows: usize,
        span: &Span,
        scale: f32,
        dq: &mut [f32],
    );

    /// The sums of all blocks.
    fn sums(&self) -> &Sums<'_>;
}

/// The sums of a task's gradients, over blocks of queries; rows of [`Engine::padded`] numbers.
pub(super) struct Sums<'w> {
    /// For the keys.
    pub(super) k: &'w mut [f32],
    /// For the values.
    pub(super) v: &'w mut [f32],
    /// Whether they hold something. Where the first block writes all of them, it need not add to anything.
    pub(super) more: bool,
}

impl<'w> Sums<'w> {
    /// The sums before the first block of a task.
    #[inline(always)]
    pub(super) fn new<T: Element>(a: &Attention<T>, task: &Task, k: &'w mut [f32], v: &'w mut [f32]) -> Self {
        let more = task.queries.is_empty() || a.mask != AttentionMask::Full;
        if more {
            k.fill(0.0);
            v.fill(0.0);
        }
        Self { k, v, more }
    }
}
