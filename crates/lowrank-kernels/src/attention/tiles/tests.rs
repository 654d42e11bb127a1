//! Tiles of an emulated unit beside vectors.

use super::super::vectors::VectorEngine;
use super::super::{
    AttentionDropout, AttentionGradients, AttentionMask, AttentionShape, DistanceBias, Keys, backward,
    forward,
};
use super::*;
use crate::columns::ColumnsMut;
use crate::dropout::DropoutKey;
use crate::gemm::amx::Emulated;
use crate::random::Philox;
use crate::rows::RowsMut;
use crate::simd::Plain;

/// Output, logarithms, and the gradients of queries, keys, values and biases.
type Results = [Vec<f32>; 6];

fn numbers(len: usize, seed: u64) -> Vec<bf16> {
    let mut random = Philox::new(seed, 0);
    (0..len).map(|_| bf16::round(random.normal_f32())).collect()
}

fn results<E: Engine>(a: &Attention<bf16>, dout: Rows<bf16>) -> Results {
    let (targets, sources, width, kv_width) = (a.q.rows(), a.k.rows(), a.q.cols(), a.k.cols());
    let mut out = vec![bf16::ZERO; targets * width];
    let mut logsumexp = vec![0.0; targets * a.shape.heads];
    forward::with::<_, E>(a, RowsMut::dense(&mut out, targets, width), &mut logsumexp);
    let zeros = |rows, width| vec![bf16::ZERO; rows * width];
    let (mut q, mut k, mut v) = (zeros(targets, width), zeros(sources, kv_width), zeros(sources, kv_width));
    let distances = a.bias.map_or(0, |bias| bias.values.cols());
    let mut bias = vec![0.0; a.shape.heads * distances];
    fn columns(data: &mut [bf16], rows: usize, width: usize) -> ColumnsMut<'_, bf16> {
        RowsMut::dense(data, rows, width).into_columns()
    }
    let gradients = AttentionGradients {
        q: columns(&mut q, targets, width),
        k: columns(&mut k, sources, kv_width),
        v: columns(&mut v, sources, kv_width),
        bias: a.bias.map(|_| RowsMut::dense(&mut bias, a.shape.heads, distances)),
    };
    backward::with::<_, E>(a, &logsumexp, dout, gradients);
    let wide = |rows: &[bf16]| rows.iter().map(|x| x.widen()).collect();
    [wide(&out), logsumexp, wide(&q), wide(&k), wide(&v), bias]
}

/// Two results differ by the rounding of probabilities and gradients to bf16, and of each result.
fn check(a: &Attention<bf16>, case: &str) {
    let dout = numbers(a.q.rows() * a.q.cols(), 9);
    let dout = Rows::dense(&dout, a.q.rows(), a.q.cols());
    let (vectors, tiles) = (results::<VectorEngine>(a, dout), results::<TileEngine<Emulated>>(a, dout));
    for (name, (vectors, tiles)) in
        ["output", "logarithms", "q", "k", "v", "bias"].iter().zip(vectors.iter().zip(&tiles))
    {
        let largest =
            vectors.iter().fold(0.0, |most: f32, x| if x.is_finite() { most.max(x.abs()) } else { most });
        for (i, (vectors, tiles)) in vectors.iter().zip(tiles).enumerate() {
            let close = vectors == tiles || (vectors - tiles).abs() <= 1e-2 * largest.max(1.0);
            assert!(close, "{case}, {name} {i}: {tiles}, on vectors {vectors}");
        }
    }
}

#[test]
fn tiles_give_what_vectors_give_on_an_emulated_unit() {
    let masks = [
        AttentionMask::Full,
        AttentionMask::Causal,
        AttentionMask::Window(1),
        AttentionMask::Window(18),
        AttentionMask::Window(40),
    ];
    let (queries, keys) = ([0, 3, 3, 20, 21, 23, 93], [0, 5, 7, 8, 27, 27, 127]);
    for mask in masks {
        for (heads, kv_heads, head_dim) in [(2, 2, 64), (4, 2, 5), (3, 1, 40)] {
            for (bias, dropout) in [(false, false), (true, true)] {
                let shape =
                    AttentionShape { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
                let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
                let (q, k, v) =
                    (numbers(93 * width, 1), numbers(127 * kv_width, 2), numbers(127 * kv_width, 3));
                let values: Vec<f32> = numbers(heads * 301, 4).iter().map(|x| x.widen()).collect();
                let examples = [4, 9, 2, 7, 1, 8];
                let attention = Attention {
                    q: Rows::dense(&q, 93, width),
                    k: Rows::dense(&k, 127, kv_width),
                    v: Rows::dense(&v, 127, kv_width),
                    queries: &queries,
                    keys: Keys::Offsets(&keys),
                    shape,
                    mask,
                    bias: bias.then(|| DistanceBias { values: Rows::dense(&values, heads, 301), zero: 150 }),
                    dropout: dropout.then_some(AttentionDropout {
                        probability: 0.3,
                        key: DropoutKey { seed: 1, step: 2, site: 3 },
                        examples: &examples,
                    }),
                };
                check(&attention, &format!("{mask:?}, {heads} heads of {head_dim} over {kv_heads}, {bias}"));
            }
        }
    }
}

/// Rounded to one bf16, probabilities would give results that are off by some 3e-3.
#[test]
fn probabilities_are_multiplied_almost_as_in_f32() {
    let (keys, dim, offsets) = (40, 32, [0, 40]);
    let (k, v) = (numbers(keys * dim, 1), numbers(keys * dim, 2));
    let rows = |data| Rows::dense(data, keys, dim);
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: dim, scale: 1.0 };
    let attention = Attention {
        q: rows(&k),
        k: rows(&k),
        v: rows(&v),
        queries: &offsets,
        keys: Keys::Offsets(&offsets),
        shape,
        mask: AttentionMask::Full,
        bias: None,
        dropout: None,
    };
    let task = Task { sequence: 0, heads: 0..1, kv_head: 0, queries: 0..keys, keys: 0..keys };
    let span = attention.mask.span(0..32, keys, keys, small::MULTIPLE);
    let mut random = Philox::new(3, 0);
    let p: Vec<f32> = (0..32 * span.width)
        .map(|i| if i % span.width < keys { random.uniform_f32() } else { 0.0 })
        .collect();
    let mut working = vec![0.0; TileEngine::<Emulated>::forward_len(keys, dim)];
    let mut products = TileEngine::<Emulated>::forward::<Plain, bf16>(&attention, &task, &mut working);
    let mut results = vec![0.0; 32 * dim];
    products.results::<Plain>(&p, 32, &span, &mut results);
    for (i, j) in (0..32).flat_map(|i| (0..dim).map(move |j| (i, j))) {
        let product = |key: usize| f64::from(p[i * span.width + key]) * f64::from(v[key * dim + j].widen());
        let (found, expected) = (f64::from(results[i * dim + j]), (0..keys).map(product).sum::<f64>());
        assert!((found - expected).abs() < 3e-4, "{i}, {j}: {found}, not {expected}");
    }
}
