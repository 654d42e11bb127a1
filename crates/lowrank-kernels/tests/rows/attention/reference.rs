//! Attention by its definition, in f64, and the same by the kernels.

use std::ops::Range;

use lowrank_kernels::attention::{
    Attention, AttentionDropout, AttentionGradients, AttentionMask, AttentionShape, DistanceBias, Keys,
    backward, forward,
};
use lowrank_kernels::random::{FAST_ROUNDS, ROUNDS, philox4x32};
use lowrank_kernels::{Element, Rows, RowsMut};

use crate::support::{KEY, dot, elements, numbers, wide, zeros};

pub const PROBABILITY: f32 = 0.3;

/// An attention without its numbers.
#[derive(Clone, Debug)]
pub struct Case {
    pub shape: AttentionShape,
    pub mask: AttentionMask,
    /// Offsets of the queries.
    pub queries: Vec<usize>,
    pub keys: Vec<Range<usize>>,
    /// Rows of keys, of sequences or not.
    pub sources: usize,
    pub bias: bool,
    /// Each sequence's index in the whole batch, where there is dropout.
    pub examples: Option<Vec<u32>>,
}

/// Its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers<T> {
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub v: Vec<T>,
    pub bias: Vec<f32>,
}

pub fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() }
}

/// Offsets of sequences of these lengths.
pub fn offsets(lengths: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0];
    offsets.extend(lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    }));
    offsets
}

impl Case {
    /// Attention within sequences of these lengths.
    pub fn within(shape: AttentionShape, mask: AttentionMask, lengths: &[usize]) -> Self {
        Self::across(shape, mask, lengths, lengths)
    }

    /// Attention from targets to sources.
    pub fn across(shape: AttentionShape, mask: AttentionMask, targets: &[usize], sources: &[usize]) -> Self {
        let (queries, ends) = (offsets(targets), offsets(sources));
        let keys = ends.windows(2).map(|pair| pair[0]..pair[1]).collect();
        Self { shape, mask, queries, keys, sources: sources.iter().sum(), bias: false, examples: None }
    }

    pub fn dropped(self) -> Self {
        let examples = (0..self.keys.len() as u32).map(|i| 7 + 31 * i).collect();
        Self { examples: Some(examples), ..self }
    }

    pub fn biased(self) -> Self {
        Self { bias: true, ..self }
    }

    pub fn targets(&self) -> usize {
        self.queries[self.keys.len()]
    }

    /// Columns of the biases; the one of distance 0 is in the middle.
    fn distances(&self) -> usize {
        let longest =
            self.queries.windows(2).map(|pair| pair[1] - pair[0]).chain(self.keys.iter().map(Range::len));
        2 * longest.max().unwrap_or(0) + 1
    }

    pub fn numbers<T: Element>(&self, seed: u64) -> Numbers<T> {
        let (width, kv) = (self.shape.heads * self.shape.head_dim, self.shape.kv_heads * self.shape.head_dim);
        let bias = if self.bias { self.shape.heads * self.distances() } else { 0 };
        Numbers {
            q: elements(seed, self.targets() * width),
            k: elements(seed + 1, self.sources * kv),
            v: elements(seed + 2, self.sources * kv),
            bias: numbers(seed + 3, bias),
        }
    }

    /// The kernel's view.
    pub fn with<T: Element, R>(&self, x: &Numbers<T>, work: impl FnOnce(&Attention<T>) -> R) -> R {
        let Self { shape, mask, queries, keys, sources, .. } = self;
        let (width, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let examples = self.examples.as_deref();
        let values = self.bias.then(|| Rows::dense(&x.bias, shape.heads, self.distances()));
        work(&Attention {
            q: Rows::dense(&x.q, self.targets(), width),
            k: Rows::dense(&x.k, *sources, kv),
            v: Rows::dense(&x.v, *sources, kv),
            queries,
            keys: Keys::Ranges(keys),
            shape: *shape,
            mask: *mask,
            bias: values.map(|values| DistanceBias { values, zero: self.distances() / 2 }),
            dropout: examples.map(|examples| AttentionDropout {
                probability: PROBABILITY,
                key: KEY,
                examples,
            }),
        })
    }

    pub fn forward<T: Element>(&self, x: &Numbers<T>) -> Vec<T> {
        let (targets, width) = (self.targets(), self.shape.heads * self.shape.head_dim);
        let mut out = vec![T::round(f32::NAN); targets * width];
        self.with(x, |a| forward(a, RowsMut::dense(&mut out, targets, width), &mut []));
        out
    }

    /// The output, and the gradients for that of the output.
    pub fn backward<T: Element>(&self, x: &Numbers<T>, dout: &[T]) -> (Vec<T>, Numbers<T>) {
        let (targets, sources, heads) = (self.targets(), self.sources, self.shape.heads);
        let (width, kv) = (heads * self.shape.head_dim, self.shape.kv_heads * self.shape.head_dim);
        let (mut out, mut logsumexp) = (zeros::<T>(targets * width), vec![0.0; targets * heads]);
        let nan = T::round(f32::NAN);
        let mut d = Numbers {
            q: vec![nan; x.q.len()],
            k: vec![nan; x.k.len()],
            v: vec![nan; x.v.len()],
            bias: vec![0.0; x.bias.len()],
        };
        self.with(x, |a| {
            forward(a, RowsMut::dense(&mut out, targets, width), &mut logsumexp);
            let gradients = AttentionGradients {
                q: RowsMut::dense(&mut d.q, targets, width).into_columns(),
                k: RowsMut::dense(&mut d.k, sources, kv).into_columns(),
                v: RowsMut::dense(&mut d.v, sources, kv).into_columns(),
                bias: self.bias.then(|| RowsMut::dense(&mut d.bias, heads, self.distances())),
            };
            let dout = Rows::dense(dout, targets, width);
            backward(a, &logsumexp, dout, gradients);
        });
        (out, d)
    }

    /// The definition.
    pub fn reference(&self, x: &Flat) -> Vec<f64> {
        let AttentionShape { heads, kv_heads, head_dim: dim, scale } = self.shape;
        let (width, kv) = (heads * dim, kv_heads * dim);
        let [q, k, v, bias] = x.parts();
        let mut out = vec![0.0; q.len()];
        for (sequence, keys) in self.keys.iter().enumerate() {
            let (start, len) = (self.queries[sequence], self.queries[sequence + 1] - self.queries[sequence]);
            for (i, head) in (0..len).flat_map(|i| (0..heads).map(move |head| (i, head))) {
                let at = (start + i) * width + head * dim;
                let key = |j: usize| (keys.start + j) * kv + head / (heads / kv_heads) * dim;
                let distance = |j: usize| j as isize - (i + keys.len()) as isize + len as isize;
                let seen = |j: &usize| match self.mask {
                    AttentionMask::Full => true,
                    AttentionMask::Causal => distance(*j) <= 0,
                    AttentionMask::Window(most) => distance(*j) <= 0 && -distance(*j) < most as isize,
                };
                let score = |j: usize| {
                    let place = (self.distances() / 2) as isize + distance(j);
                    let bias = if self.bias { bias[head * self.distances() + place as usize] } else { 0.0 };
                    dot(&q[at..at + dim], &k[key(j)..key(j) + dim]) * f64::from(scale) + bias
                };
                let weights: Vec<(usize, f64)> =
                    (0..keys.len()).filter(seen).map(|j| (j, score(j).exp())).collect();
                let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
                for (j, weight) in weights {
                    let factor = self
                        .examples
                        .as_ref()
                        .map_or(1.0, |examples| multiplier(examples[sequence], head, i, j));
                    for c in 0..dim {
                        out[at + c] += weight / sum * factor * v[key(j) + c];
                    }
                }
            }
        }
        out
    }
}

/// What dropout multiplies a weight by, as it was first defined: a change would give every run other masks.
pub fn multiplier(example: u32, head: usize, query: usize, key: usize) -> f64 {
    let [low, high] = [KEY.step as u32, (KEY.step >> 32) as u32];
    let site = philox4x32::<ROUNDS>([low, high, 0, 0], [KEY.seed as u32, (KEY.seed >> 32) as u32]);
    let counter = [key as u32 | (head as u32) << 20, (query / 8) as u32, example, KEY.site];
    let word = philox4x32::<FAST_ROUNDS>(counter, [site[0], site[1]])[query % 8 / 2];
    let bits = if query.is_multiple_of(2) { word & 0xffff } else { word >> 16 };
    if f64::from(bits) < (f64::from(PROBABILITY) * 65_536.0).round() {
        0.0
    } else {
        1.0 / (1.0 - f64::from(PROBABILITY))
    }
}

/// All numbers one after the other, in f64.
pub struct Flat {
    pub values: Vec<f64>,
    lengths: [usize; 4],
}

impl Flat {
    pub fn of<T: Element>(x: &Numbers<T>) -> Self {
        let values = [wide(&x.q), wide(&x.k), wide(&x.v), wide(&x.bias)];
        Self { lengths: values.each_ref().map(Vec::len), values: values.concat() }
    }

    pub fn with(&self, values: &[f64]) -> Self {
        Self { values: values.to_vec(), ..*self }
    }

    pub fn parts(&self) -> [&[f64]; 4] {
        let mut start = 0;
        self.lengths.map(|len| {
            start += len;
            &self.values[start - len..start]
        })
    }
}
