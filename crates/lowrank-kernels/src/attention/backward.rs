//! Attention, backward.

use super::bias::Distances;
use super::dropout::Multipliers;
use super::heads::{cut, store};
use super::products::{Backward, Block, Engine, with_engine};
use super::task::{Task, for_each_task};
use super::{Attention, Keys};
use crate::columns::ColumnsMut;
use crate::element::Element;
use crate::math;
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::{Vector, each};

/// Where the gradients of an attention go. Those of rows are assigned, those of the biases added.
#[derive(Debug)]
pub struct AttentionGradients<'a, T> {
    /// `[targets, heads·head_dim]`.
    pub q: ColumnsMut<'a, T>,
    /// `[sources, kv_heads·head_dim]`.
    pub k: ColumnsMut<'a, T>,
    /// As `k`.
    pub v: ColumnsMut<'a, T>,
    /// `[heads, distances]`, as the biases themselves.
    pub bias: Option<RowsMut<'a, f32>>,
}

/// What forward left, and the gradient of its output.
#[derive(Clone, Copy)]
struct Output<'a, T> {
    gradient: Rows<'a, T>,
    logsumexp: &'a [f32],
}

/// A row of scores and of gradients of its probabilities becomes the dropped probabilities and the gradients of the
/// scores.
///
/// The mean of the gradients is summed here, not taken from the output: that is rounded, and need not be kept.
#[inline(always)]
fn differentiate<V: Vector>(p: &mut [f32], dp: &mut [f32], factors: Option<&[f32]>, logsumexp: f32) {
    let shift = V::splat(logsumexp);
    let mut inner = V::splat(0.0);
    let mut at = 0;
    while at < p.len() {
        let probability = math::exp(V::load(&p[at..]).sub(shift));
        let mut gradient = V::load(&dp[at..]);
        if let Some(factors) = factors {
            gradient = gradient.mul(V::load(&factors[at..]));
            gradient.store(&mut dp[at..]);
        }
        inner = probability.madd(gradient, inner);
        probability.store(&mut p[at..]);
        at += V::LANES;
    }
    let inner = V::splat(inner.sum());
    let mut at = 0;
    while at < p.len() {
        let probability = V::load(&p[at..]);
        if let Some(factors) = factors {
            probability.mul(V::load(&factors[at..])).store(&mut p[at..]);
        }
        probability.mul(V::load(&dp[at..]).sub(inner)).store(&mut dp[at..]);
        at += V::LANES;
    }
}

/// `a += b`.
#[inline(always)]
fn add<V: Vector>(a: &mut [f32], b: &[f32]) {
    each::<V>(
        b.len(),
        #[inline(always)]
        |at, n| V::load_some(a, at, n).add(V::load_some(b, at, n)).store_some(a, at, n),
    );
}

multiversion! {
    /// One task, with all heads that read its keys. `distances` gets the gradients of the biases, head by head,
    /// unless it is empty.
    fn group[V, T: Element, E: Engine](
        a: &Attention<T>, output: Output<T>, task: &Task, dropout: Option<Multipliers>, working: &mut [f32],
        to_q: &ColumnsMut<T>, to_k: &ColumnsMut<T>, to_v: &ColumnsMut<T>, distances: &mut [f32],
    ) {
        let (len, keys, dim) = (task.queries.len(), task.keys.len(), a.shape.head_dim);
        let (columns, padded) = (E::columns(keys), E::padded(dim));
        let rest = &mut &mut *working;
        let (p, dp) = (cut(rest, E::QUERY_BLOCK * columns), cut(rest, E::QUERY_BLOCK * columns));
        let dq = cut(rest, E::QUERY_BLOCK * padded);
        let mut products = E::backward::<V, T>(a, task, cut(rest, E::backward_len(keys, dim)));
        let factors = &mut **rest;
        let pairs = Distances { queries: len, keys };
        distances.fill(0.0);

        for (place, head) in task.heads.clone().enumerate() {
            let logsumexp = &output.logsumexp[task.queries.start * a.shape.heads + head * len..][..len];
            for first in (0..len).step_by(E::QUERY_BLOCK) {
                let rows = E::QUERY_BLOCK.min(len - first);
                let span = a.mask.span(first..first + rows, len, keys, E::WIDTH);
                let start = task.queries.start + first;
                let block = Block { rows: start..start + rows, columns: [head * dim, dim] };
                products.scores::<V, T>(a, output.gradient, &block, &span, p, dp);
                if let Some(dropout) = &dropout {
                    dropout.fill::<V>(head, [first, rows], [span.start, span.width], factors);
                }
                for i in 0..rows {
                    let seen = a.mask.seen(first + i, len, keys);
                    let local = span.columns(&seen);
                    let at = i * span.width;
                    let (p, dp) = (&mut p[at..][..span.width], &mut dp[at..][..span.width]);
                    if let Some(bias) = &a.bias {
                        add::<V>(&mut p[local.clone()], bias.row(head, [first + i, len, keys], &seen));
                    }
                    p[..local.start].fill(f32::NEG_INFINITY);
                    p[local.end..].fill(f32::NEG_INFINITY);
                    let factors = if dropout.is_some() { Some(&factors[at..][..span.width]) } else { None };
                    differentiate::<V>(p, dp, factors, logsumexp[first + i]);
                    if !distances.is_empty() && !seen.is_empty() {
                        let head = &mut distances[place * pairs.len()..][..pairs.len()];
                        add::<V>(&mut head[pairs.row(first + i, &seen)], &dp[local]);
                    }
                }
                products.gradients::<V>(p, dp, rows, &span, a.shape.scale, dq);
                // SAFETY: this task alone has its heads' columns of its sequence's rows.
                unsafe { store::<V, T>(dq, rows, padded, start, block.columns, to_q) };
            }
        }
        let (sums, columns) = (products.sums(), [task.kv_head * dim, dim]);
        // SAFETY: this task alone has its keys' head of its sequence's rows, which no other sequence shares.
        unsafe {
            store::<V, T>(sums.k, keys, padded, task.keys.start, columns, to_k);
            store::<V, T>(sums.v, keys, padded, task.keys.start, columns, to_v);
        }
    }
}

/// The backward of [`super::forward`]: `gradients` from the gradient `dout` of its output.
///
/// # Shapes
/// `dout`: `[targets, heads·head_dim]`; `logsumexp`: `[targets·heads]`, as forward left it.
///
/// # Panics
/// If sizes do not fit together, or sequences share keys, or their keys are not in the order of the sequences.
pub fn backward<T: Element>(
    attention: &Attention<T>,
    logsumexp: &[f32],
    dout: Rows<T>,
    gradients: AttentionGradients<T>,
) {
    (T::COMPILED.attention_backward)(attention, logsumexp, dout, gradients);
}

pub(crate) fn backward_kernel<T: Element>(
    attention: &Attention<T>,
    logsumexp: &[f32],
    dout: Rows<T>,
    gradients: AttentionGradients<T>,
) {
    with_engine!(T, E => with::<T, E>(attention, logsumexp, dout, gradients));
}

/// [`backward`] with the products of `E`.
pub(super) fn with<T: Element, E: Engine>(
    a: &Attention<T>,
    logsumexp: &[f32],
    dout: Rows<T>,
    gradients: AttentionGradients<T>,
) {
    let () = E::CHECKED;
    a.check();
    let AttentionGradients { q, k, v, bias } = gradients;
    let (targets, heads, sequences) = (a.q.rows(), a.shape.heads, a.keys.sequences());
    assert_eq!((dout.rows(), dout.cols()), (targets, a.q.cols()));
    assert_eq!((q.rows(), q.cols()), (targets, a.q.cols()));
    assert_eq!((k.rows(), k.cols()), (a.k.rows(), a.k.cols()));
    assert_eq!((v.rows(), v.cols()), (a.k.rows(), a.k.cols()));
    assert_eq!(logsumexp.len(), targets * heads);
    let wanted = bias.as_ref().map(|bias| (bias.rows(), bias.cols()));
    let given = a.bias.as_ref().map(|bias| (bias.values.rows(), bias.values.cols()));
    assert!(wanted.is_none() || wanted == given, "gradients {wanted:?} of biases {given:?}");
    if let Keys::Ranges(ranges) = a.keys {
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "keys of one sequence alone");
    }
    let hash = a.dropout.as_ref().map(|dropout| (dropout.hash(), dropout.examples));
    let output = Output { gradient: dout, logsumexp };

    // Sums within a sequence, which are added in the order of the sequences.
    let distances = |sequence: usize| Distances {
        queries: a.queries[sequence + 1] - a.queries[sequence],
        keys: a.keys.of(sequence).len(),
    };
    let mut starts = vec![0];
    if bias.is_some() {
        starts.extend((0..sequences).scan(0, |end, sequence| {
            *end += heads * distances(sequence).len();
            Some(*end)
        }));
    }
    let total = starts.last().copied().unwrap_or(0);
    let mut sums = vec![0.0; total];
    let shared = RowsMut::dense(&mut sums, 1, total).into_columns();

    for_each_task(a, a.shape.group(), &|task: Task| {
        let dropout = hash.map(|(hash, examples)| Multipliers { hash, example: examples[task.sequence] });
        let (keys, dim) = (task.keys.len(), a.shape.head_dim);
        let blocks = if dropout.is_some() { 3 } else { 2 };
        let need = E::QUERY_BLOCK * (blocks * E::columns(keys) + E::padded(dim));
        let len = distances(task.sequence).len();
        let distances = match starts.get(task.sequence) {
            // SAFETY: each task has its own range: sequences one after another, in each its heads.
            Some(start) if total > 0 => unsafe {
                shared.part(0, start + task.heads.start * len, task.heads.len() * len)
            },
            _ => &mut [],
        };
        scratch::with(need + E::backward_len(keys, dim), |working| {
            group::<T, E>(a, output, &task, dropout, working, &q, &k, &v, distances);
        });
    });
    if let (Some(mut gradient), Some(values)) = (bias, &a.bias) {
        for (sequence, start) in starts.iter().enumerate().take(sequences) {
            let distances = distances(sequence);
            for head in 0..heads {
                let sums = &sums[start + head * distances.len()..][..distances.len()];
                distances.add(sums, values.zero, gradient.row(head));
            }
        }
    }
}
