//! Products in whole numbers against those of the decoded weight.

use half::bf16;
use lowrank_kernels::gemm::{Int8, Int8Weight};
use lowrank_kernels::{Compute, Element, Rows, RowsMut, Tier};

/// (rows, outputs, inputs): around tiles, tasks and blocks of the depth, small and large enough for several threads.
const SHAPES: [(usize, usize, usize); 5] =
    [(1, 16, 16), (7, 50, 33), (230, 70, 97), (5, 19, 14_336), (200, 2500, 40)];

fn number(i: usize, seed: usize) -> f32 {
    ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0
}

struct Parts {
    values: Vec<i8>,
    scales: Vec<f32>,
    columns: Vec<u32>,
    outliers: Vec<bf16>,
}

impl Parts {
    /// With three outlier columns, in whose place the values are not zero: they do not count.
    fn of(outputs: usize, inputs: usize) -> Self {
        let columns = vec![0, inputs as u32 / 2, inputs as u32 - 1];
        Self {
            values: (0..outputs * inputs).map(|i| (number(i, 1) * 128.0) as i8).collect(),
            scales: (0..outputs).map(|n| 0.01 + 0.005 * number(n, 2)).collect(),
            outliers: (0..3 * outputs).map(|i| bf16::from_f32(20.0 * number(i, 3))).collect(),
            columns,
        }
    }

    fn view(&self) -> Int8<'_> {
        let Self { values, scales, columns, outliers } = self;
        Int8 { values, scales, columns, outliers }
    }
}

/// The largest difference of a row from the sums in f64, as a part of the row's own size.
fn error<T: Element>(found: &[T], stride: usize, wanted: &[f64], width: usize) -> f64 {
    let rows = wanted.chunks_exact(width).zip(found.chunks(stride));
    let each = rows.map(|(wanted, found)| {
        let size = wanted.iter().fold(0.0, |max: f64, value| max.max(value.abs()));
        let off = wanted.iter().zip(found).map(|(w, f)| (w - f64::from(f.widen())).abs());
        off.fold(0.0, f64::max) / size
    });
    each.fold(0.0, f64::max)
}

fn check<T: Element>(tier: Tier, tolerance: f64) {
    for (rows, outputs, inputs) in SHAPES {
        let parts = Parts::of(outputs, inputs);
        let weight = Int8Weight::with_tier(tier, T::COMPUTE, parts.view(), outputs, inputs);
        let mut decoded = vec![0.0; outputs * inputs];
        for (n, row) in decoded.chunks_exact_mut(inputs).enumerate() {
            parts.view().read(n, 0, row);
        }
        let product =
            |left: &[T], stride: usize, [depth, width]: [usize; 2], at: &dyn Fn(usize, usize) -> f32| {
                let mut out = vec![0.0; rows * width];
                for (i, out) in out.iter_mut().enumerate() {
                    let row = &left[i / width * stride..][..depth];
                    let terms = row.iter().enumerate();
                    *out =
                        terms.map(|(k, l)| f64::from(l.widen()) * f64::from(at(k, i % width))).sum::<f64>();
                }
                out
            };
        // One element of each row is thirty times the others, and it stands in an outlier column in some.
        let make = |width: usize, seed: usize| -> Vec<T> {
            let stride = width + 3;
            let spike = |i: usize| if i % stride == (i / stride * 31) % width { 30.0 } else { 1.0 };
            (0..rows * stride).map(|i| T::round(number(i, seed) * spike(i))).collect()
        };
        let (x, dy) = (make(inputs, 4), make(outputs, 5));
        let bias: Vec<f32> = (0..outputs).map(|n| number(n, 6)).collect();
        let mut forward = product(&x, inputs + 3, [inputs, outputs], &|k, n| decoded[n * inputs + k]);
        for (i, value) in forward.iter_mut().enumerate() {
            *value += f64::from(bias[i % outputs]);
        }
        let backward = product(&dy, outputs + 3, [outputs, inputs], &|n, k| decoded[n * inputs + k]);
        let run = |weight: &Int8Weight, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            pool.install(|| {
                let mut y = vec![T::round(f32::NAN); rows * (outputs + 2)];
                let y_rows = RowsMut::new(&mut y, rows, outputs, outputs + 2);
                weight.forward(Rows::new(&x, rows, inputs, inputs + 3), Some(&bias), y_rows);
                let mut dx = vec![T::round(f32::NAN); rows * (inputs + 2)];
                for accumulate in [false, true] {
                    let dx_rows = RowsMut::new(&mut dx, rows, inputs, inputs + 2);
                    weight.backward(Rows::new(&dy, rows, outputs, outputs + 3), dx_rows, accumulate);
                }
                (y, dx)
            })
        };
        let (y, dx) = run(&weight, 1);
        let twice: Vec<f64> = backward.iter().map(|value| 2.0 * value).collect();
        let (ahead, back) =
            (error(&y, outputs + 2, &forward, outputs), error(&dx, inputs + 2, &twice, inputs));
        assert!(ahead < tolerance, "{tier}, {rows} rows, {outputs} x {inputs}: forward {ahead:e}");
        assert!(back < tolerance, "{tier}, {rows} rows, {outputs} x {inputs}: backward {back:e}");
        let bits =
            |values: &[T]| -> Vec<u32> { values.iter().map(|value| value.widen().to_bits()).collect() };
        let kept =
            Int8Weight::with_tier(tier, T::COMPUTE, parts.view(), outputs, inputs).keeping_transpose(true);
        for (other, threads) in [(&weight, 3), (&kept, 1)] {
            let (other_y, other_dx) = run(other, threads);
            assert!(bits(&y) == bits(&other_y) && bits(&dx) == bits(&other_dx), "{threads} threads");
        }
        assert!(kept.bytes() > weight.bytes());
    }
}

#[test]
fn products_in_whole_numbers_are_those_of_the_decoded_weight() {
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        check::<f32>(tier, 3e-3);
        check::<bf16>(tier, 2e-2);
    }
}

#[test]
fn many_rows_keep_no_transpose_and_take_one_that_few_have_kept() {
    let (outputs, inputs, many) = (50, 33, 1024);
    let parts = Parts::of(outputs, inputs);
    let weight = Int8Weight::new(Compute::F32, parts.view(), outputs, inputs).keeping_transpose(true);
    let dy: Vec<f32> = (0..many * outputs).map(|i| number(i, 5)).collect();
    let backward = |rows: usize| {
        let mut dx = vec![f32::NAN; rows * inputs];
        let dx_rows = RowsMut::dense(&mut dx, rows, inputs);
        weight.backward(Rows::dense(&dy[..rows * outputs], rows, outputs), dx_rows, false);
        dx
    };
    let (before, made) = (weight.bytes(), backward(many));
    assert_eq!(weight.bytes(), before);
    let few = backward(3);
    assert!(weight.bytes() > before);
    assert_eq!((few, backward(many)), (made[..3 * inputs].to_vec(), made));
}

#[test]
fn a_row_that_is_not_finite_stays_so_and_leaves_the_others_alone() {
    let parts = Parts::of(19, 33);
    let weight = Int8Weight::new(Compute::F32, parts.view(), 19, 33);
    let mut x: Vec<f32> = (0..3 * 33).map(|i| number(i, 7)).collect();
    let run = |x: &[f32]| {
        let mut y = vec![0.0; 3 * 19];
        weight.forward(Rows::dense(x, 3, 33), None, RowsMut::dense(&mut y, 3, 19));
        y
    };
    let before = run(&x);
    x[33 + 5] = f32::NAN;
    let after = run(&x);
    assert!(after[19..38].iter().all(|value| value.is_nan()));
    assert_eq!((&before[..19], &before[38..]), (&after[..19], &after[38..]));
}
