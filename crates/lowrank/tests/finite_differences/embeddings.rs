//! Embeddings with adapters: several tables, several adapters in one batch, the padding id.

use std::sync::Arc;

use lowrank::nn::Embedding;
use lowrank::tape::{AdapterId, Gradients, Layout, Tape, Var, ops};
use lowrank::{Result, module};
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, freeze, lora, tape};

const WIDTH: usize = 7;
const ENTRIES: [usize; 2] = [5, 6];
const WORDS: [u32; 11] = [4, 1, 0, 4, 4, 2, 3, 1, 0, 0, 4];
const POSITIONS: [u32; 11] = [0, 1, 2, 3, 4, 5, 0, 0, 1, 2, 3];

/// Two tables that are looked up together.
struct Tables {
    words: Embedding,
    positions: Embedding,
}

module!(Tables { "words" => words, "positions" => positions });

impl Tables {
    fn new(words: Embedding, random: &mut Philox) -> Self {
        let mut tables = Self { words, positions: Embedding::new(ENTRIES[1], WIDTH) };
        fill(&mut tables, random);
        tables
    }

    /// Only adapters are trained, as in LoRA.
    fn frozen(words: Embedding, random: &mut Philox) -> Self {
        let mut tables = Self::new(words, random);
        freeze(&mut tables.words.weight);
        freeze(&mut tables.positions.weight);
        tables
    }

    fn adapt(&mut self, adapter: u16, ranks: [usize; 2], random: &mut Philox) {
        for ((table, r), entries) in
            [&mut self.words, &mut self.positions].into_iter().zip(ranks).zip(ENTRIES)
        {
            if r > 0 {
                table.lora.push(lora(adapter, [WIDTH, entries], r, 0.0, random));
            }
        }
    }

    fn forward(&self, tape: &mut Tape, layout: &Arc<Layout>) -> Result<Var> {
        ops::embedding(tape, &[self.words.lookup(&WORDS), self.positions.lookup(&POSITIONS)], layout)
    }
}

fn with_adapters(adapters: [Option<u16>; 3]) -> Arc<Layout> {
    let adapters = adapters.map(|id| id.map(AdapterId)).to_vec();
    Layout::new(vec![0, 6, 7, 11], vec![0, 1, 2], adapters).unwrap()
}

fn check_tables(what: &str, tables: Tables, layout: Arc<Layout>) {
    check(what, Pass(tables, move |tables: &Tables, tape: &mut Tape| tables.forward(tape, &layout)));
}

fn words() -> Embedding {
    Embedding::new(ENTRIES[0], WIDTH)
}

#[test]
fn adapters_of_tables_that_are_looked_up_together() {
    let random = &mut Philox::new(21, 0);
    let mut tables = Tables::frozen(words(), random);
    tables.adapt(0, [3, 2], random);
    check_tables("adapters", tables, with_adapters([Some(0); 3]));
}

#[test]
fn adapters_beside_trained_tables() {
    let random = &mut Philox::new(22, 0);
    let mut tables = Tables::new(words(), random);
    tables.adapt(0, [0, 3], random);
    check_tables("adapters and tables", tables, with_adapters([Some(0); 3]));
}

#[test]
fn several_adapters_and_none_in_one_batch() {
    let random = &mut Philox::new(23, 0);
    let mut tables = Tables::frozen(words(), random);
    tables.adapt(0, [3, 2], random);
    tables.adapt(1, [0, 4], random);
    check_tables("mixed batch", tables, with_adapters([Some(1), None, Some(0)]));
}

/// PyTorch's `embedding` with a `padding_idx` on `A`: the rest of the gradient is as without.
#[test]
fn the_padding_column_of_an_adapter_gets_no_gradient() {
    let gradients = |words: Embedding| {
        let random = &mut Philox::new(24, 0);
        let mut tables = Tables::frozen(words, random);
        tables.adapt(0, [3, 0], random);
        let mut tape = tape();
        let sum = tables.forward(&mut tape, &with_adapters([Some(0); 3])).unwrap();
        let loss = ops::squared_error(&mut tape, &sum, &[0.5; 11 * WIDTH], 1.0).unwrap();
        let mut gradients = Gradients::new();
        tape.backward(&loss, &mut gradients).unwrap();
        let pair = &tables.words.lora[0];
        [&pair.a, &pair.b].map(|leaf| gradients.get(leaf).unwrap().to_vec())
    };
    let [plain_a, plain_b] = gradients(words());
    for padding in [0, 4] {
        let [padded_a, padded_b] = gradients(words().with_padding_id(padding));
        assert_eq!(padded_b, plain_b);
        for (place, (padded, plain)) in padded_a.iter().zip(&plain_a).enumerate() {
            if place % ENTRIES[0] == padding as usize {
                assert!(*plain != 0.0 && *padded == 0.0);
            } else {
                assert_eq!(padded, plain, "column {}", place % ENTRIES[0]);
            }
        }
    }
}
