//! The linear layer: its own parameters, adapters, shared inputs, several adapters in one batch.

use std::sync::Arc;

use lowrank::Result;
use lowrank::module;
use lowrank::nn::{Embedding, Linear};
use lowrank::tape::{AdapterId, Gradients, Layout, Leaf, Tape, Var, ops};
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, freeze, lora, normal, tape};

const INPUTS: usize = 13;
const OUTPUTS: [usize; 3] = [7, 5, 11];
const LENGTHS: [usize; 4] = [5, 1, 7, 4];

/// Query, key and value of different widths over an input that is itself trained.
struct Projections {
    x: Embedding,
    query: Linear,
    key: Linear,
    value: Linear,
}

module!(Projections { "x" => x, "query" => query, "key" => key, "value" => value });

impl Projections {
    fn new(random: &mut Philox) -> Self {
        let mut net = Self {
            x: Embedding::new(LENGTHS.iter().sum(), INPUTS),
            query: Linear::new(INPUTS, OUTPUTS[0], true),
            key: Linear::new(INPUTS, OUTPUTS[1], false),
            value: Linear::new(INPUTS, OUTPUTS[2], true),
        };
        fill(&mut net, random);
        net
    }

    /// Only adapters and the input are trained, as in LoRA.
    fn frozen(random: &mut Philox) -> Self {
        let mut net = Self::new(random);
        for layer in [&mut net.query, &mut net.key, &mut net.value] {
            freeze(&mut layer.weight);
            layer.bias.iter_mut().for_each(freeze);
        }
        net
    }

    fn adapt(&mut self, adapter: u16, ranks: [usize; 3], dropout: f32, random: &mut Philox) {
        for ((layer, r), outputs) in self.layers().into_iter().zip(ranks).zip(OUTPUTS) {
            if r > 0 {
                layer.lora.push(lora(adapter, [outputs, INPUTS], r, dropout, random));
            }
        }
    }

    fn layers(&mut self) -> [&mut Linear; 3] {
        [&mut self.query, &mut self.key, &mut self.value]
    }

    fn forward(&self, tape: &mut Tape, layout: &Arc<Layout>) -> Result<Var> {
        let ids: Vec<u32> = (0..layout.rows() as u32).collect();
        let x = ops::embedding(tape, &[self.x.lookup(&ids)], layout)?;
        Linear::forward_together(&[&self.query, &self.key, &self.value], tape, &x)
    }
}

fn with_adapters(adapters: [Option<u16>; 4]) -> Arc<Layout> {
    let offsets = vec![0, 5, 6, 13, 17];
    Layout::new(offsets, vec![4, 9, 2, 3], adapters.map(|id| id.map(AdapterId)).to_vec()).unwrap()
}

fn check_projections(what: &str, net: Projections, layout: Arc<Layout>) {
    check(what, Pass(net, move |net: &Projections, tape: &mut Tape| net.forward(tape, &layout)));
}

#[test]
fn weights_and_biases_of_layers_that_share_an_input() {
    let random = &mut Philox::new(1, 0);
    check_projections("full training", Projections::new(random), with_adapters([None; 4]));
}

#[test]
fn adapters_of_layers_that_share_an_input() {
    let random = &mut Philox::new(2, 0);
    let mut net = Projections::frozen(random);
    net.adapt(0, [3, 2, 5], 0.0, random);
    check_projections("adapters", net, with_adapters([Some(0); 4]));
}

#[test]
fn adapters_on_some_of_the_layers_beside_trained_weights() {
    let random = &mut Philox::new(3, 0);
    let mut net = Projections::new(random);
    net.adapt(0, [3, 0, 4], 0.0, random);
    check_projections("adapters and weights", net, with_adapters([Some(0); 4]));
}

#[test]
fn adapters_with_dropout_of_their_own_input() {
    let random = &mut Philox::new(4, 0);
    let mut net = Projections::frozen(random);
    net.adapt(0, [3, 2, 5], 0.4, random);
    check_projections("dropout", net, with_adapters([Some(0); 4]));
}

/// The middle layer has no bias of its own.
#[test]
fn adapters_with_a_bias_beside_others_in_one_batch() {
    let random = &mut Philox::new(14, 0);
    let mut net = Projections::new(random);
    net.adapt(0, [3, 2, 5], 0.0, random);
    net.adapt(1, [2, 2, 1], 0.0, random);
    for (layer, outputs) in net.layers().into_iter().zip(OUTPUTS) {
        layer.lora[0].bias = Some(Leaf::trained(normal(&[outputs], 0.5, random)));
    }
    check_projections("lora_bias", net, with_adapters([Some(0), Some(1), None, Some(0)]));
}

#[test]
fn several_adapters_and_none_in_one_batch() {
    let random = &mut Philox::new(5, 0);
    let mut net = Projections::frozen(random);
    net.adapt(0, [3, 2, 5], 0.0, random);
    net.adapt(1, [0, 4, 1], 0.3, random);
    check_projections("mixed batch", net, with_adapters([Some(1), None, Some(0), Some(1)]));
}

#[test]
fn weights_and_biases_that_an_adapter_brought_along() {
    let random = &mut Philox::new(6, 0);
    let mut net = Projections::new(random);
    net.adapt(1, [2, 0, 3], 0.0, random);
    let (weight, bias) = (normal(&[OUTPUTS[1], INPUTS], 0.7, random), normal(&[OUTPUTS[0]], 0.7, random));
    net.key.weight.set_replacement(AdapterId(0), Leaf::trained(weight)).unwrap();
    net.query.bias.as_mut().unwrap().set_replacement(AdapterId(1), Leaf::trained(bias)).unwrap();
    check_projections("replacements", net, with_adapters([Some(0), Some(1), None, Some(0)]));
}

#[test]
fn a_lone_trained_b_or_a_is_enough() {
    for trains_a in [true, false] {
        let random = &mut Philox::new(7, 0);
        let mut net = Projections::frozen(random);
        freeze(&mut net.x.weight);
        net.adapt(0, [3, 2, 0], 0.0, random);
        for lora in net.layers().into_iter().flat_map(|layer| &mut layer.lora) {
            let frozen = if trains_a { &mut lora.b } else { &mut lora.a };
            frozen.set_trainable(false);
        }
        let mut tape = tape();
        let y = net.forward(&mut tape, &with_adapters([Some(0); 4])).unwrap();
        let targets = vec![0.25; y.value().elements()];
        let loss = ops::squared_error(&mut tape, &y, &targets, 1.0).unwrap();
        let mut gradients = Gradients::new();
        tape.backward(&loss, &mut gradients).unwrap();
        for lora in net.layers().into_iter().flat_map(|layer| &layer.lora) {
            assert_eq!(gradients.get(&lora.a).is_some(), trains_a);
            assert_eq!(gradients.get(&lora.b).is_some(), !trains_a);
        }
    }
}
