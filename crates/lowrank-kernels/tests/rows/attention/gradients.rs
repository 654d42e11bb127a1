//! Backward.

use lowrank_kernels::Element;
use lowrank_kernels::attention::AttentionMask;

use super::reference::{Case, Flat, Numbers, shape};
use super::{GROUPS, MASKS, layouts};
use crate::for_both;
use crate::support::{assert_close, assert_same_bits, derivative, dot, elements, tolerance, wide};

fn check_case<T: Element>(case: &Case) {
    let x = case.numbers::<T>(1);
    let dout = elements::<T>(9, x.q.len());
    let (flat, dy) = (Flat::of(&x), wide(&dout));
    let (_, gradients) = case.backward(&x, &dout);
    let expected = derivative(&flat.values, |values| dot(&case.reference(&flat.with(values)), &dy));
    let expected = flat.with(&expected);
    let [q, k, v, bias] = expected.parts();
    // Each weight's gradient holds the rounding of the query's output, and a key sums those of all that see it.
    let tolerance = 4.0 * tolerance::<T>();
    assert_close(&gradients.q, q, tolerance);
    assert_close(&gradients.k, k, tolerance);
    assert_close(&gradients.v, v, tolerance);
    assert_close(&gradients.bias, bias, tolerance);
}

for_both!(backward_is_the_derivative, check_backward);
fn check_backward<T: Element>() {
    for (m, mask) in MASKS.into_iter().take(5).enumerate() {
        for (g, (heads, kv_heads)) in GROUPS.into_iter().enumerate() {
            let [within, across, long] = layouts(heads, kv_heads, 3, mask);
            let mut cases = vec![within, across];
            // Long enough that a window leaves whole blocks of keys out.
            cases.extend((heads == 1).then_some(long));
            for (l, case) in cases.into_iter().enumerate() {
                check_case::<T>(&match (m + g + l) % 4 {
                    0 => case,
                    1 => case.dropped(),
                    2 => case.biased(),
                    _ => case.biased().dropped(),
                });
            }
        }
    }
}

#[test]
fn a_sequence_alone_gives_the_same_bits() {
    let case = Case::within(shape(4, 2, 8), AttentionMask::Causal, &[3, 0, 17, 1]).dropped();
    let (x, dout) = (case.numbers::<f32>(1), elements::<f32>(2, 21 * 32));
    let (out, d) = case.backward(&x, &dout);
    let mut alone = Case::within(case.shape, case.mask, &[17]);
    alone.examples = case.examples.map(|examples| examples[2..3].to_vec());
    let (q, kv) = (3 * 32..20 * 32, 3 * 16..20 * 16);
    let part = Numbers {
        q: x.q[q.clone()].to_vec(),
        k: x.k[kv.clone()].to_vec(),
        v: x.v[kv.clone()].to_vec(),
        bias: vec![],
    };
    let (one, done) = alone.backward(&part, &dout[q.clone()]);
    assert_same_bits(&one, &out[q.clone()]);
    assert_same_bits(&done.q, &d.q[q]);
    assert_same_bits(&done.k, &d.k[kv.clone()]);
    assert_same_bits(&done.v, &d.v[kv]);
}

#[test]
#[should_panic(expected = "keys of one sequence alone")]
fn keys_that_two_sequences_share_have_no_backward() {
    let mut case = Case::across(shape(1, 1, 4), AttentionMask::Full, &[2, 2], &[3, 3]);
    case.keys = vec![0..3, 2..5];
    let x = case.numbers::<f32>(1);
    case.backward(&x, &elements::<f32>(2, 16));
}
