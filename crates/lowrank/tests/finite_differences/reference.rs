//! Operations against what PyTorch 2 and Transformers 5 gave for the same small numbers.

use std::sync::Arc;

use lowrank::tape::{Gradients, Layout, Leaf, Parameter, Tape, Var, ops};
use lowrank::tensor::Tensor;
use lowrank_kernels::Compute;

/// Multiples of 1/8, which PyTorch was given as well.
fn values(n: usize, a: usize, b: usize, c: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * a + b) % c) as f32 - (c / 2) as f32) / 8.0).collect()
}

/// A norm's weight of such values, none of them 0.
fn weight(n: usize, a: usize, b: usize, c: usize) -> Parameter {
    let values: Vec<f32> = values(n, a, b, c).iter().map(|x| x + 0.0625).collect();
    let mut parameter = Parameter::new([n]);
    parameter.set_base(Leaf::frozen(Tensor::from_slice([n], &values))).unwrap();
    parameter
}

fn rows(values: &[f32], width: usize, layout: &Arc<Layout>) -> Var {
    Var::constant(Tensor::from_slice([layout.rows(), width], values), Arc::clone(layout))
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= 5e-7 * expected.abs().max(1.0), "{i}: {found}, not {expected}");
    }
}

fn tape<'m>() -> Tape<'m> {
    Tape::evaluation(Compute::F32)
}

#[test]
fn rms_norm_is_that_of_qwen3_and_t5() {
    let x = rows(&values(10, 7, 3, 11), 5, &Layout::from_lengths(&[2], None));
    let y = ops::rms_norm(&mut tape(), &x, &weight(5, 3, 1, 7), 1e-3).unwrap();
    let expected = [
        0.11273926,
        0.28184813,
        -0.09394938,
        -0.05636963,
        0.52611655,
        0.0,
        -0.23410083,
        -0.29262605,
        -0.019508403,
        -0.6827941,
    ];
    assert_close(y.value().as_slice(), &expected);
}

/// Two heads of queries and one of keys and of values, of six elements of which four are turned.
const ROTARY: ops::Rotary<'_> = ops::Rotary {
    heads: 2,
    kv_heads: 1,
    head_dim: 6,
    frequencies: &[1.0, 0.015625],
    factor: 1.25,
    norms: None,
};
const POSITIONS: [u32; 3] = [0, 3, 700];

#[test]
fn rotary_positions_are_those_of_transformers() {
    let qkv = rows(&values(72, 5, 2, 13), 24, &Layout::from_lengths(&[3], None));
    let y = ops::rotary(&mut tape(), &qkv, &POSITIONS, &ROTARY).unwrap();
    let expected = [
        [
            -0.625, 0.15625, 0.9375, -0.3125, 0.375, -0.625, 0.0, 0.78125, -0.46875, 0.3125, -0.75, -0.125,
            0.625, -0.625, 0.15625, 0.9375, -0.25, 0.375, -0.625, 0.0, 0.625, -0.375, 0.25, -0.75,
        ],
        [
            0.24288633,
            0.61699194,
            0.5966953,
            0.18536451,
            0.75,
            -0.25,
            -0.464059,
            -0.8169995,
            0.06615,
            0.7437841,
            -0.375,
            0.25,
            0.839918,
            -0.12679222,
            -0.75104535,
            -0.631635,
            0.125,
            0.75,
            -0.25,
            0.375,
            -0.625,
            0.0,
            0.625,
            -0.375,
        ],
        [
            -0.1772247,
            0.67836034,
            0.30110085,
            0.8996434,
            -0.5,
            0.125,
            -1.0416465,
            -0.76179487,
            0.11664227,
            0.3573182,
            0.0,
            0.625,
            0.90330255,
            -0.1741246,
            0.531674,
            -0.30290416,
            0.5,
            -0.5,
            0.125,
            0.75,
            -0.25,
            0.375,
            -0.625,
            0.0,
        ],
    ];
    assert_close(y.value().as_slice(), expected.as_flattened());
}

#[test]
fn norms_of_heads_are_those_of_qwen3() {
    let qkv = rows(&values(72, 5, 2, 13), 24, &Layout::from_lengths(&[3], None));
    let (query, key) = (weight(6, 3, 1, 7), weight(6, 5, 2, 9));
    let norms = Some(ops::HeadNorms { query: &query, key: &key, eps: 1e-3 });
    let y = ops::rotary(&mut tape(), &qkv, &POSITIONS, &ops::Rotary { norms, ..ROTARY }).unwrap();
    let expected = [
        0.05136109,
        0.11178527,
        -0.16551088,
        0.39356637,
        -0.49702004,
        -0.017750716,
        0.44656146,
        -0.0891325,
        0.05365421,
        0.120551735,
        0.0,
        -0.07678341,
        -0.2280349,
        -0.2065644,
        -0.0029283166,
        -0.28365883,
        0.06746743,
        0.472272,
        0.125,
        0.75,
        -0.25,
        0.375,
        -0.625,
        0.0,
    ];
    assert_close(&y.value().as_slice()[48..], &expected);
}

/// Positions beyond the sequences do not count, each kind in its own mean, and −1 means the first token.
#[test]
fn the_loss_of_spans_is_that_of_transformers() {
    let layout = Layout::from_lengths(&[4, 4], None);
    let logits = rows(&values(16, 5, 3, 17), 2, &layout);
    for (starts, ends, expected) in [
        ([1, 3], [2, 3], 1.2638391),
        ([0, -1], [2, 1], 1.5450891),
        ([4, 2], [1, 3], 1.287968),
        ([1, 9], [0, 9], 1.19831),
    ] {
        let [of_starts, of_ends] = ops::span_targets(&layout, &starts, &ends).map(|n| n as f32);
        let denominators = ops::SpanDenominators { starts: of_starts, ends: of_ends };
        let loss = ops::span_loss(&mut tape(), &logits, &starts, &ends, denominators).unwrap();
        assert_close(loss.value().as_slice(), &[expected]);
        if of_starts == of_ends {
            let loss = ops::span_loss(&mut tape(), &logits, &starts, &ends, of_ends).unwrap();
            assert_close(loss.value().as_slice(), &[expected]);
        }
    }
}

#[test]
fn the_gradient_of_spans_is_that_of_transformers() {
    let layout = Layout::from_lengths(&[4, 4], None);
    let ids: Vec<u32> = (0..8).collect();
    let mut table = Parameter::new([8, 2]);
    table.set_base(Leaf::trained(Tensor::from_slice([8, 2], &values(16, 5, 3, 17)))).unwrap();
    let mut tape = tape();
    let lookup = ops::Lookup::of(&table, &ids);
    let logits = ops::embedding(&mut tape, &[lookup], &layout).unwrap();
    let denominators = ops::SpanDenominators { starts: 1.0, ends: 2.0 };
    let loss = ops::span_loss(&mut tape, &logits, &[4, 2], &[1, 3], denominators).unwrap();
    let mut gradients = Gradients::new();
    tape.backward(&loss, &mut gradients).unwrap();
    let expected = [
        0.0, 0.07187247, 0.0, -0.2200391, 0.0, 0.1045738, 0.0, 0.04359285, 0.1437449, 0.1137829, 0.0599218,
        0.04743177, -0.2908524, 0.0197725, 0.0871857, -0.1809872,
    ];
    assert_close(gradients.get(table.base().unwrap()).unwrap(), &expected);
}
