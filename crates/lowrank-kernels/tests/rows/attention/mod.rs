mod gradients;
mod reference;

use lowrank_kernels::attention::{Attention, AttentionMask, forward};
use lowrank_kernels::{Element, Rows, RowsMut};

use crate::for_both;
use crate::support::{assert_close, assert_same_bits, elements, on_threads, tolerance, zeros};
use reference::{Case, Flat, Numbers, multiplier, offsets, shape};

pub const MASKS: [AttentionMask; 7] = [
    AttentionMask::Full,
    AttentionMask::Causal,
    AttentionMask::Window(1),
    AttentionMask::Window(4),
    AttentionMask::Window(18),
    AttentionMask::Window(30),
    AttentionMask::Window(1000),
];

/// Heads, and heads of keys.
pub const GROUPS: [(usize, usize); 4] = [(2, 2), (4, 2), (3, 1), (1, 1)];

/// Sequences within themselves, and of sources with targets that are longer, shorter, alone or not there.
pub fn layouts(heads: usize, kv_heads: usize, dim: usize, mask: AttentionMask) -> [Case; 3] {
    let shape = shape(heads, kv_heads, dim);
    [
        Case::within(shape, mask, &[3, 0, 17, 1, 22]),
        Case::across(shape, mask, &[3, 0, 18, 1, 2, 1], &[5, 2, 1, 19, 0, 40]),
        Case::within(shape, mask, &[70]),
    ]
}

for_both!(forward_agrees_with_the_definition, check_forward);
fn check_forward<T: Element>() {
    for mask in MASKS {
        for (heads, kv_heads) in GROUPS {
            for dim in [5, 32, 64] {
                for case in layouts(heads, kv_heads, dim, mask) {
                    let dropped = case.clone().dropped();
                    for case in [case.clone(), dropped.clone(), case.biased(), dropped.biased()] {
                        let x = case.numbers::<T>(1);
                        assert_close(&case.forward(&x), &case.reference(&Flat::of(&x)), tolerance::<T>());
                    }
                }
            }
        }
    }
}

for_both!(keys_may_lie_anywhere_and_be_shared, check_ranges);
fn check_ranges<T: Element>() {
    for mask in MASKS {
        let mut case = Case::across(shape(4, 2, 8), mask, &[1, 3, 1, 2], &[0; 4]).biased();
        (case.keys, case.sources) = (vec![30..55, 2..20, 30..33, 60..62], 64);
        let x = case.numbers::<T>(1);
        assert_close(&case.forward(&x), &case.reference(&Flat::of(&x)), tolerance::<T>());
    }
}

for_both!(queries_keys_and_values_may_lie_side_by_side, check_fused);
fn check_fused<T: Element>() {
    let lengths = [3, 0, 17, 1, 22];
    let case = Case::within(shape(4, 2, 5), AttentionMask::Full, &lengths);
    let x = case.numbers::<T>(1);
    let (tokens, widths) = (43, [20, 10, 10]);
    let mut qkv = Vec::new();
    for token in 0..tokens {
        for (part, width) in [&x.q, &x.k, &x.v].into_iter().zip(widths) {
            qkv.extend_from_slice(&part[token * width..][..width]);
        }
    }
    let (mut out, offsets) = (zeros::<T>(tokens * 20), offsets(&lengths));
    let fused = Attention::within(Rows::dense(&qkv, tokens, 40), &offsets, case.shape);
    forward(&fused, RowsMut::dense(&mut out, tokens, 20), &mut []);
    assert_same_bits(&out, &case.forward(&x));
}

#[test]
fn the_mask_of_dropout_drops_its_share_and_differs_between_heads_and_examples() {
    let bits = |example: u32, head: usize| -> Vec<bool> {
        (0..17)
            .flat_map(|q| (0..17).map(move |k| (q, k)))
            .map(|(q, k)| multiplier(example, head, q, k) > 0.0)
            .collect()
    };
    let masks = [bits(1, 0), bits(1, 1), bits(2, 0), bits(2, 1)];
    for (i, mask) in masks.iter().enumerate() {
        let kept = mask.iter().filter(|&&kept| kept).count();
        assert!((170..235).contains(&kept), "{kept} of 289");
        for other in &masks[..i] {
            assert!(mask.iter().zip(other).filter(|(a, b)| a != b).count() > 80);
        }
    }
}

/// A whole sequence at once, and its last token alone, as in decoding.
#[test]
fn what_a_token_sees_does_not_depend_on_the_queries_beside_it() {
    for mask in [AttentionMask::Causal, AttentionMask::Window(6)] {
        let all = Case::within(shape(4, 2, 8), mask, &[29]).biased();
        let x = all.numbers::<f32>(1);
        let last = Case::across(all.shape, mask, &[1], &[29]).biased();
        let alone = Numbers { q: x.q[28 * 32..].to_vec(), ..x.clone() };
        let expected: Vec<f64> = all.forward(&x)[28 * 32..].iter().map(|x| f64::from(*x)).collect();
        assert_close(&last.forward(&alone), &expected, tolerance::<f32>());
    }
}

#[test]
fn large_scores_do_not_overflow() {
    for queries in [6, 1] {
        let case = Case::across(shape(1, 1, 4), AttentionMask::Causal, &[queries], &[6]);
        let mut x = case.numbers::<f32>(1);
        x.q.iter_mut().for_each(|q| *q *= 4000.0);
        assert!(case.forward(&x).iter().all(|x| x.is_finite()));
    }
}

#[test]
fn no_tokens_are_no_work() {
    let case = Case::within(shape(2, 1, 4), AttentionMask::Causal, &[0, 0]).biased().dropped();
    assert!(case.forward(&case.numbers::<f32>(1)).is_empty());
}

#[test]
#[should_panic(expected = "biases from 4 before to 4 after a query")]
fn biases_that_do_not_reach_all_keys_are_refused() {
    let mut case = Case::within(shape(2, 1, 4), AttentionMask::Full, &[3]).biased();
    let x = case.numbers::<f32>(1);
    let long = Case::within(case.shape, case.mask, &[5]);
    (case.queries, case.keys) = (long.queries, long.keys);
    let x = Numbers { q: elements(1, 5 * 8), k: elements(2, 5 * 4), v: elements(3, 5 * 4), ..x };
    case.sources = 5;
    // The same few biases under a longer sequence.
    let bias = lowrank_kernels::attention::DistanceBias { values: Rows::dense(&x.bias, 2, 7), zero: 3 };
    let full = Case { bias: false, ..case };
    let mut out = vec![0.0; 40];
    full.with(&x, |a| {
        forward(&Attention { bias: Some(bias), ..*a }, RowsMut::dense(&mut out, 5, 8), &mut []);
    });
}

for_both!(threads_do_not_change_bits, check_threads);
fn check_threads<T: Element>() {
    for (heads, kv_heads) in [(3, 3), (6, 2), (4, 1)] {
        for mask in [AttentionMask::Full, AttentionMask::Causal, AttentionMask::Window(40)] {
            let lengths = [90, 0, 10, 130, 2, 1];
            let case = Case::within(shape(heads, kv_heads, 16), mask, &lengths).biased().dropped();
            let (x, dout) = (case.numbers::<T>(1), elements::<T>(9, 233 * heads * 16));
            let run = |threads| on_threads(threads, || case.backward(&x, &dout));
            let (one, three) = (run(1), run(3));
            assert_same_bits(&one.0, &three.0);
            for (one, three) in [(&one.1.q, &three.1.q), (&one.1.k, &three.1.k), (&one.1.v, &three.1.v)] {
                assert_same_bits(one, three);
            }
            assert_same_bits(&one.1.bias, &three.1.bias);
            let decode = Case::across(case.shape, mask, &[1; 6], &lengths).biased();
            let x = decode.numbers::<T>(1);
            let run = |threads| on_threads(threads, || decode.forward(&x));
            assert_same_bits(&run(1), &run(3));
        }
    }
}
