//! Products of the smallest numbers, and over the longest sums.

use half::bf16;
use lowrank_kernels::gemm::Weight;
use lowrank_kernels::{Compute, Rows, RowsMut, Source};
#[cfg(target_arch = "x86_64")]
use lowrank_kernels::{
    Tier,
    gemm::{Matrix, MatrixMut, matmul},
};

use crate::tiers;

/// On threads that no other kernel ran on before: the caller's alone, then three of a pool.
#[cfg(target_arch = "x86_64")]
#[test]
fn products_treat_denormal_numbers_as_zero() {
    let check = |tier: Option<Tier>, m: usize| {
        let (n, k) = (33, 2);
        let (x, w) = (vec![f32::MIN_POSITIVE; m * k], vec![0.25_f32; n * k]);
        let mut y = vec![1.0_f32; m * n];
        match tier {
            Some(tier) => {
                let weight = Weight::with_tier(tier, Compute::F32, Source::F32(&w), n, k);
                weight.forward(Rows::dense(&x, m, k), None, RowsMut::dense(&mut y, m, n));
            }
            None => {
                let (a, b) = (Matrix::dense(&x, m, k), Matrix::dense(&w, k, n));
                matmul(1.0, a, b, 0.0, MatrixMut::dense(&mut y, m, n), true);
            }
        }
        assert!(y.iter().all(|y| y.to_bits() == 0), "{tier:?} with {m} rows");
    };
    for tier in tiers().into_iter().map(Some).chain([None]) {
        std::thread::spawn(move || check(tier, 3)).join().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| check(tier, 3000));
    }
}

/// A sum so long that not even one column of it fits the cache that tasks are cut for.
#[test]
fn a_sum_of_any_length_is_a_product() {
    const LONG: usize = (1 << 20) + 1;
    for tier in tiers() {
        let ones = vec![1.0_f32; LONG];
        let weight = Weight::with_tier(tier, Compute::F32, Source::F32(&ones), 1, LONG);
        let mut y = [0.0_f32; 2];
        let x = vec![1.0_f32; 2 * LONG];
        weight.forward(Rows::dense(&x, 2, LONG), None, RowsMut::dense(&mut y, 2, 1));
        assert_eq!(y, [LONG as f32; 2], "{tier}");
        let weight = Weight::with_tier(tier, Compute::Bf16, Source::F32(&ones), LONG, 1);
        let mut dx = [bf16::ZERO];
        let dy = vec![bf16::ONE; LONG];
        weight.backward(Rows::dense(&dy, 1, LONG), RowsMut::dense(&mut dx, 1, 1), false);
        assert_eq!(dx[0], bf16::from_f32(LONG as f32), "{tier}");
    }
}
