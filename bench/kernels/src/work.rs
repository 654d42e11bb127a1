//! What is measured: a kernel on made-up numbers, and what it costs by the count.

use half::bf16;
use lowrank_kernels::attention::{self, Attention, AttentionGradients, AttentionShape};
use lowrank_kernels::dropout;
use lowrank_kernels::gemm::{
    Int8, Int8Weight, Matrix, MatrixMut, Stored, Streamed, Weight, matmul, quantize, weight_gradient,
};
use lowrank_kernels::loss::{cross_entropy, cross_entropy_backward};
use lowrank_kernels::low_rank::{down, down_backward, outer, outer_transposed, up, up_backward};
use lowrank_kernels::norm::{layer_norm_backward, layer_norm_forward};
use lowrank_kernels::optimizer::{AdamW, adamw_step};
use lowrank_kernels::random::Philox;
use lowrank_kernels::rms_norm::{rms_norm_backward, rms_norm_forward};
use lowrank_kernels::rotary::{self, RotaryShape, Rotations};
use lowrank_kernels::{
    Activation, Compute, Dropout, DropoutKey, Element, RowId, Rows, RowsMut, Source, activation, gated,
    mixture,
};

use crate::ceiling::Operands;

/// Rows of a step: 16 sequences of 128 tokens.
const ROWS: usize = 2048;
const SEQUENCES: usize = 16;
const WIDTH: usize = 768;
const INNER: usize = 3072;
const HEADS: usize = 12;
const RANK: usize = 8;
const VOCABULARY: usize = 50_265;

/// What a kernel must do, by the count.
#[derive(Clone, Copy)]
pub enum Cost {
    /// Multiplications and additions of such operands.
    Operations(f64, Operands),
    /// Bytes that are read and written.
    Bytes(f64),
}

/// A kernel with its arguments.
pub struct Work {
    /// `kernel/sizes`.
    pub name: String,
    pub cost: Cost,
    pub run: Box<dyn FnMut()>,
}

impl Work {
    fn new(name: impl Into<String>, cost: Cost, run: impl FnMut() + 'static) -> Self {
        Self { name: name.into(), cost, run: Box::new(run) }
    }
}

/// All kernels in a type of rows.
pub fn all(compute: Compute) -> Vec<Work> {
    match compute {
        Compute::F32 => of::<f32>(),
        Compute::Bf16 => of::<bf16>(),
    }
}

fn of<T: Element>() -> Vec<Work> {
    let mut work = Vec::new();
    for [outputs, inputs] in [[WIDTH, WIDTH], [INNER, WIDTH], [WIDTH, INNER]] {
        for rows in [32, ROWS] {
            work.extend(products::<T>(rows, outputs, inputs));
            work.extend(integer_products::<T>(rows, outputs, inputs));
        }
    }
    work.extend(streamed::<T>(ROWS, WIDTH, WIDTH));
    if T::COMPUTE == Compute::F32 {
        work.extend(general());
    }
    work.extend(attention_of::<T>());
    work.extend(norms::<T>());
    work.extend(elementwise::<T>());
    work.extend(adapters::<T>());
    work.extend(losses::<T>());
    work
}

fn numbers(count: usize) -> Vec<f32> {
    let mut random = Philox::new(count as u64, 1);
    (0..count).map(|_| random.normal_f32()).collect()
}

fn elements<T: Element>(count: usize) -> Vec<T> {
    numbers(count).into_iter().map(T::round).collect()
}

/// The bytes of so many elements of rows.
fn of_rows<T>(elements: usize) -> Cost {
    Cost::Bytes((elements * size_of::<T>()) as f64)
}

fn operations(product: [usize; 3]) -> f64 {
    2.0 * product.map(|size| size as f64).iter().product::<f64>()
}

fn flops(product: [usize; 3]) -> Cost {
    Cost::Operations(operations(product), Operands::Floats)
}

/// Products by a frozen weight, packed.
fn products<T: Element>(rows: usize, outputs: usize, inputs: usize) -> [Work; 2] {
    let weight = || Weight::new(T::COMPUTE, Source::F32(&numbers(outputs * inputs)), outputs, inputs);
    let (bias, ahead, back) = (numbers(outputs), weight(), weight());
    in_both_directions::<T>(
        "frozen",
        [rows, outputs, inputs],
        Operands::Floats,
        move |x, y| ahead.forward(x, Some(&bias), y),
        move |dy, dx| back.backward(dy, dx, false),
    )
}

/// Products by a frozen weight of 8 bits in whole numbers.
fn integer_products<T: Element>(rows: usize, outputs: usize, inputs: usize) -> [Work; 2] {
    let source = numbers(outputs * inputs);
    let weight = || {
        let weight = Int8Weight::quantize(T::COMPUTE, Source::F32(&source), outputs, inputs);
        weight.expect("finite numbers").keeping_transpose(true)
    };
    let (bias, ahead, back) = (numbers(outputs), weight(), weight());
    in_both_directions::<T>(
        "int8",
        [rows, outputs, inputs],
        Operands::Integers,
        move |x, y| ahead.forward(x, Some(&bias), y),
        move |dy, dx| back.backward(dy, dx, false),
    )
}

/// A weight's two products on rows of `T`.
fn in_both_directions<T: Element>(
    name: &str,
    [rows, outputs, inputs]: [usize; 3],
    operands: Operands,
    forward: impl Fn(Rows<T>, RowsMut<T>) + 'static,
    backward: impl Fn(Rows<T>, RowsMut<T>) + 'static,
) -> [Work; 2] {
    let cost = Cost::Operations(operations([rows, outputs, inputs]), operands);
    let sizes = format!("{rows}x{inputs}x{outputs}");
    let (x, mut y) = (elements::<T>(rows * inputs), elements::<T>(rows * outputs));
    let (dy, mut dx) = (elements::<T>(rows * outputs), elements::<T>(rows * inputs));
    [
        Work::new(format!("{name}/{sizes}"), cost, move || {
            forward(Rows::dense(&x, rows, inputs), RowsMut::dense(&mut y, rows, outputs));
        }),
        Work::new(format!("{name} backward/{sizes}"), cost, move || {
            backward(Rows::dense(&dy, rows, outputs), RowsMut::dense(&mut dx, rows, inputs));
        }),
    ]
}

/// Products by a frozen weight of which nothing but the stored form is kept.
fn streamed<T: Element>(rows: usize, outputs: usize, inputs: usize) -> [Work; 2] {
    let (weight, cost) = (numbers(outputs * inputs), flops([rows, outputs, inputs]));
    let (mut values, mut scales) = (vec![0; weight.len()], vec![0.0; outputs]);
    quantize(Source::F32(&weight), outputs, inputs, &mut values, &mut scales).expect("finite numbers");
    let (x, mut y) = (elements::<T>(rows * inputs), elements::<T>(rows * outputs));
    let (also_x, mut also_y) = (x.clone(), y.clone());
    [
        Work::new(format!("streamed/{rows}x{inputs}x{outputs}"), cost, move || {
            let stored = Stored::Float(Source::F32(&weight));
            Streamed::new(T::COMPUTE, stored, outputs, inputs).forward(
                Rows::dense(&x, rows, inputs),
                None,
                RowsMut::dense(&mut y, rows, outputs),
            );
        }),
        Work::new(format!("streamed int8/{rows}x{inputs}x{outputs}"), cost, move || {
            let int8 = Int8 { values: &values, scales: &scales, columns: &[], outliers: &[] };
            Streamed::new(T::COMPUTE, Stored::Int8(int8), outputs, inputs).forward(
                Rows::dense(&also_x, rows, inputs),
                None,
                RowsMut::dense(&mut also_y, rows, outputs),
            );
        }),
    ]
}

/// Products between matrices of which none is frozen, in f32.
fn general() -> [Work; 2] {
    let (a, b, mut c) = (numbers(ROWS * WIDTH), numbers(WIDTH * WIDTH), numbers(ROWS * WIDTH));
    let (dy, x, mut gradient) = (numbers(ROWS * WIDTH), numbers(ROWS * WIDTH), numbers(WIDTH * WIDTH));
    let cost = flops([ROWS, WIDTH, WIDTH]);
    [
        Work::new("general/2048x768x768", cost, move || {
            let (a, b) = (Matrix::dense(&a, ROWS, WIDTH), Matrix::dense(&b, WIDTH, WIDTH));
            matmul(1.0, a, b, 0.0, MatrixMut::dense(&mut c, ROWS, WIDTH), true);
        }),
        Work::new("weight gradient/2048x768x768", cost, move || {
            let (dy, x) = (Rows::dense(&dy, ROWS, WIDTH), Rows::dense(&x, ROWS, WIDTH));
            weight_gradient(dy, x, &mut gradient);
        }),
    ]
}

fn attention_of<T: Element>() -> [Work; 2] {
    let head_dim = WIDTH / HEADS;
    let shape =
        AttentionShape { heads: HEADS, kv_heads: HEADS, head_dim, scale: (head_dim as f32).powf(-0.5) };
    let tokens = ROWS / SEQUENCES;
    let offsets: Vec<usize> = (0..=SEQUENCES).map(|sequence| sequence * tokens).collect();
    let qkv = elements::<T>(ROWS * 3 * WIDTH);
    let products = |count: usize| flops([count * SEQUENCES * HEADS, tokens * tokens, head_dim]);
    let mut logsumexp = vec![0.0; ROWS * HEADS];
    {
        let mut out = elements::<T>(ROWS * WIDTH);
        let attention = Attention::within(Rows::dense(&qkv, ROWS, 3 * WIDTH), &offsets, shape);
        attention::forward(&attention, RowsMut::dense(&mut out, ROWS, WIDTH), &mut logsumexp);
    }
    let (forward_qkv, forward_offsets) = (qkv.clone(), offsets.clone());
    let (mut out, mut saved) = (elements::<T>(ROWS * WIDTH), logsumexp.clone());
    let (dout, mut dqkv) = (elements::<T>(ROWS * WIDTH), elements::<T>(ROWS * 3 * WIDTH));
    [
        Work::new("attention/16x128x12x64", products(2), move || {
            let rows = Rows::dense(&forward_qkv, ROWS, 3 * WIDTH);
            let attention = Attention::within(rows, &forward_offsets, shape);
            attention::forward(&attention, RowsMut::dense(&mut out, ROWS, WIDTH), &mut saved);
        }),
        Work::new("attention backward/16x128x12x64", products(5), move || {
            let attention = Attention::within(Rows::dense(&qkv, ROWS, 3 * WIDTH), &offsets, shape);
            let gradients = RowsMut::dense(&mut dqkv, ROWS, 3 * WIDTH);
            let [q, k, v] = gradients.split_columns([WIDTH, WIDTH, WIDTH]);
            let gradients = AttentionGradients { q, k, v, bias: None };
            attention::backward(&attention, &logsumexp, Rows::dense(&dout, ROWS, WIDTH), gradients);
        }),
    ]
}

fn norms<T: Element>() -> Vec<Work> {
    let size = ROWS * WIDTH;
    let weights = numbers(WIDTH);
    let (x, residual, mut sum, mut y) =
        (elements::<T>(size), elements::<T>(size), elements::<T>(size), elements::<T>(size));
    let (mut mean, mut rstd) = (vec![0.0; ROWS], vec![1.0; ROWS]);
    let (gamma, beta) = (weights.clone(), weights.clone());
    let forward = Work::new("layer norm/2048x768", of_rows::<T>(4 * size), move || {
        let rows = |x| Rows::dense(x, ROWS, WIDTH);
        let (sum, y) = (RowsMut::dense(&mut sum, ROWS, WIDTH), RowsMut::dense(&mut y, ROWS, WIDTH));
        let residual = Some(rows(&residual[..]));
        layer_norm_forward(
            rows(&x[..]),
            residual,
            None,
            &gamma,
            &beta,
            1e-5,
            Some(sum),
            y,
            &mut mean,
            &mut rstd,
        );
    });
    let (dy, sum, mut dx, gamma) =
        (elements::<T>(size), elements::<T>(size), elements::<T>(size), weights.clone());
    let (mean, rstd) = (vec![0.0; ROWS], vec![1.0; ROWS]);
    let backward = Work::new("layer norm backward/2048x768", of_rows::<T>(3 * size), move || {
        let (dy, sum) = (Rows::dense(&dy, ROWS, WIDTH), Rows::dense(&sum, ROWS, WIDTH));
        layer_norm_backward(dy, sum, &gamma, &mean, &rstd, RowsMut::dense(&mut dx, ROWS, WIDTH), None, None);
    });
    let (x, mut y, gamma) = (elements::<T>(size), elements::<T>(size), weights.clone());
    let rms = Work::new("rms norm/2048x768", of_rows::<T>(2 * size), move || {
        rms_norm_forward(Rows::dense(&x, ROWS, WIDTH), &gamma, 1e-5, RowsMut::dense(&mut y, ROWS, WIDTH));
    });
    let (x, dy, mut dx) = (elements::<T>(size), elements::<T>(size), elements::<T>(size));
    let rms_backward = Work::new("rms norm backward/2048x768", of_rows::<T>(3 * size), move || {
        let (dy, x) = (Rows::dense(&dy, ROWS, WIDTH), Rows::dense(&x, ROWS, WIDTH));
        rms_norm_backward(dy, x, &weights, 1e-5, RowsMut::dense(&mut dx, ROWS, WIDTH), None);
    });
    vec![forward, backward, rms, rms_backward]
}

fn elementwise<T: Element>() -> Vec<Work> {
    let size = ROWS * INNER;
    let (x, dy, mut y, mut dx) =
        (elements::<T>(size), elements::<T>(size), elements::<T>(size), elements::<T>(size));
    let also_x = x.clone();
    let gelu = Work::new("gelu/2048x3072", of_rows::<T>(2 * size), move || {
        activation::forward(Activation::Gelu, &also_x, &mut y);
    });
    let gelu_backward = Work::new("gelu backward/2048x3072", of_rows::<T>(3 * size), move || {
        activation::backward(Activation::Gelu, &x, &dy, &mut dx);
    });
    let (both, mut y) = (elements::<T>(2 * size), elements::<T>(size));
    let silu = Work::new("gated silu/2048x3072", of_rows::<T>(3 * size), move || {
        gated::forward(
            Activation::Silu,
            Rows::dense(&both, ROWS, 2 * INNER),
            RowsMut::dense(&mut y, ROWS, INNER),
        );
    });
    let size = ROWS * WIDTH;
    let (x, mut y) = (elements::<T>(size), elements::<T>(size));
    let ids: Vec<RowId> =
        (0..ROWS as u32).map(|row| RowId { example: row / 128, token: row % 128 }).collect();
    let dropped = Work::new("dropout/2048x768", of_rows::<T>(2 * size), move || {
        let key = DropoutKey { seed: 1, step: 2, site: 3 };
        let dropout = Dropout { probability: 0.1, key, rows: &ids };
        dropout::apply(Rows::dense(&x, ROWS, WIDTH), &dropout, RowsMut::dense(&mut y, ROWS, WIDTH));
    });
    let shape = RotaryShape { heads: HEADS, kv_heads: HEADS, head_dim: WIDTH / HEADS };
    let positions: Vec<u32> = (0..ROWS as u32).map(|row| row % 128).collect();
    let frequencies: Vec<f32> = (0..32).map(|i| 0.8_f32.powi(i)).collect();
    let rotations = Rotations::new(&positions, &frequencies, 1.0);
    let (x, mut y) = (elements::<T>(3 * size), elements::<T>(3 * size));
    let turned = Work::new("rotary/2048x2304", of_rows::<T>(6 * size), move || {
        let (x, y) = (Rows::dense(&x, ROWS, 3 * WIDTH), RowsMut::dense(&mut y, ROWS, 3 * WIDTH));
        rotary::forward(x, &rotations, shape, None, y);
    });
    let (x, mut y) = (elements::<T>(2 * size), elements::<T>(size));
    let (places, weights) =
        ((0..2 * ROWS).map(|at| at * 17 % (2 * ROWS)).collect::<Vec<_>>(), numbers(2 * ROWS));
    let collected = Work::new("sum over experts/2048x2x768", of_rows::<T>(3 * size), move || {
        let (x, y) = (Rows::dense(&x, 2 * ROWS, WIDTH), RowsMut::dense(&mut y, ROWS, WIDTH));
        mixture::weigh(x, &places, &weights, y);
    });
    vec![gelu, gelu_backward, silu, dropped, turned, collected]
}

/// An adapter's products, and the optimiser over as many values as the adapters of RoBERTa-base have.
fn adapters<T: Element>() -> Vec<Work> {
    let size = ROWS * WIDTH;
    let factor = numbers(RANK * WIDTH);
    let read = of_rows::<T>(size);
    let (x, a, mut u) = (elements::<T>(size), factor.clone(), vec![0.0; ROWS * RANK]);
    let first = Work::new("adapter down/2048x768x8", read, move || {
        down(Rows::dense(&x, ROWS, WIDTH), &a, None, RowsMut::dense(&mut u, ROWS, RANK));
    });
    let (u, b, mut y) = (numbers(ROWS * RANK), factor.clone(), elements::<T>(size));
    let second = Work::new("adapter up/2048x8x768", of_rows::<T>(2 * size), move || {
        up(Rows::dense(&u, ROWS, RANK), &b, 1e-6, RowsMut::dense(&mut y, ROWS, WIDTH));
    });
    let (dy, b, mut du) = (elements::<T>(size), factor.clone(), vec![0.0; ROWS * RANK]);
    let up_back = Work::new("adapter up backward/2048x768x8", read, move || {
        up_backward(Rows::dense(&dy, ROWS, WIDTH), &b, 1.0, RowsMut::dense(&mut du, ROWS, RANK));
    });
    let (du, a, mut dx) = (numbers(ROWS * RANK), factor.clone(), elements::<T>(size));
    let down_back = Work::new("adapter down backward/2048x8x768", of_rows::<T>(2 * size), move || {
        down_backward(Rows::dense(&du, ROWS, RANK), &a, None, RowsMut::dense(&mut dx, ROWS, WIDTH));
    });
    let (du, x, mut gradient) = (numbers(ROWS * RANK), elements::<T>(size), factor.clone());
    let of_a = Work::new("adapter gradient of A/8x2048x768", read, move || {
        outer(Rows::dense(&du, ROWS, RANK), Rows::dense(&x, ROWS, WIDTH), None, 1e-6, &mut gradient);
    });
    let (dy, u, mut gradient) = (elements::<T>(size), numbers(ROWS * RANK), factor);
    let of_b = Work::new("adapter gradient of B/768x2048x8", read, move || {
        outer_transposed(Rows::dense(&dy, ROWS, WIDTH), Rows::dense(&u, ROWS, RANK), 1e-6, &mut gradient);
    });
    let count = 24 * 2 * RANK * WIDTH + WIDTH * WIDTH;
    let (mut parameter, gradient) = (numbers(count), numbers(count));
    let (mut mean, mut square) = (vec![0.0; count], vec![0.0; count]);
    let settings = AdamW {
        learning_rate: 1e-9,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        step: 3,
        gradient_scale: 1.0,
    };
    let optimizer = Work::new(format!("adamw/{count}"), of_rows::<f32>(7 * count), move || {
        adamw_step(&mut parameter, &gradient, &mut mean, &mut square, settings);
    });
    vec![first, second, up_back, down_back, of_a, of_b, optimizer]
}

fn losses<T: Element>() -> [Work; 2] {
    const TARGETS: usize = 256;
    let logits = elements::<T>(TARGETS * VOCABULARY);
    let labels: Vec<i64> = (0..TARGETS as i64).map(|row| row * 97 % VOCABULARY as i64).collect();
    let (mut maxima, mut sums) = (vec![0.0; TARGETS], vec![1.0; TARGETS]);
    let (also_labels, mut gradient) = (labels.clone(), logits.clone());
    let size = logits.len();
    [
        Work::new("cross-entropy/256x50265", of_rows::<T>(size), move || {
            let logits = Rows::dense(&logits, TARGETS, VOCABULARY);
            cross_entropy(logits, &labels, 1.0, &mut maxima, &mut sums);
        }),
        Work::new("cross-entropy backward/256x50265", of_rows::<T>(2 * size), move || {
            let (maxima, sums) = (vec![4.0; TARGETS], vec![1e4; TARGETS]);
            let logits = RowsMut::dense(&mut gradient, TARGETS, VOCABULARY);
            cross_entropy_backward(logits, &also_labels, 1.0, &maxima, &sums);
        }),
    ]
}
