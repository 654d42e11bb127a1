//! What each row kernel costs on this machine: `cargo run --release --example row_rates -- [threads] [name]`.
//!
//! The best of several repetitions, in nanoseconds per element of the rows and in gigabytes per second of the rows
//! and tables that it must read and write.

use std::time::Instant;

use half::bf16;
use lowrank_kernels::attention::{
    self, Attention, AttentionDropout, AttentionGradients, AttentionMask, AttentionShape,
};
use lowrank_kernels::embedding::{Lookup, gather_sum, scatter_add};
use lowrank_kernels::optimizer::{AdamW, adamw_step, squared_norm};
use lowrank_kernels::random::Philox;
use lowrank_kernels::{
    Activation, Dropout, DropoutKey, Element, RowId, Rows, RowsMut, Source, activation, dropout, elementwise,
    gated, loss, low_rank, norm, parallel, rms_norm, rotary, row_ops,
};

/// So few that a repetition fits between two interruptions by a busy machine's other work.
const ROWS: usize = 256;
const WIDTH: usize = 768;
const INNER: usize = 3072;
const KEY: DropoutKey = DropoutKey { seed: 1, step: 1, site: 1 };

struct Meter {
    filter: String,
    kind: &'static str,
}

impl Meter {
    fn time(&self, name: &str, elements: usize, bytes: usize, mut work: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        let (mut best, start) = (f64::INFINITY, Instant::now());
        while start.elapsed().as_secs_f64() < 0.25 {
            let start = Instant::now();
            work();
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!(
            "{:4} {name:28} {:9.1} us {:7.3} ns/element {:7.2} GB/s",
            self.kind,
            best * 1e6,
            best * 1e9 / elements as f64,
            bytes as f64 / best / 1e9
        );
    }
}

fn elements<T: Element>(seed: u64, n: usize) -> Vec<T> {
    let mut generator = Philox::new(seed, 0);
    (0..n).map(|_| T::round(generator.uniform_f32() - 0.5)).collect()
}

fn rows<T>(data: &[T], cols: usize) -> Rows<'_, T> {
    Rows::dense(data, data.len() / cols, cols)
}

fn rows_mut<T>(data: &mut [T], cols: usize) -> RowsMut<'_, T> {
    let rows = data.len() / cols;
    RowsMut::dense(data, rows, cols)
}

fn normalise<T: Element>(meter: &Meter, ids: &[RowId]) {
    let (n, e) = (ROWS * WIDTH, size_of::<T>());
    let drop = Dropout { probability: 0.1, key: KEY, rows: ids };
    let (x, r) = (elements::<T>(1, n), elements::<T>(2, n));
    let (mut s, mut y, mut z) = (x.clone(), x.clone(), x.clone());
    let (gamma, beta) = (elements::<f32>(3, WIDTH), elements::<f32>(4, WIDTH));
    let (mut mean, mut rstd) = (vec![0.0; ROWS], vec![0.0; ROWS]);
    let (mut dgamma, mut dbeta) = (vec![0.0; WIDTH], vec![0.0; WIDTH]);
    meter.time("dropout", n, 2 * n * e, || dropout::apply(rows(&x, WIDTH), &drop, rows_mut(&mut y, WIDTH)));
    for (name, drop) in [("norm forward", None), ("norm forward, dropout", Some(&drop))] {
        meter.time(name, n, 4 * n * e, || {
            norm::layer_norm_forward(
                rows(&x, WIDTH),
                Some(rows(&r, WIDTH)),
                drop,
                &gamma,
                &beta,
                1e-5,
                Some(rows_mut(&mut s, WIDTH)),
                rows_mut(&mut y, WIDTH),
                &mut mean,
                &mut rstd,
            );
        });
    }
    for (name, drop) in [("norm backward", None), ("norm backward, dropout", Some(&drop))] {
        for (suffix, parameters) in [("", false), (", parameters", true)] {
            meter.time(&format!("{name}{suffix}"), n, (3 + usize::from(drop.is_some())) * n * e, || {
                norm::layer_norm_backward(
                    rows(&r, WIDTH),
                    rows(&s, WIDTH),
                    &gamma,
                    &mean,
                    &rstd,
                    rows_mut(&mut y, WIDTH),
                    drop.map(|drop| (rows_mut(&mut z, WIDTH), drop)),
                    parameters.then_some((&mut dgamma[..], &mut dbeta[..])),
                );
            });
        }
    }
}

fn activate<T: Element>(meter: &Meter) {
    let (n, e) = (ROWS * INNER, size_of::<T>());
    let (x, dy) = (elements::<T>(1, n), elements::<T>(2, n));
    let mut y = x.clone();
    for function in
        [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu, Activation::Tanh]
    {
        meter.time(&format!("{function:?}"), n, 2 * n * e, || activation::forward(function, &x, &mut y));
        meter.time(&format!("{function:?} backward"), n, 3 * n * e, || {
            activation::backward(function, &x, &dy, &mut y);
        });
    }
}

/// What decoders have beside the others: 12 heads of queries, 4 of keys.
fn decode<T: Element>(meter: &Meter, ids: &[RowId]) {
    let (n, e) = (ROWS * WIDTH, size_of::<T>());
    let (x, dy, weight) = (elements::<T>(1, n), elements::<T>(2, n), elements::<f32>(3, WIDTH));
    let (mut y, mut grad) = (x.clone(), vec![0.0; WIDTH]);
    meter.time("rms norm", n, 2 * n * e, || {
        rms_norm::rms_norm_forward(rows(&x, WIDTH), &weight, 1e-5, rows_mut(&mut y, WIDTH));
    });
    for (name, trained) in [("rms norm backward", false), ("rms norm backward, weight", true)] {
        meter.time(name, n, 3 * n * e, || {
            let (dy, x, y) = (rows(&dy, WIDTH), rows(&x, WIDTH), rows_mut(&mut y, WIDTH));
            rms_norm::rms_norm_backward(dy, x, &weight, 1e-5, y, trained.then_some(&mut grad[..]));
        });
    }
    let drop = Dropout { probability: 0.1, key: KEY, rows: ids };
    for (name, drop) in [("residual sum", None), ("residual sum, dropout", Some(&drop))] {
        meter.time(name, n, 3 * n * e, || {
            row_ops::add_rows(rows(&x, WIDTH), drop, rows(&dy, WIDTH), rows_mut(&mut y, WIDTH));
        });
    }
    let shape = rotary::RotaryShape { heads: 12, kv_heads: 4, head_dim: 64 };
    let (width, n) = (shape.width(), ROWS * shape.width());
    let frequencies: Vec<f32> = (0..32).map(|i| 0.75_f32.powi(i)).collect();
    let positions: Vec<u32> = ids.iter().map(|id| id.token).collect();
    let rotations = rotary::Rotations::new(&positions, &frequencies, 1.0);
    meter.time("rotations", ROWS * 32, ROWS * 4, || {
        std::hint::black_box(rotary::Rotations::new(&positions, &frequencies, 1.0));
    });
    let x = elements::<T>(4, n);
    let mut y = x.clone();
    let norms = rotary::HeadNorms { query: &weight[..64], key: &weight[64..128], eps: 1e-6 };
    for (name, norms) in [("rotary", None), ("rotary, norms", Some(norms))] {
        meter.time(name, n, 2 * n * e, || {
            rotary::forward(rows(&x, width), &rotations, shape, norms, rows_mut(&mut y, width));
        });
        meter.time(&format!("{name} backward"), n, 2 * n * e, || {
            let norms = norms.map(|norms| (norms, rows(&x, width)));
            rotary::backward(norms, &rotations, shape, rows_mut(&mut y, width), None);
        });
    }
    let n = ROWS * INNER;
    let (x, mut y) = (elements::<T>(5, 2 * n), elements::<T>(6, n));
    let mut dx = x.clone();
    for function in [Activation::Silu, Activation::GeluTanh] {
        meter.time(&format!("gated {function:?}"), n, 3 * n * e, || {
            gated::forward(function, rows(&x, 2 * INNER), rows_mut(&mut y, INNER));
        });
        meter.time(&format!("gated {function:?} backward"), n, 5 * n * e, || {
            let (x, dx) = (rows(&x, 2 * INNER), rows_mut(&mut dx, 2 * INNER));
            gated::backward(function, x, rows(&y, INNER), dx);
        });
    }
}

fn attend<T: Element>(meter: &Meter) {
    for (heads, head_dim, len) in [(4, 64, 128), (1, 64, 512), (4, 32, 13), (4, 64, 13), (4, 32, 40)] {
        let sequences = (ROWS / len).max(1);
        let (tokens, width) = (sequences * len, heads * head_dim);
        let offsets: Vec<usize> = (0..=sequences).map(|i| i * len).collect();
        let examples: Vec<u32> = (0..sequences as u32).collect();
        let shape = AttentionShape { heads, kv_heads: heads, head_dim, scale: 0.125 };
        let drop = AttentionDropout { probability: 0.1, key: KEY, examples: &examples };
        let (qkv, dout) = (elements::<T>(1, tokens * 3 * width), elements::<T>(2, tokens * width));
        let (mut out, mut dqkv) = (dout.clone(), qkv.clone());
        let mut logsumexp = vec![0.0; tokens * heads];
        let (n, e) = (tokens * width, size_of::<T>());
        let plain = Attention::within(rows(&qkv, 3 * width), &offsets, shape);
        let mut cases = vec![("", plain), (" dropout", Attention { dropout: Some(drop), ..plain })];
        if len > 16 {
            cases.push((" causal", Attention { mask: AttentionMask::Causal, ..plain }));
            cases.push((" window", Attention { mask: AttentionMask::Window(32), ..plain }));
        }
        for (name, operands) in cases {
            let name = format!("{len}x{head_dim}{name}");
            meter.time(&format!("attention {name}"), n, 4 * n * e, || {
                attention::forward(&operands, rows_mut(&mut out, width), &mut logsumexp);
            });
            meter.time(&format!("attention back {name}"), n, 8 * n * e, || {
                let [q, k, v] = rows_mut(&mut dqkv, 3 * width).split_columns([width; 3]);
                let gradients = AttentionGradients { q, k, v, bias: None };
                attention::backward(&operands, &logsumexp, rows(&dout, width), gradients);
            });
        }
    }
}

fn adapt<T: Element>(meter: &Meter, ids: &[RowId]) {
    let (n, e) = (ROWS * WIDTH, size_of::<T>());
    let drop = Dropout { probability: 0.1, key: KEY, rows: ids };
    let x = elements::<T>(1, n);
    let mut y = elements::<T>(2, n);
    for r in [8, 16, 64] {
        let a = elements::<f32>(3, r * WIDTH);
        let mut u = elements::<f32>(4, ROWS * r);
        let mut grad = a.clone();
        for (name, drop) in [("", None), (" dropout", Some(&drop))] {
            let name = format!("r{r}{name}");
            meter.time(&format!("down {name}"), n, n * e, || {
                low_rank::down(rows(&x, WIDTH), &a, drop, rows_mut(&mut u, r));
            });
            meter.time(&format!("outer {name}"), n, n * e, || {
                low_rank::outer(rows(&u, r), rows(&x, WIDTH), drop, 1e-9, &mut grad);
            });
            meter.time(&format!("down backward {name}"), n, 2 * n * e, || {
                low_rank::down_backward(rows(&u, r), &a, drop, rows_mut(&mut y, WIDTH));
            });
        }
        meter.time(&format!("up r{r}"), n, 2 * n * e, || {
            low_rank::up(rows(&u, r), &a, 1e-9, rows_mut(&mut y, WIDTH));
        });
        meter.time(&format!("up backward r{r}"), n, n * e, || {
            low_rank::up_backward(rows(&x, WIDTH), &a, 1.0, rows_mut(&mut u, r));
        });
        meter.time(&format!("outer transposed r{r}"), n, n * e, || {
            low_rank::outer_transposed(rows(&x, WIDTH), rows(&u, r), 1e-9, &mut grad);
        });
    }
}

fn others<T: Element>(meter: &Meter) {
    let (n, e) = (ROWS * WIDTH, size_of::<T>());
    let (x, z) = (elements::<T>(1, n), elements::<T>(2, n));
    let mut y = x.clone();
    let wide = elements::<f32>(3, n);
    let mut grad = vec![0.0; WIDTH];
    meter.time("add", n, 3 * n * e, || elementwise::add_assign(&mut y, &z));
    meter.time("convert from f32", n, n * (4 + e), || elementwise::convert(&wide, &mut y));
    meter.time("is finite", n, n * e, || assert!(elementwise::is_finite(&x)));
    meter.time("column sums", n, n * e, || row_ops::column_sums(rows(&x, WIDTH), &mut grad));
    let table = elements::<bf16>(4, 5_000 * WIDTH);
    let mut generator = Philox::new(9, 9);
    let ids: Vec<u32> = (0..ROWS).map(|_| generator.below(5_000) as u32).collect();
    let lookups = [Lookup { table: Source::Bf16(&table), ids: &ids }; 3];
    meter.time("gather sum of 3", n, n * (6 + e), || gather_sum(&lookups, rows_mut(&mut y, WIDTH)));
    let mut grad = vec![0.0; table.len()];
    meter.time("scatter add", n, n * (8 + e), || scatter_add(&ids, rows(&x, WIDTH), &mut grad));
    for classes in [2, 3_000, 151_936] {
        let count = (n / classes).clamp(1, 32);
        let labels: Vec<i64> = (0..count).map(|i| (i % classes) as i64).collect();
        let (mut maxima, mut sums) = (vec![0.0; count], vec![0.0; count]);
        let mut logits = elements::<T>(5, count * classes);
        meter.time(&format!("cross entropy {classes}"), count * classes, count * classes * e, || {
            loss::cross_entropy(rows(&logits, classes), &labels, 1.0, &mut maxima, &mut sums);
        });
        meter.time(
            &format!("cross entropy back {classes}"),
            count * classes,
            2 * count * classes * e,
            || {
                loss::cross_entropy_backward(rows_mut(&mut logits, classes), &labels, 1.0, &maxima, &sums);
            },
        );
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let filter = arguments.next().unwrap_or_default();
    if let Err(error) = parallel::init_threads(threads) {
        eprintln!("{error}");
    }
    println!("{} threads, tier {}", parallel::threads(), lowrank_kernels::Tier::active());
    let ids: Vec<RowId> = (0..ROWS as u32).map(|i| RowId { example: i / 128, token: i % 128 }).collect();
    rayon::scope(|_| {
        for kind in ["bf16", "f32"] {
            let meter = Meter { filter: filter.clone(), kind };
            let bf16_rows = kind == "bf16";
            if bf16_rows {
                normalise::<bf16>(&meter, &ids)
            } else {
                normalise::<f32>(&meter, &ids)
            }
            if bf16_rows {
                activate::<bf16>(&meter)
            } else {
                activate::<f32>(&meter)
            }
            if bf16_rows {
                decode::<bf16>(&meter, &ids)
            } else {
                decode::<f32>(&meter, &ids)
            }
            if bf16_rows {
                attend::<bf16>(&meter)
            } else {
                attend::<f32>(&meter)
            }
            if bf16_rows {
                adapt::<bf16>(&meter, &ids)
            } else {
                adapt::<f32>(&meter, &ids)
            }
            if bf16_rows { others::<bf16>(&meter) } else { others::<f32>(&meter) }
        }
        let meter = Meter { filter, kind: "f32" };
        let n = ROWS * WIDTH;
        let gradient = elements::<f32>(1, n);
        let (mut p, mut m, mut v) = (gradient.clone(), vec![0.1; n], vec![0.1; n]);
        let settings = AdamW {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            step: 3,
            gradient_scale: 1.0,
        };
        meter.time("adamw", n, 28 * n, || adamw_step(&mut p, &gradient, &mut m, &mut v, settings));
        meter.time("squared norm", n, 4 * n, || assert!(squared_norm(&gradient) > 0.0));
    });
}
