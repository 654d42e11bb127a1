#![allow(clippy::single_range_in_vec_init)]

use std::sync::Arc;

use lowrank_kernels::Compute;
use lowrank_kernels::random::Philox;

use super::*;
use crate::tape::{AdapterId, KeyValues, Leaf, Parameter};

const WIDTH: usize = 4 * 5 + 2 * 2 * 5;

fn attention_of(mask: AttentionMask) -> Attention {
    Attention { heads: 4, kv_heads: 2, head_dim: 5, scale: 0.6, dropout: 0.0, mask }
}

fn random(rows: usize, width: usize, seed: u64) -> Tensor {
    let mut random = Philox::new(seed, 0);
    let values: Vec<f32> = (0..rows * width).map(|_| random.normal_f32()).collect();
    Tensor::from_slice([rows, width], &values)
}

fn table() -> Parameter {
    let mut table = Parameter::new([8, 4]);
    table.set_base(Leaf::frozen(random(8, 4, 3))).unwrap();
    table
}

/// The rows of `tokens` of each of the sequences of `lengths` in `all`.
fn rows(all: &Tensor, lengths: &[usize], tokens: &[std::ops::Range<usize>], dtype: DType) -> Var {
    let (_, width) = all.rows_and_width();
    let (mut values, mut start) = (Vec::new(), 0);
    for (length, tokens) in lengths.iter().zip(tokens) {
        let part = (start + tokens.start) * width..(start + tokens.end) * width;
        values.extend_from_slice(&all.as_slice::<f32>()[part]);
        start += length;
    }
    let counts: Vec<usize> = tokens.iter().map(ExactSizeIterator::len).collect();
    let tensor = Tensor::from_slice([counts.iter().sum(), width], &values).to_dtype(dtype);
    Var::constant(tensor, Layout::from_lengths(&counts, None))
}

/// A cache that is filled prompt first and then token by token gives what all tokens at once do.
#[test]
fn cached_attention_equals_attention_token_by_token() {
    let (lengths, prompts) = ([23, 1, 40, 9], [5, 0, 17, 9]);
    let all = random(lengths.iter().sum(), WIDTH, 1);
    let table = table();
    let bias = RelativeBias { table: &table, bidirectional: false, max_distance: 9 };
    for (mask, bias, compute, tolerance) in [
        (AttentionMask::Causal, None, Compute::F32, 1e-5),
        (AttentionMask::Causal, Some(&bias), Compute::F32, 1e-5),
        (AttentionMask::Window(6), Some(&bias), Compute::F32, 1e-5),
        (AttentionMask::Window(1), None, Compute::F32, 1e-5),
        (AttentionMask::Window(6), None, Compute::Bf16, 2e-2),
    ] {
        let dtype = DType::from(compute);
        let attended = attention_of(mask);
        let tape = &mut Tape::inference(compute);
        let whole = lengths.map(|length| 0..length);
        let once = attention(tape, &rows(&all, &lengths, &whole, dtype), &attended, bias).unwrap();
        let once = once.value().to_f32_vec();

        let mut cache = KeyValues::new(lengths.len());
        let mut done = [0; 4];
        for step in 0..40 {
            let mut tokens = done.map(|done| done..done);
            for (i, tokens) in tokens.iter_mut().enumerate() {
                tokens.end = if step == 0 { prompts[i] } else { lengths[i].min(tokens.start + 1) };
            }
            let new = rows(&all, &lengths, &tokens, dtype);
            let out = cached_attention(tape, &new, &attended, bias, &mut cache).unwrap();
            let out = out.value().to_f32_vec();
            let (mut at, mut start) = (0, 0);
            for (length, tokens) in lengths.iter().zip(&tokens) {
                let expected = &once[(start + tokens.start) * 20..(start + tokens.end) * 20];
                for (found, expected) in out[at..at + expected.len()].iter().zip(expected) {
                    assert!(
                        (found - expected).abs() < tolerance,
                        "{mask:?} at {tokens:?}: {found}, {expected}"
                    );
                }
                (at, start) = (at + expected.len(), start + length);
            }
            done = tokens.map(|tokens| tokens.end);
            for (sequence, done) in done.iter().enumerate() {
                assert_eq!(cache.len(sequence), *done);
            }
        }
        assert_eq!(done, lengths);
    }
}

#[test]
fn a_window_bounds_what_is_kept() {
    let attended = attention_of(AttentionMask::Window(6));
    let all = random(300, WIDTH, 2);
    let mut cache = KeyValues::new(1);
    for token in 0..300 {
        let new = rows(&all, &[300], &[token..token + 1], DType::F32);
        cached_attention(&mut Tape::inference(Compute::F32), &new, &attended, None, &mut cache).unwrap();
        assert!(cache.ranges()[0].len() <= 12);
    }
    assert_eq!(cache.len(0), 300);
}

#[test]
fn reordered_sequences_go_on_from_the_ones_they_copy() {
    let (attended, all) = (attention_of(AttentionMask::Causal), random(12, WIDTH, 4));
    let tape = &mut Tape::inference(Compute::F32);
    let mut cache = KeyValues::new(2);
    let prompts = rows(&all, &[4, 6], &[0..4, 0..6], DType::F32);
    cached_attention(tape, &prompts, &attended, None, &mut cache).unwrap();
    cache.reorder(&[1, 0, 1]).unwrap();
    assert_eq!([0, 1, 2].map(|sequence| cache.len(sequence)), [6, 4, 6]);
    assert_eq!(cache.sequences(), 3);

    let next = random(3, WIDTH, 5);
    let step = rows(&next, &[1, 1, 1], &[0..1, 0..1, 0..1], DType::F32);
    let out = cached_attention(tape, &step, &attended, None, &mut cache).unwrap().value().to_f32_vec();
    for (beam, (start, len)) in [(4, 6), (0, 4), (4, 6)].into_iter().enumerate() {
        let mut values = all.as_slice::<f32>()[start * WIDTH..(start + len) * WIDTH].to_vec();
        values.extend_from_slice(&next.as_slice::<f32>()[beam * WIDTH..(beam + 1) * WIDTH]);
        let whole = Tensor::from_slice([len + 1, WIDTH], &values);
        let whole = rows(&whole, &[len + 1], &[0..len + 1], DType::F32);
        let expected = attention(tape, &whole, &attended, None).unwrap().value().to_f32_vec();
        for (found, expected) in out[beam * 20..][..20].iter().zip(&expected[len * 20..]) {
            assert!((found - expected).abs() < 1e-5, "beam {beam}: {found}, {expected}");
        }
    }
    assert!(cache.reorder(&[3]).is_err());
}

/// A cache that was copied goes on apart from the copy.
#[test]
fn a_copy_of_a_cache_is_its_own() {
    let (attended, all) = (attention_of(AttentionMask::Causal), random(9, WIDTH, 6));
    let tape = &mut Tape::inference(Compute::F32);
    let mut cache = KeyValues::new(1);
    cached_attention(tape, &rows(&all, &[9], &[0..4], DType::F32), &attended, None, &mut cache).unwrap();
    let mut other = cache.clone();
    let mut go_on = |cache: &mut KeyValues, from: usize| {
        let new = rows(&all, &[9], &[from..from + 1], DType::F32);
        cached_attention(tape, &new, &attended, None, cache).unwrap().value().to_f32_vec()
    };
    let first = go_on(&mut cache, 4);
    go_on(&mut other, 5);
    let mut third = other.clone();
    third.reorder(&[0]).unwrap();
    assert_eq!((cache.len(0), other.len(0), third.len(0)), (5, 5, 5));
    let whole = rows(&all, &[9], &[0..5], DType::F32);
    let expected = attention(&mut Tape::inference(Compute::F32), &whole, &attended, None).unwrap();
    for (found, expected) in first.iter().zip(&expected.value().to_f32_vec()[4 * 20..]) {
        assert!((found - expected).abs() < 1e-5);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let tape = &mut Tape::inference(Compute::F32);
    let causal = attention_of(AttentionMask::Causal);
    let qkv = Var::constant(random(6, WIDTH, 7), Layout::from_lengths(&[2, 4], None));
    for wrong in [
        Attention { kv_heads: 3, ..causal },
        Attention { kv_heads: 0, ..causal },
        Attention { heads: 0, ..causal },
        Attention { head_dim: 0, ..causal },
        Attention { head_dim: 4, ..causal },
        Attention { head_dim: usize::MAX / 2, ..causal },
        Attention { heads: MOST_HEADS + 1, kv_heads: 1, ..causal },
        Attention { mask: AttentionMask::Window(0), ..causal },
    ] {
        assert!(attention(tape, &qkv, &wrong, None).is_err(), "{wrong:?}");
    }
    let mut cache = KeyValues::new(2);
    assert!(cached_attention(tape, &qkv, &attention_of(AttentionMask::Full), None, &mut cache).is_err());
    assert!(cached_attention(tape, &qkv, &causal, None, &mut KeyValues::new(3)).is_err());
    cached_attention(tape, &qkv, &causal, None, &mut cache).unwrap();
    let bf16 = Var::constant(qkv.value().to_dtype(DType::Bf16), Arc::clone(qkv.layout()));
    assert!(cached_attention(tape, &bf16, &causal, None, &mut cache).is_err(), "other rows than before");
    let (q, kv) = (random(6, 20, 8), random(6, 20, 9));
    let q = Var::constant(q, Layout::from_lengths(&[2, 4], None));
    let kv = Var::constant(kv, Layout::from_lengths(&[6], None));
    assert!(cross_attention(tape, &q, &kv, &causal).is_err(), "two targets and a source");
    let mut table = table();
    table.set_replacement(AdapterId(1), Leaf::frozen(random(8, 4, 4))).unwrap();
    let bias = RelativeBias { table: &table, bidirectional: false, max_distance: 9 };
    let layout = Layout::new(vec![0, 2, 6], vec![0, 1], vec![Some(AdapterId(1)), None]).unwrap();
    let qkv = Var::constant(qkv.value().clone(), layout);
    attention(tape, &qkv, &causal, Some(&bias)).unwrap();
    assert!(cached_attention(tape, &qkv, &causal, Some(&bias), &mut cache).is_err(), "two tables");
}
