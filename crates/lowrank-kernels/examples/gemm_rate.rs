//! GFLOP/s of the frozen products, for each tier that this machine has, in whole numbers, and of the `gemm` crate:
//! `cargo run --release -p lowrank-kernels --example gemm_rate [-- ROWSxOUTPUTSxINPUTS ...]`.
//!
//! The variants of a shape are timed in turn, over and over, so that a busy neighbour slows all of them alike;
//! what is printed is the median, and the best in brackets.

use std::time::{Duration, Instant};

use half::bf16;
use lowrank_kernels::gemm::{Int8Weight, Matrix, MatrixMut, Weight, matmul};
use lowrank_kernels::{Element, Rows, RowsMut, Source, Tier};

const SHAPES: [&str; 6] =
    ["32x384x384", "416x384x384", "416x1536x384", "416x384x1536", "2048x768x768", "2048x3072x768"];

/// How long one variant of one shape is measured.
const BUDGET: Duration = Duration::from_millis(700);

type Variant<'a> = (String, Box<dyn FnMut() + Send + 'a>);

fn frozen<'a, T: Element>(tier: Tier, w: &'a [f32], m: usize, n: usize, k: usize) -> [Variant<'a>; 2] {
    let weight = || Weight::with_tier(tier, T::COMPUTE, Source::F32(w), n, k);
    let (ahead, back) = (weight(), weight());
    both::<T>(
        &tier.to_string(),
        [m, n, k],
        move |x, y| ahead.forward(x, None, y),
        move |dy, dx| back.backward(dy, dx, false),
    )
}

/// In whole numbers; with a transpose that is kept, or made for each product.
fn whole<'a, T: Element>(keeps: bool, w: &'a [f32], m: usize, n: usize, k: usize) -> [Variant<'a>; 2] {
    let weight = || {
        Int8Weight::quantize(T::COMPUTE, Source::F32(w), n, k)
            .expect("finite values")
            .keeping_transpose(keeps)
    };
    let (ahead, back) = (weight(), weight());
    both::<T>(
        if keeps { "int8" } else { "int8 turned" },
        [m, n, k],
        move |x, y| ahead.forward(x, None, y),
        move |dy, dx| back.backward(dy, dx, false),
    )
}

/// A weight's two products on rows of `T`.
fn both<'a, T: Element>(
    name: &str,
    [m, n, k]: [usize; 3],
    forward: impl Fn(Rows<T>, RowsMut<T>) + Send + 'a,
    backward: impl Fn(Rows<T>, RowsMut<T>) + Send + 'a,
) -> [Variant<'a>; 2] {
    let (x, dy) = (vec![T::round(0.5); m * k], vec![T::round(0.5); m * n]);
    let (mut y, mut dx) = (dy.clone(), x.clone());
    let name = |direction| format!("{name} {} {direction}", format!("{:?}", T::COMPUTE).to_lowercase());
    let forward = move || forward(Rows::dense(&x, m, k), RowsMut::dense(&mut y, m, n));
    let backward = move || backward(Rows::dense(&dy, m, n), RowsMut::dense(&mut dx, m, k));
    [(name("forward"), Box::new(forward)), (name("backward"), Box::new(backward))]
}

fn library<'a>(w: &'a [f32], m: usize, n: usize, k: usize) -> [Variant<'a>; 2] {
    let (x, dy) = (vec![0.5; m * k], vec![0.5; m * n]);
    let (mut y, mut dx) = (dy.clone(), x.clone());
    let weight = Matrix::dense(w, n, k);
    let forward = move || {
        let y = MatrixMut::dense(&mut y, m, n);
        matmul(1.0, Matrix::dense(&x, m, k), weight.transposed(), 0.0, y, true);
    };
    let backward = move || {
        let dx = MatrixMut::dense(&mut dx, m, k);
        matmul(1.0, Matrix::dense(&dy, m, n), weight, 0.0, dx, true);
    };
    [("crate f32 forward".into(), Box::new(forward)), ("crate f32 backward".into(), Box::new(backward))]
}

fn measure(shape: &str, threads: usize) {
    let sizes: Vec<usize> = shape.split('x').filter_map(|size| size.parse().ok()).collect();
    let [m, n, k] = sizes[..] else {
        eprintln!("{shape} is not ROWSxOUTPUTSxINPUTS");
        std::process::exit(2);
    };
    let w: Vec<f32> = (0..n * k).map(|i| (i % 97) as f32 / 97.0).collect();
    let mut variants = Vec::from(library(&w, m, n, k));
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        variants.extend(frozen::<f32>(tier, &w, m, n, k));
        variants.extend(frozen::<bf16>(tier, &w, m, n, k));
    }
    variants.extend(whole::<f32>(true, &w, m, n, k));
    variants.extend(whole::<bf16>(true, &w, m, n, k));
    // The other direction is the same.
    variants.extend(whole::<f32>(false, &w, m, n, k).into_iter().skip(1));
    let mut seconds = vec![Vec::new(); variants.len()];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    pool.install(|| {
        let start = Instant::now();
        while start.elapsed() < BUDGET * variants.len() as u32 || seconds[0].len() < 5 {
            for ((_, run), seconds) in variants.iter_mut().zip(&mut seconds) {
                run();
                let start = Instant::now();
                run();
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    });
    let flops = 2.0 * m as f64 * n as f64 * k as f64;
    for ((name, _), seconds) in variants.iter().zip(&mut seconds) {
        seconds.sort_by(f64::total_cmp);
        let rate = |seconds: f64| flops / seconds / 1e9;
        let (median, best) = (rate(seconds[seconds.len() / 2]), rate(seconds[0]));
        println!("{shape:>14} {threads} threads {name:<24} {median:7.1} GFLOP/s ({best:.1})");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for threads in [1, 2] {
        if arguments.is_empty() {
            SHAPES.iter().for_each(|shape| measure(shape, threads));
        }
        arguments.iter().for_each(|shape| measure(shape, threads));
    }
}
