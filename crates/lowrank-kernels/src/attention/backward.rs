//! Attention, backward.

use super::bias::Distances;
use super::dropout::Multipliers;
use super::heads::{cut, store, transpose, widen};
use super::task::{Task, for_each_task};
use super::{Attention, AttentionMask, HASH_KEYS, Keys, QUERY_BLOCK};
use crate::columns::ColumnsMut;
use crate::element::Element;
use crate::math;
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::{Vector, each};
use crate::tile::{Left, Panel, multiply};

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
    fn group[V, T: Element](
        a: &Attention<T>, output: Output<T>, task: &Task, dropout: Option<Multipliers>, working: &mut [f32],
        to_q: &ColumnsMut<T>, to_k: &ColumnsMut<T>, to_v: &ColumnsMut<T>, distances: &mut [f32],
    ) {
        let (len, keys, dim) = (task.queries.len(), task.keys.len(), a.shape.head_dim);
        let (stride, padded) = (keys.next_multiple_of(HASH_KEYS), dim.next_multiple_of(HASH_KEYS));
        let kv_columns = [task.kv_head * dim, dim];
        let rest = &mut &mut *working;
        let (k, dk, dv) = (cut(rest, keys * padded), cut(rest, keys * padded), cut(rest, keys * padded));
        let (k_transposed, v_transposed) = (cut(rest, dim * stride), cut(rest, dim * stride));
        let (p, dp) = (cut(rest, QUERY_BLOCK * stride), cut(rest, QUERY_BLOCK * stride));
        let (q, gradient) = (cut(rest, QUERY_BLOCK * padded), cut(rest, QUERY_BLOCK * padded));
        let (dq, factors) = (cut(rest, QUERY_BLOCK * padded), &mut **rest);
        let pairs = Distances { queries: len, keys };

        // `k` holds v until it is transposed.
        widen::<V, T>(a.v, task.keys.clone(), kv_columns, 1.0, padded, k);
        transpose(k, keys, dim, padded, stride, v_transposed);
        widen::<V, T>(a.k, task.keys.clone(), kv_columns, 1.0, padded, k);
        transpose(k, keys, dim, padded, stride, k_transposed);
        // Where the first block writes all of them, it need not add to anything.
        let mut more = len == 0 || a.mask != AttentionMask::Full;
        if more {
            dk.fill(0.0);
            dv.fill(0.0);
        }
        distances.fill(0.0);

        for (place, head) in task.heads.clone().enumerate() {
            let columns = [head * dim, dim];
            let logsumexp = &output.logsumexp[task.queries.start * a.shape.heads + head * len..][..len];
            for first in (0..len).step_by(QUERY_BLOCK) {
                let rows = QUERY_BLOCK.min(len - first);
                let span = a.mask.span(first, rows, len, keys);
                let start = task.queries.start + first;
                widen::<V, T>(a.q, start..start + rows, columns, a.shape.scale, padded, q);
                widen::<V, T>(output.gradient, start..start + rows, columns, 1.0, padded, gradient);
                let left = Panel { data: &*q, stride: padded };
                let transposed = Panel { data: &k_transposed[span.start..], stride };
                multiply([rows, dim, span.width], 1.0, Left::Plain(left), transposed, p, span.width, false);
                let left = Panel { data: &*gradient, stride: padded };
                let transposed = Panel { data: &v_transposed[span.start..], stride };
                multiply([rows, dim, span.width], 1.0, Left::Plain(left), transposed, dp, span.width, false);
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
                let by_key = |data| Left::Transposed(Panel { data, stride: span.width });
                let (size, at) = ([span.keys(), rows, padded], span.start * padded);
                let gradient = Panel { data: &*gradient, stride: padded };
                multiply(size, 1.0, by_key(p), gradient, &mut dv[at..], padded, more);
                let q = Panel { data: &*q, stride: padded };
                multiply(size, 1.0, by_key(dp), q, &mut dk[at..], padded, more);
                more = true;
                let by_query = Left::Plain(Panel { data: &*dp, stride: span.width });
                let k = Panel { data: &k[at..], stride: padded };
                multiply([rows, span.keys(), padded], a.shape.scale, by_query, k, dq, padded, false);
                // SAFETY: this task alone has its heads' columns of its sequence's rows.
                unsafe { store::<V, T>(dq, rows, padded, start, columns, to_q) };
            }
        }
        // SAFETY: this task alone has its keys' head of its sequence's rows, which no other sequence shares.
        unsafe {
            store::<V, T>(dk, keys, padded, task.keys.start, kv_columns, to_k);
            store::<V, T>(dv, keys, padded, task.keys.start, kv_columns, to_v);
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
    a: &Attention<T>,
    logsumexp: &[f32],
    dout: Rows<T>,
    gradients: AttentionGradients<T>,
) {
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
        let (stride, padded) = (keys.next_multiple_of(HASH_KEYS), dim.next_multiple_of(HASH_KEYS));
        let blocks = if dropout.is_some() { 3 } else { 2 };
        let need = 3 * keys * padded + 2 * dim * stride + QUERY_BLOCK * (blocks * stride + 3 * padded);
        let len = distances(task.sequence).len();
        let distances = match starts.get(task.sequence) {
            // SAFETY: each task has its own range: sequences one after another, in each its heads.
            Some(start) if total > 0 => unsafe {
                shared.part(0, start + task.heads.start * len, task.heads.len() * len)
            },
            _ => &mut [],
        };
        scratch::with(need, |working| group(a, output, &task, dropout, working, &q, &k, &v, distances));
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
