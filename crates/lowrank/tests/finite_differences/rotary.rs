//! Rotary positions, with and without norms of each head.

use std::sync::Arc;

use lowrank::Result;
use lowrank::module;
use lowrank::nn::{Embedding, RmsNorm};
use lowrank::tape::{AdapterId, Layout, Leaf, Tape, Var, ops};
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, freeze, normal};

const ROWS: usize = 7;
const HEADS: usize = 3;
const KV_HEADS: usize = 1;
const HEAD_DIM: usize = 7;
const WIDTH: usize = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
const POSITIONS: [u32; ROWS] = [3, 4, 5, 0, 0, 1, 90];
/// Six of the seven elements of a head are turned.
const FREQUENCIES: [f32; 3] = [1.0, 0.3, 0.09];

struct Heads {
    x: Embedding,
    query: RmsNorm,
    key: RmsNorm,
}

module!(Heads { "x" => x, "query" => query, "key" => key });

impl Heads {
    fn new(seed: u64) -> Self {
        let norm = || RmsNorm::new(HEAD_DIM, 1e-2);
        let mut heads = Self { x: Embedding::new(ROWS, WIDTH), query: norm(), key: norm() };
        fill(&mut heads, &mut Philox::new(seed, 0));
        heads
    }

    fn forward(&self, tape: &mut Tape, layout: &Arc<Layout>, normed: bool) -> Result<Var> {
        let ids: Vec<u32> = (0..ROWS as u32).collect();
        let x = ops::embedding(tape, &[self.x.lookup(&ids)], layout)?;
        let (query, key) = (&self.query.weight, &self.key.weight);
        let rotary = ops::Rotary {
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            frequencies: &FREQUENCIES,
            factor: 1.2,
            norms: normed.then_some(ops::HeadNorms { query, key, eps: 1e-2 }),
        };
        ops::rotary(tape, &x, &POSITIONS, &rotary)
    }
}

#[test]
fn rotary_positions_alone() {
    let mut heads = Heads::new(41);
    freeze(&mut heads.query.weight);
    freeze(&mut heads.key.weight);
    let layout = Layout::from_lengths(&[3, 4], None);
    check("rotary", Pass(heads, move |h: &Heads, tape: &mut Tape| h.forward(tape, &layout, false)));
}

#[test]
fn rotary_positions_after_norms_of_which_an_adapter_brought_one_along() {
    let (mut heads, id) = (Heads::new(42), AdapterId(1));
    let weight = Leaf::trained(normal(&[HEAD_DIM], 0.7, &mut Philox::new(43, 0)));
    heads.key.weight.set_replacement(id, weight).unwrap();
    let layout = Layout::new(vec![0, 3, 4, 7], vec![0, 1, 2], vec![Some(id), None, Some(id)]).unwrap();
    let forward = move |h: &Heads, tape: &mut Tape| h.forward(tape, &layout, true);
    check("rotary after norms", Pass(heads, forward));
}

#[test]
fn one_trained_norm_is_enough_to_record() {
    let mut heads = Heads::new(44);
    freeze(&mut heads.x.weight);
    freeze(&mut heads.query.weight);
    let layout = Layout::from_lengths(&[3, 4], None);
    check("a norm", Pass(heads, move |h: &Heads, tape: &mut Tape| h.forward(tape, &layout, true)));
}
