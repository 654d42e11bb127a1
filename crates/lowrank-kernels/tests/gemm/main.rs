//! Frozen products, general products and weight gradients against a plain f64 reference, on every tier.

mod extremes;
mod int8_weight;
mod streamed;

use half::{bf16, f16};
use lowrank_kernels::gemm::{Matrix, MatrixMut, Weight, matmul, weight_gradient};
use lowrank_kernels::{Compute, Element, Rows, RowsMut, Source, Tier};

/// (rows, outputs, inputs): none a multiple of a tile, and the smallest of each.
const SHAPES: [(usize, usize, usize); 14] = [
    (3, 5, 0),
    (3, 0, 5),
    (0, 5, 3),
    (1, 1, 1),
    (1, 70, 33),
    (2, 3, 1),
    (5, 17, 2),
    (13, 33, 31),
    (16, 32, 32),
    (17, 48, 65),
    (31, 95, 100),
    (33, 64, 96),
    (47, 2, 129),
    (70, 37, 67),
];

/// Deep enough for several blocks along the sum in both directions.
const DEEP: [(usize, usize, usize); 2] = [(7, 11, 1100), (3, 1300, 5)];

struct Random(u64);

impl Random {
    fn value(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vec<T: Element>(&mut self, len: usize) -> Vec<T> {
        (0..len).map(|_| T::round(self.value())).collect()
    }
}

fn tiers() -> Vec<Tier> {
    let (available, missing) = Tier::ALL.into_iter().partition::<Vec<_>, _>(|tier| tier.is_available());
    for tier in missing {
        println!("skipped: this machine does not have the tier {tier}");
    }
    available
}

fn assert_close<T: Element>(actual: T, expected: f64, scale: f64, what: &str) {
    let tolerance = if T::COMPUTE == Compute::F32 { 2e-6 } else { 2f64.powi(-8) };
    let bound = tolerance * (expected.abs() + 1e-3 * scale) + 2e-6 * scale;
    let actual = f64::from(actual.widen());
    assert!((actual - expected).abs() <= bound, "{what}: {actual} instead of {expected} (within {bound})");
}

/// The wider matrix that strided rows are columns of: 3 columns before, 4 after.
const MARGIN: (usize, usize) = (3, 4);

fn check_forward<T: Element>(tier: Tier, m: usize, n: usize, k: usize, with_bias: bool) {
    let mut random = Random((m * 31 + n * 7 + k) as u64);
    let stride = k + 2;
    let x: Vec<T> = random.vec(m * stride);
    let w: Vec<T> = random.vec(n * k);
    let bias: Option<Vec<f32>> = with_bias.then(|| random.vec(n));
    let values: Vec<f32> = w.iter().map(|w| w.widen()).collect();
    let weight = Weight::with_tier(tier, T::COMPUTE, Source::F32(&values), n, k);
    let wide = MARGIN.0 + n + MARGIN.1;
    let untouched = T::round(77.0);
    let mut y = vec![untouched; m * wide];
    for i in 0..m {
        y[i * wide + MARGIN.0..][..n].fill(T::round(f32::NAN));
    }
    weight.forward(
        Rows::new(&x, m, k, stride),
        bias.as_deref(),
        RowsMut::columns(&mut y, m, wide, MARGIN.0, n),
    );
    for i in 0..m {
        for j in 0..wide {
            let what = format!("{tier} {:?} forward {m}x{n}x{k}, element {i}, {j}", T::COMPUTE);
            let Some(j) = j.checked_sub(MARGIN.0).filter(|&j| j < n) else {
                assert_eq!(y[i * wide + j], untouched, "{what} lies outside");
                continue;
            };
            let products =
                (0..k).map(|p| f64::from(x[i * stride + p].widen()) * f64::from(w[j * k + p].widen()));
            let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[j]));
            let scale = products.clone().map(f64::abs).sum::<f64>() + bias.abs();
            assert_close(y[i * wide + MARGIN.0 + j], products.sum::<f64>() + bias, scale, &what);
        }
    }
}

fn check_backward<T: Element>(tier: Tier, m: usize, n: usize, k: usize, accumulate: bool) {
    let mut random = Random((m * 13 + n * 5 + k) as u64);
    let stride = n + 1;
    let dy: Vec<T> = random.vec(m * stride);
    let w: Vec<T> = random.vec(n * k);
    let values: Vec<f32> = w.iter().map(|w| w.widen()).collect();
    let weight = Weight::with_tier(tier, T::COMPUTE, Source::F32(&values), n, k);
    let wide = MARGIN.0 + k + MARGIN.1;
    let mut dx: Vec<T> = random.vec(m * wide);
    let before = dx.clone();
    if !accumulate {
        for i in 0..m {
            dx[i * wide + MARGIN.0..][..k].fill(T::round(f32::NAN));
        }
    }
    weight.backward(
        Rows::new(&dy, m, n, stride),
        RowsMut::columns(&mut dx, m, wide, MARGIN.0, k),
        accumulate,
    );
    for i in 0..m {
        for j in 0..wide {
            let at = i * wide + j;
            let what = format!("{tier} {:?} backward {m}x{n}x{k}, element {i}, {j}", T::COMPUTE);
            let Some(j) = j.checked_sub(MARGIN.0).filter(|&j| j < k) else {
                assert_eq!(dx[at], before[at], "{what} lies outside");
                continue;
            };
            let products =
                (0..n).map(|p| f64::from(dy[i * stride + p].widen()) * f64::from(w[p * k + j].widen()));
            let start = if accumulate { f64::from(before[at].widen()) } else { 0.0 };
            let scale = products.clone().map(f64::abs).sum::<f64>() + start.abs();
            assert_close(dx[at], products.sum::<f64>() + start, scale, &what);
        }
    }
}

#[test]
fn forward_agrees_with_the_reference_on_every_tier() {
    for tier in tiers() {
        for (i, (m, n, k)) in SHAPES.into_iter().chain(DEEP).enumerate() {
            check_forward::<f32>(tier, m, n, k, i % 2 == 0);
            check_forward::<bf16>(tier, m, n, k, i % 2 == 0);
            check_forward::<f32>(tier, m, n, k, i % 2 == 1);
            check_forward::<bf16>(tier, m, n, k, i % 2 == 1);
        }
    }
}

#[test]
fn backward_agrees_with_the_reference_on_every_tier() {
    for tier in tiers() {
        for (m, n, k) in SHAPES.into_iter().chain(DEEP) {
            for accumulate in [false, true] {
                check_backward::<f32>(tier, m, n, k, accumulate);
                check_backward::<bf16>(tier, m, n, k, accumulate);
            }
        }
    }
}

fn results<T: Element>(weight: &Weight, x: &[T], dy: &[T], m: usize) -> (Vec<T>, Vec<T>) {
    let (n, k) = (weight.outputs(), weight.inputs());
    let (mut y, mut dx) = (vec![T::round(0.0); m * n], vec![T::round(0.0); m * k]);
    weight.forward(Rows::dense(&x[..m * k], m, k), None, RowsMut::dense(&mut y, m, n));
    weight.backward(Rows::dense(&dy[..m * n], m, n), RowsMut::dense(&mut dx, m, k), false);
    (y, dx)
}

fn check_same_bits<T: Element>(tier: Tier) {
    let (m, n, k) = (131, 83, 150);
    let mut random = Random(5);
    let (x, dy, w): (Vec<T>, Vec<T>, Vec<f32>) = (random.vec(m * k), random.vec(m * n), random.vec(n * k));
    let weight = Weight::with_tier(tier, T::COMPUTE, Source::F32(&w), n, k);
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    let (y, dx) = pool(1).install(|| results(&weight, &x, &dy, m));
    for threads in [2, 3] {
        let (y2, dx2) = pool(threads).install(|| results(&weight, &x, &dy, m));
        assert!(y == y2 && dx == dx2, "{tier} {:?}: {threads} threads give other bits", T::COMPUTE);
    }
    // The gemm crate, which serves other processors, takes small batches in another order.
    if cfg!(not(target_arch = "x86_64")) || tier == Tier::Plain {
        return;
    }
    for rows in [1, 2, 5, 15, 16, 17, 40] {
        let (y2, dx2) = results(&weight, &x, &dy, rows);
        assert!(
            y[..rows * n] == y2 && dx[..rows * k] == dx2,
            "{tier} {:?}: alone, {rows} rows differ",
            T::COMPUTE
        );
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_the_threads_and_the_other_rows() {
    for tier in tiers() {
        check_same_bits::<f32>(tier);
        check_same_bits::<bf16>(tier);
    }
}

#[test]
fn every_source_type_gives_the_weight_that_its_values_name() {
    let (n, k) = (19, 37);
    let mut random = Random(9);
    let halves: Vec<f16> = (0..n * k).map(|_| f16::from_f32(random.value())).collect();
    let wide: Vec<f32> = halves.iter().map(|h| h.to_f32()).collect();
    let brains: Vec<bf16> = wide.iter().map(|&w| bf16::round(w)).collect();
    let widened: Vec<f32> = brains.iter().map(|b| b.widen()).collect();
    let (x, dy): (Vec<f32>, Vec<f32>) = (random.vec(3 * k), random.vec(3 * n));
    let (xb, dyb): (Vec<bf16>, Vec<bf16>) = (random.vec(3 * k), random.vec(3 * n));
    for tier in tiers() {
        let f32s = |source| results(&Weight::with_tier(tier, Compute::F32, source, n, k), &x, &dy, 3);
        assert_eq!(f32s(Source::F16(&halves)), f32s(Source::F32(&wide)));
        assert_eq!(f32s(Source::Bf16(&brains)), f32s(Source::F32(&widened)));
        let bf16s = |source| results(&Weight::with_tier(tier, Compute::Bf16, source, n, k), &xb, &dyb, 3);
        assert_eq!(bf16s(Source::F16(&halves)), bf16s(Source::Bf16(&brains)));
        assert_eq!(bf16s(Source::F32(&wide)), bf16s(Source::Bf16(&brains)));
    }
}

#[test]
fn general_product_handles_strides_transposes_and_both_factors() {
    let mut random = Random(3);
    for (m, n, k) in SHAPES {
        let (a, b): (Vec<f32>, Vec<f32>) = (random.vec(m * k), random.vec(k * n));
        let at: Vec<f32> = (0..k * m).map(|i| a[i % m.max(1) * k + i / m.max(1)]).collect();
        for (beta, parallel) in [(0.0, false), (0.5, true)] {
            let mut c: Vec<f32> = random.vec(m * n);
            let before = c.clone();
            if beta == 0.0 {
                c.fill(f32::NAN);
            }
            // c is written through its transpose, a read through one.
            let left = Matrix::dense(&at, k, m).transposed();
            let into = MatrixMut::new(&mut c, n, m, 1, n).transposed();
            matmul(2.0, left, Matrix::dense(&b, k, n), beta, into, parallel);
            for i in 0..m * n {
                let products =
                    (0..k).map(|p| 2.0 * f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n]));
                let start = if beta == 0.0 { 0.0 } else { f64::from(beta * before[i]) };
                let scale = products.clone().map(f64::abs).sum::<f64>() + start.abs();
                assert_close(c[i], products.sum::<f64>() + start, scale, &format!("{m}x{n}x{k} at {i}"));
            }
        }
    }
}

#[test]
#[should_panic(expected = "overlaps itself")]
fn a_matrix_whose_elements_overlap_cannot_be_written() {
    MatrixMut::new(&mut [0.0; 10], 3, 4, 2, 1);
}

#[test]
#[should_panic(expected = "compute type")]
fn rows_of_another_type_are_refused() {
    let weight = Weight::with_tier(Tier::Portable, Compute::Bf16, Source::F32(&[1.0]), 1, 1);
    weight.forward(Rows::dense(&[1.0f32], 1, 1), None, RowsMut::dense(&mut [0.0f32], 1, 1));
}

fn check_gradient<T: Element>(m: usize, n: usize, k: usize) {
    let mut random = Random((m + n + k) as u64);
    let (dy, x): (Vec<T>, Vec<T>) = (random.vec(m * (n + 1)), random.vec(m * (k + 3)));
    let (dy, x) = (Rows::new(&dy, m, n, n + 1), Rows::new(&x, m, k, k + 3));
    let before: Vec<f32> = random.vec(n * k);
    let run = |threads| {
        let mut grad = before.clone();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| weight_gradient(dy, x, &mut grad));
        grad
    };
    let grad = run(1);
    assert_eq!(grad, run(2), "{m}x{n}x{k}: two threads give other bits");
    for i in 0..n * k {
        let products =
            (0..m).map(|p| f64::from(dy.row(p)[i / k].widen()) * f64::from(x.row(p)[i % k].widen()));
        let scale = products.clone().map(f64::abs).sum::<f64>() + 1.0;
        let expected = products.sum::<f64>() + f64::from(before[i]);
        assert_close(grad[i], expected, scale, &format!("{m}x{n}x{k} at {i}"));
    }
}

#[test]
fn weight_gradient_is_added_to_what_is_there() {
    for (m, n, k) in SHAPES.into_iter().chain([(1100, 9, 21), (600, 65, 40)]) {
        check_gradient::<f32>(m, n, k);
        check_gradient::<bf16>(m, n, k);
    }
}

#[test]
fn a_weight_is_kept_in_one_form_but_on_amx() {
    fn check<T: Element>() {
        // A multiple of every kernel's panels, so that nothing is padded.
        let (n, k) = (96, 192);
        let values = vec![0.5; n * k];
        let weight = Weight::new(T::COMPUTE, Source::F32(&values), n, k);
        let before = weight.bytes();
        assert_eq!(before, Weight::value_bytes(T::COMPUTE, false) * n * k);
        let (dy, mut dx) = (vec![T::round(1.0); n], vec![T::round(0.0); k]);
        weight.backward(Rows::dense(&dy, 1, n), RowsMut::dense(&mut dx, 1, k), false);
        assert_eq!(weight.bytes(), Weight::value_bytes(T::COMPUTE, true) * n * k);
        let twice = Tier::active() == Tier::Amx && T::COMPUTE == Compute::Bf16;
        assert_eq!(weight.bytes(), if twice { 2 * before } else { before });
    }
    check::<f32>();
    check::<bf16>();
}
