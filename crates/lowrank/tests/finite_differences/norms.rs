//! RMS norms, of rows and of heads.

use std::sync::Arc;

use lowrank::Result;
use lowrank::module;
use lowrank::nn::{Embedding, RmsNorm};
use lowrank::tape::{AdapterId, Gradients, Layout, Leaf, Tape, Var, ops};
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, freeze, normal, tape};

const LENGTHS: [usize; 3] = [6, 1, 4];
const ROWS: usize = 11;
const WIDTH: usize = 9;

/// A norm over an input that is itself trained.
struct Normed {
    x: Embedding,
    norm: RmsNorm,
}

module!(Normed { "x" => x, "norm" => norm });

impl Normed {
    fn new(seed: u64) -> Self {
        let mut normed = Self { x: Embedding::new(ROWS, WIDTH), norm: RmsNorm::new(WIDTH, 1e-2) };
        fill(&mut normed, &mut Philox::new(seed, 0));
        normed
    }

    fn forward(&self, tape: &mut Tape, layout: &Arc<Layout>) -> Result<Var> {
        let ids: Vec<u32> = (0..ROWS as u32).collect();
        let x = ops::embedding(tape, &[self.x.lookup(&ids)], layout)?;
        self.norm.forward(tape, &x)
    }
}

#[test]
fn rms_norm_of_trained_rows_by_a_trained_weight() {
    let layout = Layout::from_lengths(&LENGTHS, None);
    check("rms norm", Pass(Normed::new(31), move |n: &Normed, tape: &mut Tape| n.forward(tape, &layout)));
}

#[test]
fn rms_norms_that_an_adapter_brought_along() {
    let (mut normed, id) = (Normed::new(32), AdapterId(1));
    let weight = Leaf::trained(normal(&[WIDTH], 0.7, &mut Philox::new(33, 0)));
    normed.norm.weight.set_replacement(id, weight).unwrap();
    let layout = Layout::new(vec![0, 6, 7, 11], vec![0, 1, 2], vec![Some(id), None, Some(id)]).unwrap();
    check("norms by adapter", Pass(normed, move |n: &Normed, tape: &mut Tape| n.forward(tape, &layout)));
}

#[test]
fn a_norm_is_recorded_only_over_something_trained() {
    let mut normed = Normed::new(34);
    freeze(&mut normed.x.weight);
    let layout = Layout::from_lengths(&LENGTHS, None);
    let mut tape = tape();
    let y = normed.forward(&mut tape, &layout).unwrap();
    let loss = ops::squared_error(&mut tape, &y, &[0.5; ROWS * WIDTH], 1.0).unwrap();
    let mut gradients = Gradients::new();
    tape.backward(&loss, &mut gradients).unwrap();
    assert!(gradients.get(normed.norm.weight.base().unwrap()).is_some());

    freeze(&mut normed.norm.weight);
    let mut tape = self::tape();
    assert!(!normed.forward(&mut tape, &layout).unwrap().needs_gradient());
    assert_eq!(tape.recorded(), 0);
}
