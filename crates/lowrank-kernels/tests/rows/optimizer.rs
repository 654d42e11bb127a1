use lowrank_kernels::optimizer::{AdamW, adamw_step, squared_norm};

use crate::support::{assert_close, assert_same_bits, numbers, on_threads, wide};

const SETTINGS: AdamW = AdamW {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
    step: 1,
    gradient_scale: 0.5,
};

/// `torch.optim.AdamW` on two parameters for three steps (computed by hand from its definition, in f64).
fn reference(p: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64], s: AdamW) {
    let t = s.step as i32;
    for i in 0..p.len() {
        let g = g[i] * f64::from(s.gradient_scale);
        p[i] *= 1.0 - s.learning_rate * s.weight_decay;
        m[i] = s.beta1 * m[i] + (1.0 - s.beta1) * g;
        v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * g * g;
        let denominator = (v[i] / (1.0 - s.beta2.powi(t))).sqrt() + s.epsilon;
        p[i] -= s.learning_rate * (m[i] / (1.0 - s.beta1.powi(t))) / denominator;
    }
}

#[test]
fn steps_follow_the_definition() {
    let n = 53;
    let (mut p, mut m, mut v) = (numbers(1, n), vec![0.0; n], vec![0.0; n]);
    let (mut pw, mut mw, mut vw) = (wide(&p), vec![0.0; n], vec![0.0; n]);
    for step in 1..=20 {
        let gradient = numbers(100 + step, n);
        let settings = AdamW { step, ..SETTINGS };
        adamw_step(&mut p, &gradient, &mut m, &mut v, settings);
        reference(&mut pw, &wide(&gradient), &mut mw, &mut vw, settings);
    }
    assert_close(&p, &pw, 1e-6);
    assert_close(&m, &mw, 1e-6);
    assert_close(&v, &vw, 1e-6);
}

#[test]
fn a_zero_gradient_only_decays() {
    let (mut p, mut m, mut v) = (vec![2.0; 5], vec![0.0; 5], vec![0.0; 5]);
    adamw_step(&mut p, &[0.0; 5], &mut m, &mut v, SETTINGS);
    assert_close(&p, &[2.0 * (1.0 - 1e-3); 5], 1e-7);
}

#[test]
fn threads_do_not_change_bits() {
    let n = 150_001;
    let gradient = numbers(2, n);
    let run = |threads| {
        on_threads(threads, || {
            let (mut p, mut m, mut v) = (numbers(1, n), vec![0.1; n], vec![0.2; n]);
            adamw_step(&mut p, &gradient, &mut m, &mut v, SETTINGS);
            (p, squared_norm(&gradient))
        })
    };
    let (one, three) = (run(1), run(3));
    assert_same_bits(&one.0, &three.0);
    assert_eq!(one.1.to_bits(), three.1.to_bits());
    let expected: f64 = wide(&gradient).iter().map(|x| x * x).sum();
    assert!((one.1 - expected).abs() < 1e-9 * expected);
    assert_eq!(squared_norm(&[]), 0.0);
    assert_eq!(squared_norm(&[3.0, 4.0]), 25.0);
}
