//! Attention: masks, groups of heads, relative biases, and from targets to sources.

use std::sync::Arc;

use lowrank::Result;
use lowrank::module;
use lowrank::nn::Embedding;
use lowrank::tape::ops::{Attention, AttentionMask, RelativeBias};
use lowrank::tape::{AdapterId, Layout, Leaf, Tape, Var, ops};
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, freeze, normal};

const MASKS: [AttentionMask; 3] = [AttentionMask::Full, AttentionMask::Causal, AttentionMask::Window(3)];
const ADAPTER: AdapterId = AdapterId(2);

fn ids(rows: usize) -> Vec<u32> {
    (0..rows as u32).collect()
}

/// Sequences of 6, 1, 0 and 11 tokens, the first and last of an adapter.
fn layout() -> Arc<Layout> {
    let adapters = vec![Some(ADAPTER), None, None, Some(ADAPTER)];
    Layout::new(vec![0, 6, 7, 7, 18], vec![5, 0, 4, 3], adapters).unwrap()
}

fn grouped(mask: AttentionMask, dropout: f32) -> Attention {
    Attention { heads: 4, kv_heads: 2, head_dim: 3, scale: 0.7, dropout, mask }
}

/// Queries, keys and values that are themselves trained, and biases.
struct Within {
    qkv: Embedding,
    relative_attention_bias: Embedding,
}

module!(Within { "qkv" => qkv, "relative_attention_bias" => relative_attention_bias });

impl Within {
    fn new(width: usize, seed: u64) -> Self {
        let mut within =
            Self { qkv: Embedding::new(18, width), relative_attention_bias: Embedding::new(8, 4) };
        fill(&mut within, &mut Philox::new(seed, 0));
        within
    }

    fn forward(&self, tape: &mut Tape, attention: &Attention, bidirectional: Option<bool>) -> Result<Var> {
        let qkv = ops::embedding(tape, &[self.qkv.lookup(&ids(18))], &layout())?;
        let table = &self.relative_attention_bias.weight;
        let bias = bidirectional.map(|bidirectional| RelativeBias { table, bidirectional, max_distance: 9 });
        ops::attention(tape, &qkv, attention, bias.as_ref())
    }
}

#[test]
fn attention_of_grouped_heads_under_every_mask() {
    for mask in MASKS {
        for dropout in [0.0, 0.3] {
            let mut within = Within::new(24, 21);
            freeze(&mut within.relative_attention_bias.weight);
            let attention = grouped(mask, dropout);
            let forward = move |within: &Within, tape: &mut Tape| within.forward(tape, &attention, None);
            check(&format!("attention, {mask:?}, dropout {dropout}"), Pass(within, forward));
        }
    }
}

#[test]
fn attention_with_relative_biases() {
    for mask in MASKS {
        for dropout in [0.0, 0.3] {
            let attention = grouped(mask, dropout);
            let bidirectional = Some(mask == AttentionMask::Full);
            let forward =
                move |within: &Within, tape: &mut Tape| within.forward(tape, &attention, bidirectional);
            check(
                &format!("biased attention, {mask:?}, dropout {dropout}"),
                Pass(Within::new(24, 22), forward),
            );
        }
    }
}

#[test]
fn attention_with_relative_biases_that_an_adapter_brought_along() {
    let mut within = Within::new(24, 23);
    let table = &mut within.relative_attention_bias.weight;
    let random = &mut Philox::new(24, 0);
    table.set_replacement(ADAPTER, Leaf::trained(normal(&[8, 4], 0.9, random))).unwrap();
    // The one token under the base's table has its own key alone, whose weight no bias changes.
    freeze(table);
    let attention = grouped(AttentionMask::Full, 0.0);
    let forward = move |within: &Within, tape: &mut Tape| within.forward(tape, &attention, Some(true));
    check("attention with an adapter's biases", Pass(within, forward));
}

#[test]
fn biases_alone_may_be_trained() {
    let mut within = Within::new(24, 25);
    freeze(&mut within.qkv.weight);
    let attention = grouped(AttentionMask::Causal, 0.0);
    let forward = move |within: &Within, tape: &mut Tape| within.forward(tape, &attention, Some(false));
    check("biases above frozen rows", Pass(within, forward));
}

/// Targets and sources that are themselves trained.
struct Across {
    q: Embedding,
    kv: Embedding,
}

module!(Across { "q" => q, "kv" => kv });

impl Across {
    fn new(seed: u64) -> Self {
        let mut across = Self { q: Embedding::new(18, 12), kv: Embedding::new(17, 12) };
        fill(&mut across, &mut Philox::new(seed, 0));
        across
    }

    fn forward(&self, tape: &mut Tape, dropout: f32) -> Result<Var> {
        // A target without a source, and a source without a target.
        let sources = Layout::new(vec![0, 9, 9, 13, 17], vec![5, 0, 4, 3], vec![None; 4])?;
        let q = ops::embedding(tape, &[self.q.lookup(&ids(18))], &layout())?;
        let kv = ops::embedding(tape, &[self.kv.lookup(&ids(17))], &sources)?;
        ops::cross_attention(tape, &q, &kv, &grouped(AttentionMask::Full, dropout))
    }
}

#[test]
fn attention_from_targets_to_sources() {
    for dropout in [0.0, 0.3] {
        let forward = move |across: &Across, tape: &mut Tape| across.forward(tape, dropout);
        check(&format!("cross attention with dropout {dropout}"), Pass(Across::new(26), forward));
    }
}

#[test]
fn one_side_of_an_attention_across_may_be_frozen() {
    let (mut queries, mut sources) = (Across::new(27), Across::new(28));
    freeze(&mut queries.kv.weight);
    freeze(&mut sources.q.weight);
    for (what, across) in [("queries", queries), ("sources", sources)] {
        let forward = |across: &Across, tape: &mut Tape| across.forward(tape, 0.0);
        check(&format!("cross attention of trained {what}"), Pass(across, forward));
    }
}
