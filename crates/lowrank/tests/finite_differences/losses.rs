//! The losses, as the end of a pass and in the middle of one.

use lowrank::Result;
use lowrank::module;
use lowrank::nn::Embedding;
use lowrank::tape::{Gradients, Layout, Tape, Var, ops};
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, tape};

const ROWS: usize = 5;

struct Logits {
    x: Embedding,
}

module!(Logits { "x" => x });

/// [`check`] squares the output, so the gradient that reaches the loss is not 1.
fn check_loss(what: &str, width: usize, loss: impl Fn(&mut Tape, &Var) -> Result<Var>) {
    let mut logits = Logits { x: Embedding::new(ROWS, width) };
    fill(&mut logits, &mut Philox::new(21, 0));
    let forward = move |logits: &Logits, tape: &mut Tape| {
        let layout = Layout::from_lengths(&[1; ROWS], None);
        let x = ops::embedding(tape, &[logits.x.lookup(&[0, 1, 2, 3, 4])], &layout)?;
        loss(tape, &x)
    };
    check(what, Pass(logits, forward));
}

#[test]
fn cross_entropy_whose_ignored_rows_have_no_gradient() {
    check_loss("cross-entropy", 7, |tape, logits| {
        ops::cross_entropy(tape, logits, &[6, -100, 0, 3, -100], 3.0)
    });
}

#[test]
fn cross_entropy_of_several_rows_a_sequence_and_scaled_afterwards() {
    let mut logits = Logits { x: Embedding::new(ROWS, 37) };
    fill(&mut logits, &mut Philox::new(22, 0));
    let forward = |logits: &Logits, tape: &mut Tape| {
        let layout = Layout::from_lengths(&[3, 2], None);
        let x = ops::embedding(tape, &[logits.x.lookup(&[4, 1, 2, 3, 0])], &layout)?;
        let loss = ops::cross_entropy(tape, &x, &[36, 0, -100, 17, 17], 2.5)?;
        ops::scale(tape, &loss, 3.0)
    };
    check("cross-entropy of tokens", Pass(logits, forward));
}

#[test]
fn the_gradient_of_cross_entropy_leaves_logits_that_are_still_held_as_they_are() {
    let mut logits = Logits { x: Embedding::new(ROWS, 7) };
    fill(&mut logits, &mut Philox::new(23, 0));
    let mut tape = tape();
    let layout = Layout::from_lengths(&[1; ROWS], None);
    let x = ops::embedding(&mut tape, &[logits.x.lookup(&[0, 1, 2, 3, 4])], &layout).unwrap();
    let before = x.value().to_f32_vec();
    let loss = ops::cross_entropy(&mut tape, &x, &[6, 0, 1, 2, 3], 5.0).unwrap();
    tape.backward(&loss, &mut Gradients::new()).unwrap();
    assert_eq!(x.value().to_f32_vec(), before);
}

#[test]
fn spans_with_positions_that_do_not_count() {
    let mut logits = Logits { x: Embedding::new(13, 2) };
    fill(&mut logits, &mut Philox::new(24, 0));
    let forward = |logits: &Logits, tape: &mut Tape| {
        let ids: Vec<u32> = (0..13).collect();
        let layout = Layout::from_lengths(&[5, 1, 7], None);
        let x = ops::embedding(tape, &[logits.x.lookup(&ids)], &layout)?;
        let denominators = ops::SpanDenominators { starts: 2.0, ends: 3.0 };
        ops::span_loss(tape, &x, &[4, 1, -1], &[2, 0, 6], denominators)
    };
    check("spans", Pass(logits, forward));
}

#[test]
fn squared_error_over_a_denominator() {
    check_loss("squared error", 1, |tape, predictions| {
        ops::squared_error(tape, predictions, &[0.5, -1.0, 2.0, 0.0, 3.5], 2.5)
    });
}
