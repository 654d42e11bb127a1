//! Operations on rows: attention, norms, activations, dropout, embeddings, pooling.

use std::sync::Arc;

use lowrank::Result;
use lowrank::module;
use lowrank::nn::{Embedding, LayerNorm};
use lowrank::tape::{AdapterId, Gradients, Layout, Leaf, Tape, Var, ops};
use lowrank::tensor::Tensor;
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, normal, tape};

const LENGTHS: [usize; 3] = [6, 1, 4];
const ROWS: usize = 11;
const WIDTH: usize = 9;

/// An input that is itself trained.
struct Input {
    x: Embedding,
}

module!(Input { "x" => x });

/// An operation on rows of `width` under a layout whose examples are not in order.
fn check_rows(what: &str, width: usize, op: impl Fn(&mut Tape, &Var) -> Result<Var>) {
    let mut input = Input { x: Embedding::new(ROWS, width) };
    fill(&mut input, &mut Philox::new(11, 0));
    let layout = Layout::new(vec![0, 6, 7, 11], vec![5, 0, 3], vec![None; 3]).unwrap();
    let ids: Vec<u32> = (0..ROWS as u32).collect();
    let forward = move |input: &Input, tape: &mut Tape| {
        let x = ops::embedding(tape, &[input.x.lookup(&ids)], &layout)?;
        op(tape, &x)
    };
    check(what, Pass(input, forward));
}

#[test]
fn attention_with_and_without_dropout() {
    let (heads, head_dim) = (3, 5);
    for dropout in [0.0, 0.3] {
        let attention = ops::Attention::encoder(heads, head_dim, dropout);
        check_rows(&format!("attention with dropout {dropout}"), 3 * heads * head_dim, move |tape, qkv| {
            ops::attention(tape, qkv, &attention, None)
        });
    }
}

#[test]
fn every_activation() {
    use ops::Activation::{Gelu, GeluTanh, QuickGelu, Silu, Tanh};
    for kind in [Gelu, GeluTanh, QuickGelu, Silu, Tanh] {
        check_rows(&format!("{kind:?}"), WIDTH, move |tape, x| ops::activation(tape, x, kind));
        check_rows(&format!("gated {kind:?}"), 2 * WIDTH, move |tape, x| ops::gated(tape, x, kind));
    }
}

/// Differences across the kink would be wrong, so no element is near it.
#[test]
fn relu_away_from_its_kink() {
    let mut input = Input { x: Embedding::new(ROWS, WIDTH) };
    fill(&mut input, &mut Philox::new(12, 0));
    for value in input.x.weight.base_mut().unwrap().value_mut() {
        *value += 0.1_f32.copysign(*value);
    }
    let layout = Layout::from_lengths(&LENGTHS, None);
    let ids: Vec<u32> = (0..ROWS as u32).collect();
    let forward = move |input: &Input, tape: &mut Tape| {
        let x = ops::embedding(tape, &[input.x.lookup(&ids)], &layout)?;
        ops::activation(tape, &x, ops::Activation::Relu)
    };
    check("Relu", Pass(input, forward));
}

#[test]
fn dropout_and_a_value_that_is_used_twice() {
    check_rows("dropout", WIDTH, |tape, x| ops::dropout(tape, x, 0.35));
    check_rows("two dropouts of one value", WIDTH, |tape, x| {
        let once = ops::dropout(tape, x, 0.35)?;
        ops::dropout(tape, &once, 0.5)
    });
}

#[test]
fn first_token() {
    check_rows("first token", WIDTH, ops::first_token);
}

#[test]
fn rows_that_are_taken_several_times_or_not_at_all() {
    for as_f32 in [false, true] {
        check_rows("selected rows", WIDTH, move |tape, x| {
            let layout = Layout::from_lengths(&[2, 3], None);
            ops::select_rows(tape, x, &[10, 0, 3, 3, 0], &layout, as_f32)
        });
    }
}

#[test]
fn what_is_selected_must_be_there() {
    let mut tape = tape();
    let layout = Layout::from_lengths(&[2], None);
    let x = Var::constant(Tensor::from_slice([2, 1], &[1.0_f32, 2.0]), Arc::clone(&layout));
    let error = ops::select_rows(&mut tape, &x, &[0, 2], &layout, false).unwrap_err().to_string();
    assert!(error.contains("row 2 is selected of 2"), "{error}");
    let error = ops::select_rows(&mut tape, &x, &[0], &layout, false).unwrap_err().to_string();
    assert!(error.contains("1 rows are selected for 2"), "{error}");
}

#[test]
fn multiples() {
    check_rows("a multiple", WIDTH, |tape, x| ops::scale(tape, x, -1.3));
}

#[test]
fn residual_sums_with_and_without_dropout() {
    for dropout in [0.0, 0.3] {
        let forward = move |normed: &Normed, tape: &mut Tape| {
            let layout = Layout::from_lengths(&LENGTHS, None);
            let ids: Vec<u32> = (0..ROWS as u32).collect();
            let x = ops::embedding(tape, &[normed.x.lookup(&ids)], &layout)?;
            let residual = ops::embedding(tape, &[normed.residual.lookup(&ids)], &layout)?;
            let sum = ops::add(tape, &x, dropout, &residual)?;
            // The residual is used again, as in a block without a norm after its sum.
            let sum = ops::add(tape, &sum, dropout, &residual)?;
            normed.norm.forward(tape, &sum)
        };
        check("a residual sum", Pass(Normed::new(&mut Philox::new(17, 0)), forward));
    }
}

/// A norm over an input and a residual that are themselves trained.
struct Normed {
    x: Embedding,
    residual: Embedding,
    norm: LayerNorm,
}

module!(Normed { "x" => x, "residual" => residual, "norm" => norm });

impl Normed {
    fn new(random: &mut Philox) -> Self {
        let mut normed = Self {
            x: Embedding::new(ROWS, WIDTH),
            residual: Embedding::new(ROWS, WIDTH),
            norm: LayerNorm::new(WIDTH, 1e-5),
        };
        fill(&mut normed, random);
        normed
    }

    fn forward(&self, tape: &mut Tape, dropout: f32, layout: &Arc<Layout>) -> Result<Var> {
        let ids: Vec<u32> = (0..ROWS as u32).collect();
        let x = ops::embedding(tape, &[self.x.lookup(&ids)], layout)?;
        let residual = ops::embedding(tape, &[self.residual.lookup(&ids)], layout)?;
        self.norm.forward_residual(tape, &x, dropout, &residual)
    }
}

#[test]
fn layer_norm_alone() {
    let forward = |normed: &NormOnly, tape: &mut Tape| {
        let ids: Vec<u32> = (0..ROWS as u32).collect();
        let x = ops::embedding(tape, &[normed.x.lookup(&ids)], &Layout::from_lengths(&LENGTHS, None))?;
        normed.norm.forward(tape, &x)
    };
    let mut normed = NormOnly { x: Embedding::new(ROWS, WIDTH), norm: LayerNorm::new(WIDTH, 1e-5) };
    fill(&mut normed, &mut Philox::new(13, 0));
    check("layer norm", Pass(normed, forward));
}

struct NormOnly {
    x: Embedding,
    norm: LayerNorm,
}

module!(NormOnly { "x" => x, "norm" => norm });

#[test]
fn layer_norm_with_residual_and_dropout() {
    for dropout in [0.0, 0.3] {
        let layout = Layout::from_lengths(&LENGTHS, None);
        let normed = Normed::new(&mut Philox::new(14, 0));
        let forward = move |normed: &Normed, tape: &mut Tape| normed.forward(tape, dropout, &layout);
        check(&format!("layer norm of a sum with dropout {dropout}"), Pass(normed, forward));
    }
}

#[test]
fn a_layer_norm_that_an_adapter_brought_along() {
    let random = &mut Philox::new(15, 0);
    let mut normed = Normed::new(random);
    let id = AdapterId(1);
    normed.norm.weight.set_replacement(id, Leaf::trained(normal(&[WIDTH], 0.7, random))).unwrap();
    normed.norm.bias.set_replacement(id, Leaf::trained(normal(&[WIDTH], 0.7, random))).unwrap();
    let layout = Layout::new(vec![0, 6, 7, 11], vec![0, 1, 2], vec![Some(id), None, Some(id)]).unwrap();
    check("norms by adapter", Pass(normed, move |n: &Normed, tape: &mut Tape| n.forward(tape, 0.2, &layout)));
}

/// Two tables that are looked up together.
struct Tables {
    words: Embedding,
    positions: Embedding,
}

module!(Tables { "words" => words, "positions" => positions });

const WORDS: [u32; ROWS] = [4, 1, 0, 4, 4, 2, 3, 1, 0, 0, 4];
const POSITIONS: [u32; ROWS] = [0, 1, 2, 3, 4, 5, 0, 0, 1, 2, 3];

fn tables(words: Embedding) -> Tables {
    let mut tables = Tables { words, positions: Embedding::new(6, WIDTH) };
    fill(&mut tables, &mut Philox::new(16, 0));
    tables
}

fn looked_up(tables: &Tables, tape: &mut Tape) -> Result<Var> {
    let layout = Layout::from_lengths(&LENGTHS, None);
    ops::embedding(tape, &[tables.words.lookup(&WORDS), tables.positions.lookup(&POSITIONS)], &layout)
}

#[test]
fn embeddings_whose_ids_come_again() {
    check("embeddings", Pass(tables(Embedding::new(5, WIDTH)), looked_up));
}

#[test]
fn the_padding_row_of_a_table_gets_no_gradient_and_the_others_the_same_as_without() {
    let gradient = |words: Embedding| {
        let tables = tables(words);
        let mut tape = tape();
        let sum = looked_up(&tables, &mut tape).unwrap();
        let loss = ops::squared_error(&mut tape, &sum, &[0.5; ROWS * WIDTH], 1.0).unwrap();
        let mut gradients = Gradients::new();
        tape.backward(&loss, &mut gradients).unwrap();
        gradients.get(tables.words.weight.base().unwrap()).unwrap().to_vec()
    };
    let plain = gradient(Embedding::new(5, WIDTH));
    for padding in [0, 4] {
        let padded = gradient(Embedding::new(5, WIDTH).with_padding_id(padding));
        for (row, (padded, plain)) in padded.chunks(WIDTH).zip(plain.chunks(WIDTH)).enumerate() {
            if row == padding as usize {
                assert!(plain.iter().all(|x| *x != 0.0) && padded.iter().all(|x| *x == 0.0));
            } else {
                assert_eq!(padded, plain, "row {row}");
            }
        }
    }
}
