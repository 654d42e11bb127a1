//! The losses, as the end of a pass and in the middle of one.

use lowrank::Result;
use lowrank::module;
use lowrank::nn::Embedding;
use lowrank::tape::{Layout, Tape, Var, ops};
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill};

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
fn squared_error_over_a_denominator() {
    check_loss("squared error", 1, |tape, predictions| {
        ops::squared_error(tape, predictions, &[0.5, -1.0, 2.0, 0.0, 3.5], 2.5)
    });
}
