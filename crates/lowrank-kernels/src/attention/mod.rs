//! Bidirectional self-attention on ragged rows.
//!
//! Each (sequence, head) is a task. It widens its q, k and v into thread-local memory and works on blocks of query
//! rows, so that no more than a block of scores exists at a time; backward recomputes probabilities from the
//! logarithm of their sum. Sequences are short here (often ten tokens), so the products are the register-blocked
//! loops of `tile`: a call of a library GEMM costs more than such a head.

pub(crate) mod backward;
pub(crate) mod forward;

pub use backward::backward;
pub use forward::forward;

use crate::dropout::{DropoutKey, Hash};
use crate::element::Element;
use crate::parallel;
use crate::rows::{Rows, RowsMut};
use crate::simd::{Vector, each};

/// Query rows whose scores exist together.
const QUERY_BLOCK: usize = 16;
/// Queries that share a hash of the dropout.
const HASH_QUERIES: usize = 8;
/// Keys that share a hash of the dropout; also what rows of scores are padded to.
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
    /// Width of a head.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / √head_dim`.
    pub scale: f32,
}

/// Dropout of the attention's probabilities. The mask is a function of the key, the example, the head, and the
/// positions of query and key in their sequence.
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
    fn hash(&self) -> Hash {
        Hash::new(self.key, self.probability)
    }
}

/// The dropout of one (sequence, head).
#[derive(Clone, Copy)]
struct HeadMask {
    hash: Hash,
    example: u32,
    head: u32,
}

impl HeadMask {
    /// Puts the multipliers of `queries` rows from position `first` on (a multiple of [`HASH_QUERIES`]) into `out`,
    /// rows of `stride` (a multiple of [`HASH_KEYS`]).
    #[inline(always)]
    fn fill<V: Vector>(&self, first: usize, queries: usize, stride: usize, out: &mut [f32]) {
        let mut chunk = [0.0; HASH_QUERIES * HASH_KEYS];
        for group in (0..queries).step_by(HASH_QUERIES) {
            let rows = HASH_QUERIES.min(queries - group);
            for key in (0..stride).step_by(HASH_KEYS) {
                // Keys take 20 bits of the counter's first word, heads the other 12.
                let counter = key as u32 | self.head << 20;
                self.hash.chunk::<V>(
                    counter,
                    ((first + group) / HASH_QUERIES) as u32,
                    self.example,
                    &mut chunk,
                );
                for (row, multipliers) in chunk.chunks_exact(HASH_KEYS).take(rows).enumerate() {
                    out[(group + row) * stride + key..][..HASH_KEYS].copy_from_slice(multipliers);
                }
            }
        }
    }
}

/// One (sequence, head).
#[derive(Clone, Copy)]
struct Task {
    sequence: usize,
    head: usize,
    /// First row.
    start: usize,
    /// Tokens.
    len: usize,
}

/// Checks what forward and backward have in common.
fn check(
    tokens: usize,
    width: usize,
    offsets: &[usize],
    shape: AttentionShape,
    dropout: Option<&AttentionDropout>,
) {
    let sequences = offsets.len().saturating_sub(1);
    assert!(
        !offsets.is_empty() && offsets[0] == 0 && offsets[sequences] == tokens,
        "offsets cover {tokens} tokens"
    );
    assert!(offsets.is_sorted(), "offsets ascend");
    let needed = shape.heads.checked_mul(shape.head_dim).and_then(|width| width.checked_mul(3));
    assert_eq!(Some(width), needed, "q, k and v side by side");
    assert!(shape.heads <= MOST_HEADS, "at most {MOST_HEADS} heads");
    if let Some(dropout) = dropout {
        assert_eq!(dropout.examples.len(), sequences);
        assert!(
            offsets.windows(2).all(|pair| pair[1] - pair[0] <= MOST_TOKENS),
            "at most {MOST_TOKENS} tokens in a sequence"
        );
    }
}

/// Calls `work` for every (sequence, head) with tokens, over threads, in parts of about equal cost.
fn for_each_task(offsets: &[usize], shape: AttentionShape, work: &(impl Fn(Task) + Sync)) {
    let sequences = offsets.len() - 1;
    parallel::flush_denormals();
    let total = cost(offsets, shape);
    let most =
        if parallel::threads() == 1 { usize::MAX } else { (total / (4 * parallel::threads())).max(1 << 17) };
    divide(offsets, 0..sequences, 0..shape.heads, shape, most, work);
}

/// Element operations of all heads of the sequences between `offsets`.
fn cost(offsets: &[usize], shape: AttentionShape) -> usize {
    let head: usize = offsets
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .map(|len| len * shape.head_dim * (len.next_multiple_of(HASH_KEYS) / 4 + 4))
        .sum();
    head * shape.heads
}

fn divide(
    offsets: &[usize],
    sequences: std::ops::Range<usize>,
    heads: std::ops::Range<usize>,
    shape: AttentionShape,
    most: usize,
    work: &(impl Fn(Task) + Sync),
) {
    let part = AttentionShape { heads: heads.len(), ..shape };
    let cost_of = |range: std::ops::Range<usize>| cost(&offsets[range.start..=range.end], part);
    let total = cost_of(sequences.clone());
    if total <= most || (sequences.len() <= 1 && heads.len() <= 1) {
        parallel::flush_denormals();
        for sequence in sequences {
            let (start, len) = (offsets[sequence], offsets[sequence + 1] - offsets[sequence]);
            if len > 0 {
                heads.clone().for_each(|head| work(Task { sequence, head, start, len }));
            }
        }
        return;
    }
    if sequences.len() > 1 {
        let mut middle = sequences.start + 1;
        let mut before = cost_of(sequences.start..middle);
        while middle + 1 < sequences.end && before < total / 2 {
            before += cost_of(middle..middle + 1);
            middle += 1;
        }
        rayon::join(
            || divide(offsets, sequences.start..middle, heads.clone(), shape, most, work),
            || divide(offsets, middle..sequences.end, heads.clone(), shape, most, work),
        );
    } else {
        let middle = heads.start + heads.len() / 2;
        rayon::join(
            || divide(offsets, sequences.clone(), heads.start..middle, shape, most, work),
            || divide(offsets, sequences.clone(), middle..heads.end, shape, most, work),
        );
    }
}

/// Rows whose columns are written by several tasks, each its own.
struct SharedRows<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrowed: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `part`, whose callers write disjoint parts; elements are plain numbers.
unsafe impl<T: Element> Sync for SharedRows<'_, T> {}

impl<'a, T: Element> SharedRows<'a, T> {
    fn new(rows: &'a mut RowsMut<T>) -> Self {
        let (count, cols, stride) = (rows.rows(), rows.cols(), rows.stride());
        Self { data: rows.data().as_mut_ptr(), rows: count, cols, stride, borrowed: std::marker::PhantomData }
    }

    /// `len` elements from `start` on, of rows without gaps.
    ///
    /// # Safety
    /// No two parts that overlap are alive at a time.
    #[allow(clippy::mut_from_ref)]
    unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(self.stride == self.cols && start + len <= self.rows * self.cols);
        // SAFETY: as for `part`.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// The columns `start .. start + len` of `row`.
    ///
    /// # Safety
    /// No two parts that overlap are alive at a time.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    unsafe fn part(&self, row: usize, start: usize, len: usize) -> &mut [T] {
        assert!(row < self.rows && start + len <= self.cols);
        // SAFETY: the place is inside the borrowed rows by the assertion, and nothing else refers to it by this
        // function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride + start), len) }
    }
}

/// Widens one head's columns (from `column` on) of the rows of a task, times `scale`, into rows of `stride`.
#[inline(always)]
fn widen_head<V: Vector, T: Element>(
    rows: Rows<T>,
    task: Task,
    column: usize,
    dim: usize,
    scale: f32,
    stride: usize,
    out: &mut [f32],
) {
    let scale = V::splat(scale);
    for (i, out) in out.chunks_exact_mut(stride).take(task.len).enumerate() {
        let row = &rows.row(task.start + i)[column..column + dim];
        each::<V>(
            dim,
            #[inline(always)]
            |at, n| V::load_some(row, at, n).mul(scale).store(&mut out[at..]),
        );
        let written = dim.next_multiple_of(V::LANES);
        out[written..].fill(0.0);
    }
}

/// `out[c, i] = rows[i, c]` for `len` rows of `stride`; columns up to `padded` become zero.
#[inline(always)]
fn transpose_head(rows: &[f32], len: usize, dim: usize, stride: usize, padded: usize, out: &mut [f32]) {
    // Four rows at a time, so that a store moves as many numbers.
    let whole = len / 4 * 4;
    for first in (0..whole).step_by(4) {
        let row = |i: usize| &rows[(first + i) * stride..][..dim];
        let columns = row(0).iter().zip(row(1)).zip(row(2).iter().zip(row(3)));
        for (out, ((a, b), (c, d))) in out.chunks_exact_mut(padded).zip(columns) {
            out[first..first + 4].copy_from_slice(&[*a, *b, *c, *d]);
        }
    }
    for (c, out) in out.chunks_exact_mut(padded).take(dim).enumerate() {
        for (i, out) in out[whole..len].iter_mut().enumerate() {
            *out = rows[(whole + i) * stride + c];
        }
        out[len..].fill(0.0);
    }
}
