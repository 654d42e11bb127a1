//! Weights that are decoded in every product: 8-bit ones against decode-then-multiply in f64, floating ones against the
//! weight that is prepared once.

use half::{bf16, f16};
use lowrank_kernels::gemm::{Int8, Stored, Streamed, Weight, quantize};
use lowrank_kernels::{Element, Rows, RowsMut, Source, Tier};

use super::{DEEP, Random, SHAPES, assert_close, tiers};

/// An 8-bit weight.
struct Made {
    values: Vec<i8>,
    scales: Vec<f32>,
    columns: Vec<u32>,
    outliers: Vec<bf16>,
    sizes: (usize, usize),
}

impl Made {
    /// Random values; columns 1 and K - 2 are large.
    fn new(n: usize, k: usize) -> Self {
        let mut random = Random((n * 17 + k) as u64);
        let mut source: Vec<f32> = random.vec(n * k);
        for row in source.chunks_exact_mut(k.max(1)) {
            for column in [1, k.wrapping_sub(2)] {
                row.get_mut(column).into_iter().for_each(|value| *value = 30.0 * (*value + 1.1));
            }
        }
        let (mut values, mut scales) = (vec![0; n * k], vec![0.0; n]);
        let made = quantize(Source::F32(&source), n, k, &mut values, &mut scales);
        let (columns, outliers) = made.expect("every value is finite");
        Self { values, scales, columns, outliers, sizes: (n, k) }
    }

    fn view(&self) -> Int8<'_> {
        Int8 { values: &self.values, scales: &self.scales, columns: &self.columns, outliers: &self.outliers }
    }

    /// Every value, decoded without the kernels, and rounded as products in `T` take it.
    fn decoded<T: Element>(&self) -> Vec<f64> {
        let (n, k) = self.sizes;
        let value = |i: usize| {
            let outlier = self.columns.iter().position(|&column| column as usize == i % k);
            match outlier {
                Some(j) => self.outliers[i / k * self.columns.len() + j].to_f32(),
                None => self.scales[i / k] * f32::from(self.values[i]),
            }
        };
        (0..n * k).map(|i| f64::from(T::round(value(i)).widen())).collect()
    }
}

fn check<T: Element>(tier: Tier, m: usize, n: usize, k: usize) {
    let made = Made::new(n, k);
    let w = made.decoded::<T>();
    let weight = Streamed::with_tier(tier, T::COMPUTE, Stored::Int8(made.view()), n, k);
    let mut random = Random((m + n) as u64);
    let (x, dy): (Vec<T>, Vec<T>) = (random.vec(m * (k + 2)), random.vec(m * (n + 1)));
    let (x, dy) = (Rows::new(&x, m, k, k + 2), Rows::new(&dy, m, n, n + 1));
    let bias: Vec<f32> = random.vec(n);
    for bias in [None, Some(&bias[..])] {
        let mut y = vec![T::round(f32::NAN); m * n];
        weight.forward(x, bias, RowsMut::dense(&mut y, m, n));
        for i in 0..m * n {
            let products = (0..k).map(|p| f64::from(x.row(i / n)[p].widen()) * w[i % n * k + p]);
            let start = bias.map_or(0.0, |bias| f64::from(bias[i % n]));
            let scale = products.clone().map(f64::abs).sum::<f64>() + start.abs();
            let what = format!("{tier} {:?} forward {m}x{n}x{k} at {i}", T::COMPUTE);
            assert_close(y[i], products.sum::<f64>() + start, scale, &what);
        }
    }
    for accumulate in [false, true] {
        let before: Vec<T> = random.vec(m * k);
        let mut dx = if accumulate { before.clone() } else { vec![T::round(f32::NAN); m * k] };
        weight.backward(dy, RowsMut::dense(&mut dx, m, k), accumulate);
        for i in 0..m * k {
            let products = (0..n).map(|p| f64::from(dy.row(i / k)[p].widen()) * w[p * k + i % k]);
            let start = if accumulate { f64::from(before[i].widen()) } else { 0.0 };
            let scale = products.clone().map(f64::abs).sum::<f64>() + start.abs();
            let what = format!("{tier} {:?} backward {m}x{n}x{k} at {i}", T::COMPUTE);
            assert_close(dx[i], products.sum::<f64>() + start, scale, &what);
        }
    }
}

#[test]
fn int8_products_are_those_of_the_decoded_weight_on_every_tier() {
    for tier in tiers() {
        for (m, n, k) in SHAPES.into_iter().chain(DEEP).chain([(200, 51, 40), (80, 130, 203)]) {
            check::<f32>(tier, m, n, k);
            check::<bf16>(tier, m, n, k);
        }
    }
}

fn results<T: Element>(weight: &Streamed<'_>, x: &[T], dy: &[T], m: usize) -> (Vec<T>, Vec<T>) {
    let (n, k) = (weight.outputs(), weight.inputs());
    let (mut y, mut dx) = (vec![T::round(0.0); m * n], vec![T::round(0.0); m * k]);
    weight.forward(Rows::dense(&x[..m * k], m, k), None, RowsMut::dense(&mut y, m, n));
    weight.backward(Rows::dense(&dy[..m * n], m, n), RowsMut::dense(&mut dx, m, k), false);
    (y, dx)
}

fn check_same_bits<T: Element>(tier: Tier) {
    let (m, n, k) = (141, 183, 250);
    let made = Made::new(n, k);
    let mut random = Random(8);
    let (x, dy): (Vec<T>, Vec<T>) = (random.vec(m * k), random.vec(m * n));
    let weight = Streamed::with_tier(tier, T::COMPUTE, Stored::Int8(made.view()), n, k);
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    let one = pool(1).install(|| results(&weight, &x, &dy, m));
    for threads in [2, 3] {
        assert!(one == pool(threads).install(|| results(&weight, &x, &dy, m)), "{tier}: {threads} threads");
    }
}

#[test]
fn int8_products_have_the_same_bits_whatever_the_threads() {
    for tier in tiers() {
        check_same_bits::<f32>(tier);
        check_same_bits::<bf16>(tier);
    }
}

fn check_against_prepared<T: Element>(tier: Tier, source: Source<'_>, n: usize, k: usize) {
    let m = 37;
    let mut random = Random(21);
    let (x, dy): (Vec<T>, Vec<T>) = (random.vec(m * k), random.vec(m * n));
    let streamed = Streamed::with_tier(tier, T::COMPUTE, Stored::Float(source), n, k);
    let (y, dx) = results(&streamed, &x, &dy, m);
    let prepared = Weight::with_tier(tier, T::COMPUTE, source, n, k);
    let (mut y2, mut dx2) = (vec![T::round(0.0); m * n], vec![T::round(0.0); m * k]);
    prepared.forward(Rows::dense(&x, m, k), None, RowsMut::dense(&mut y2, m, n));
    prepared.backward(Rows::dense(&dy, m, n), RowsMut::dense(&mut dx2, m, k), false);
    if cfg!(target_arch = "x86_64") && tier != Tier::Plain {
        assert!(y == y2 && dx == dx2, "{tier} {:?} {n}x{k}", T::COMPUTE);
        return;
    }
    // The gemm crate sums in another order where its operands have another size.
    for (a, b) in y.iter().zip(&y2).chain(dx.iter().zip(&dx2)) {
        assert_close(*a, f64::from(b.widen()), 30.0, &format!("{tier} {n}x{k}"));
    }
}

#[test]
fn a_streamed_weight_multiplies_like_the_prepared_one_from_every_source() {
    for (n, k) in [(1, 1), (51, 67), (130, 500), (500, 33)] {
        let mut random = Random(4);
        let wide: Vec<f32> = random.vec(n * k);
        let halves: Vec<f16> = wide.iter().map(|&w| f16::from_f32(w)).collect();
        let brains: Vec<bf16> = wide.iter().map(|&w| bf16::from_f32(w)).collect();
        for tier in tiers() {
            for source in [Source::F32(&wide), Source::F16(&halves), Source::Bf16(&brains)] {
                check_against_prepared::<f32>(tier, source, n, k);
                check_against_prepared::<bf16>(tier, source, n, k);
            }
        }
    }
}
