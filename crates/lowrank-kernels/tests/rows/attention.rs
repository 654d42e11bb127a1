use lowrank_kernels::attention::{AttentionDropout, AttentionShape, backward, forward};
use lowrank_kernels::{Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{
    KEY, assert_close, assert_same_bits, derivative, dot, elements, on_threads, tolerance, wide, zeros,
};

const OFFSETS: [usize; 6] = [0, 3, 3, 20, 21, 38];
const EXAMPLES: [u32; 5] = [7, 8, 9, 10, 300];

fn shape(heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() }
}

fn dropout(offsets: &[usize]) -> AttentionDropout<'static> {
    AttentionDropout { probability: 0.3, key: KEY, examples: &EXAMPLES[..offsets.len() - 1] }
}

/// The factor of (query, key) in `head` of the sequence `range`: with equal scores and one-hot values, the output
/// is the mask.
fn mask(
    offsets: &[usize],
    shape: AttentionShape,
    dropout: &AttentionDropout,
) -> impl Fn(usize, usize, usize) -> f64 {
    let longest = 17;
    let probe = AttentionShape { heads: shape.heads, head_dim: longest, scale: 1.0 };
    let (tokens, width) = (offsets[offsets.len() - 1], shape.heads * longest);
    let mut qkv = vec![0.0_f32; tokens * 3 * width];
    let mut lengths = vec![0; tokens];
    for pair in offsets.windows(2) {
        for token in pair[0]..pair[1] {
            lengths[token] = pair[1] - pair[0];
            for head in 0..shape.heads {
                qkv[token * 3 * width + 2 * width + head * longest + token - pair[0]] = 1.0;
            }
        }
    }
    let mut out = vec![0.0_f32; tokens * width];
    let rows = RowsMut::dense(&mut out, tokens, width);
    forward(Rows::dense(&qkv, tokens, 3 * width), offsets, probe, Some(dropout), rows, &mut []);
    move |token, head, key| {
        let kept = f64::from(out[token * width + head * longest + key]) * lengths[token] as f64;
        if kept > 0.5 { 1.0 / 0.7 } else { 0.0 }
    }
}

fn reference(
    qkv: &[f64],
    offsets: &[usize],
    shape: AttentionShape,
    mask: &impl Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let (dim, width) = (shape.head_dim, shape.heads * shape.head_dim);
    let mut out = vec![0.0; qkv.len() / 3];
    for pair in offsets.windows(2) {
        for head in 0..shape.heads {
            let at = |token: usize, part: usize| &qkv[token * 3 * width + part * width + head * dim..][..dim];
            for query in pair[0]..pair[1] {
                let scores: Vec<f64> = (pair[0]..pair[1])
                    .map(|key| (dot(at(query, 0), at(key, 1)) * f64::from(shape.scale)).exp())
                    .collect();
                let sum: f64 = scores.iter().sum();
                for (i, score) in scores.iter().enumerate() {
                    let weight = score / sum * mask(query, head, i);
                    for (c, value) in at(pair[0] + i, 2).iter().enumerate() {
                        out[query * width + head * dim + c] += weight * value;
                    }
                }
            }
        }
    }
    out
}

for_both!(forward_agrees_with_the_definition, check_forward);
fn check_forward<T: Element>() {
    for (heads, dim) in [(1, 32), (2, 5), (3, 64)] {
        let shape = shape(heads, dim);
        let (tokens, width) = (38, heads * dim);
        let qkv = elements::<T>(1, tokens * 3 * width);
        let plain = |_: usize, _: usize, _: usize| 1.0;
        let mut out = zeros::<T>(tokens * width);
        let rows = Rows::dense(&qkv, tokens, 3 * width);
        forward(rows, &OFFSETS, shape, None, RowsMut::dense(&mut out, tokens, width), &mut []);
        assert_close(&out, &reference(&wide(&qkv), &OFFSETS, shape, &plain), tolerance::<T>());
        let dropout = dropout(&OFFSETS);
        forward(rows, &OFFSETS, shape, Some(&dropout), RowsMut::dense(&mut out, tokens, width), &mut []);
        let mask = mask(&OFFSETS, shape, &dropout);
        assert_close(&out, &reference(&wide(&qkv), &OFFSETS, shape, &mask), tolerance::<T>());
    }
}

#[test]
fn the_mask_drops_its_share_and_differs_between_heads_and_examples() {
    let offsets = [0, 17, 34];
    let dropout = AttentionDropout { probability: 0.3, key: KEY, examples: &[1, 2] };
    let mask = mask(&offsets, shape(2, 8), &dropout);
    let bits = |start: usize, head: usize| -> Vec<bool> {
        (0..17)
            .flat_map(|q| (0..17).map(move |k| (q, k)))
            .map(|(q, k)| mask(start + q, head, k) > 0.0)
            .collect()
    };
    let masks = [bits(0, 0), bits(0, 1), bits(17, 0), bits(17, 1)];
    for (i, mask) in masks.iter().enumerate() {
        let kept = mask.iter().filter(|&&kept| kept).count();
        assert!((170..235).contains(&kept), "{kept} of 289");
        for other in &masks[..i] {
            assert!(mask.iter().zip(other).filter(|(a, b)| a != b).count() > 80);
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = AttentionShape { heads: 1, head_dim: 4, scale: 1.0 };
    let qkv: Vec<f32> = elements::<f32>(1, 6 * 12).iter().map(|x| x * 60.0).collect();
    let mut out = vec![0.0_f32; 24];
    forward(Rows::dense(&qkv, 6, 12), &[0, 6], shape, None, RowsMut::dense(&mut out, 6, 4), &mut []);
    assert!(out.iter().all(|x| x.is_finite()));
}

fn gradients<T: Element>(
    qkv: &[T],
    dout: &[T],
    offsets: &[usize],
    shape: AttentionShape,
    dropout: Option<&AttentionDropout>,
) -> (Vec<T>, Vec<T>) {
    let (tokens, width) = (offsets[offsets.len() - 1], shape.heads * shape.head_dim);
    let (mut out, mut dqkv) = (zeros::<T>(tokens * width), zeros::<T>(tokens * 3 * width));
    let mut logsumexp = vec![0.0; tokens * shape.heads];
    let rows = Rows::dense(qkv, tokens, 3 * width);
    forward(rows, offsets, shape, dropout, RowsMut::dense(&mut out, tokens, width), &mut logsumexp);
    backward(
        rows,
        Rows::dense(&out, tokens, width),
        Rows::dense(dout, tokens, width),
        &logsumexp,
        offsets,
        shape,
        dropout,
        RowsMut::dense(&mut dqkv, tokens, 3 * width),
    );
    (out, dqkv)
}

for_both!(backward_is_the_derivative, check_backward);
fn check_backward<T: Element>() {
    // Twenty queries are more than a block of them.
    let offsets = [0, 2, 2, 19];
    let shape = shape(2, 3);
    let (tokens, width) = (19, 6);
    let (qkv, dout) = (elements::<T>(1, tokens * 3 * width), elements::<T>(2, tokens * width));
    let (x, dy) = (wide(&qkv), wide(&dout));
    let (_, dqkv) = gradients(&qkv, &dout, &offsets, shape, None);
    let expected = derivative(&x, |x| dot(&reference(x, &offsets, shape, &|_, _, _| 1.0), &dy));
    assert_close(&dqkv, &expected, 2.0 * tolerance::<T>());
    let dropout = dropout(&offsets);
    let (_, dqkv) = gradients(&qkv, &dout, &offsets, shape, Some(&dropout));
    let mask = mask(&offsets, shape, &dropout);
    let expected = derivative(&x, |x| dot(&reference(x, &offsets, shape, &mask), &dy));
    assert_close(&dqkv, &expected, 2.0 * tolerance::<T>());
}

for_both!(threads_do_not_change_bits, check_threads);
fn check_threads<T: Element>() {
    let offsets = [0, 90, 90, 100, 230, 232];
    let shape = shape(3, 16);
    let (qkv, dout) = (elements::<T>(1, 232 * 3 * 48), elements::<T>(2, 232 * 48));
    let dropout = dropout(&offsets);
    let run = |threads| on_threads(threads, || gradients(&qkv, &dout, &offsets, shape, Some(&dropout)));
    let (one, three) = (run(1), run(3));
    assert_same_bits(&one.0, &three.0);
    assert_same_bits(&one.1, &three.1);
}

#[test]
fn a_sequence_alone_gives_the_same_bits() {
    let shape = shape(2, 8);
    let qkv = elements::<f32>(1, 38 * 48);
    let dout = elements::<f32>(2, 38 * 16);
    let drop = dropout(&OFFSETS);
    let (out, dqkv) = gradients(&qkv, &dout, &OFFSETS, shape, Some(&drop));
    let alone = AttentionDropout { examples: &EXAMPLES[2..3], ..drop };
    let (one, done) = gradients(&qkv[3 * 48..20 * 48], &dout[3 * 16..20 * 16], &[0, 17], shape, Some(&alone));
    assert_same_bits(&one, &out[3 * 16..20 * 16]);
    assert_same_bits(&done, &dqkv[3 * 48..20 * 48]);
}

#[test]
fn no_tokens_are_no_work() {
    let rows = Rows::dense(&[] as &[f32], 0, 12);
    forward(rows, &[0, 0, 0], shape(1, 4), None, RowsMut::dense(&mut [], 0, 4), &mut []);
}
