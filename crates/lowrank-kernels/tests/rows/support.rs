//! What the tests share: numbers, comparison, derivatives.

use half::bf16;
use lowrank_kernels::dropout::apply;
use lowrank_kernels::random::Philox;
use lowrank_kernels::{Compute, Dropout, DropoutKey, Element, RowId, Rows, RowsMut};

/// `n` standard normal numbers, the same for the same `seed`.
pub fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut generator = Philox::new(seed, 7);
    (0..n).map(|_| generator.normal_f32()).collect()
}

/// The same numbers rounded to `T`.
pub fn elements<T: Element>(seed: u64, n: usize) -> Vec<T> {
    numbers(seed, n).into_iter().map(T::round).collect()
}

pub fn wide<T: Element>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.widen())).collect()
}

pub fn zeros<T: Element>(n: usize) -> Vec<T> {
    vec![T::round(0.0); n]
}

/// How far a result of rows of `T` may be from the exact one, relative to `scale`.
pub fn tolerance<T: Element>() -> f64 {
    match T::COMPUTE {
        Compute::F32 => 4e-6,
        Compute::Bf16 => 1.2e-2,
    }
}

/// Fails unless every element is within `tolerance` of the expected one, relative to the larger of it and 1.
#[track_caller]
pub fn assert_close<T: Element>(found: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let found = f64::from(found.widen());
        let error = (found - expected).abs() / expected.abs().max(1.0);
        assert!(error <= tolerance, "element {i}: {found} instead of {expected} (error {error:e})");
    }
}

/// Fails unless the bits are equal.
#[track_caller]
pub fn assert_same_bits<T: Element>(a: &[T], b: &[T]) {
    assert!(bytemuck::cast_slice::<T, u8>(a) == bytemuck::cast_slice::<T, u8>(b));
}

/// The derivative of `f` at `x`, by central differences.
pub fn derivative(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let middle = x[i];
            x[i] = middle + STEP;
            let above = f(&x);
            x[i] = middle - STEP;
            let below = f(&x);
            x[i] = middle;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What `work` gives in a pool of `threads` threads.
pub fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start").install(work)
}

pub const KEY: DropoutKey = DropoutKey { seed: 42, step: 1 << 33, site: 5 };

/// Rows of sequences of seven tokens.
pub fn row_ids(rows: usize) -> Vec<RowId> {
    (0..rows).map(|row| RowId { example: (row / 7) as u32 + 100, token: (row % 7) as u32 }).collect()
}

/// `dropout(x)`.
pub fn dropped<T: Element>(x: &[T], rows: usize, cols: usize, dropout: &Dropout) -> Vec<T> {
    let mut y = zeros(x.len());
    apply(Rows::dense(x, rows, cols), dropout, RowsMut::dense(&mut y, rows, cols));
    y
}

/// Calls a generic check for both types of rows.
#[macro_export]
macro_rules! for_both {
    ($name:ident, $check:ident) => {
        mod $name {
            #[test]
            fn in_f32() {
                super::$check::<f32>();
            }

            #[test]
            fn in_bf16() {
                super::$check::<half::bf16>();
            }
        }
    };
}

#[test]
fn rounding_is_to_nearest_even() {
    for bits in (0..=u32::MAX).step_by(65_537 * 3) {
        let x = f32::from_bits(bits);
        let (ours, reference) = (<bf16 as Element>::round(x), bf16::from_f32(x));
        assert!(ours == reference || (ours.is_nan() && reference.is_nan()), "{x}");
    }
}
