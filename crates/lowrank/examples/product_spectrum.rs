//! How long the spectrum of an adapter's product takes, from its factors.
//!
//!     cargo run --release -p lowrank --example product_spectrum

use std::time::Instant;

use lowrank::analysis::{Matrix, Tolerance, product_spectrum};
use lowrank_kernels::random::Philox;

/// The sides of the weight, and the rank of the pair.
const SIDE: usize = 4096;
const R: usize = 16;
const RUNS: usize = 9;

fn main() -> lowrank::Result<()> {
    let mut generator = Philox::new(0, 0);
    let mut random = || (0..SIDE * R).map(|_| generator.normal_f32()).collect::<Vec<f32>>();
    let (b, a) = (random(), random());
    let mut milliseconds = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let spectrum =
            product_spectrum(Matrix::from_f32("B", &b, SIDE, R)?, Matrix::from_f32("A", &a, R, SIDE)?)?;
        milliseconds.push(1000.0 * start.elapsed().as_secs_f64());
        assert_eq!(spectrum.rank(Tolerance::Usual), R);
    }
    milliseconds.sort_by(f64::total_cmp);
    println!("{SIDE} x {SIDE}, r = {R}: {:.1} ms (median of {RUNS})", milliseconds[RUNS / 2]);
    Ok(())
}
