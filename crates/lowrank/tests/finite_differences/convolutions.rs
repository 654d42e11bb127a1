//! Convolutions: their own parameters, adapters in groups, dropout, magnitudes, images of several sizes.

use std::sync::Arc;

use lowrank::Result;
use lowrank::module;
use lowrank::nn::{Conv1d, Conv2d, Embedding};
use lowrank::tape::ops::{self, Window};
use lowrank::tape::{AdapterId, Layout, Leaf, Magnitude, Tape, Var};
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, freeze, lora, normal};

const CHANNELS: usize = 4;
const OUTPUTS: usize = 6;
const SIZES: [[usize; 2]; 3] = [[3, 4], [1, 5], [4, 2]];
const LENGTHS: [usize; 3] = [12, 5, 8];
const WINDOWS: [Window; 2] = [Window::new(2).with_padding(1), Window::new(3).with_stride(2).with_padding(2)];

/// Two layers over a table of inputs: one along sequences, one over images.
struct Net {
    x: Embedding,
    one: Conv1d,
    two: Conv2d,
}

module!(Net { "x" => x, "one" => one, "two" => two });

impl Net {
    fn new(groups: usize, random: &mut Philox) -> Self {
        let window = Window::new(3).with_padding(2).with_dilation(2);
        let mut net = Self {
            x: Embedding::new(LENGTHS.iter().sum(), CHANNELS),
            one: Conv1d::new(CHANNELS, OUTPUTS, window, groups, true).unwrap(),
            two: Conv2d::new(OUTPUTS, OUTPUTS, WINDOWS, groups, false).unwrap(),
        };
        fill(&mut net, random);
        net
    }

    fn adapt(&mut self, adapter: u16, r: usize, dropout: f32, random: &mut Philox) {
        for layer in [&mut self.one.linear, &mut self.two.linear] {
            let mut pair = lora(adapter, [OUTPUTS, layer.inputs()], r, dropout, random);
            pair.b = Leaf::trained(normal(&[OUTPUTS, r / layer.groups()], 0.5, random));
            layer.lora.push(pair);
        }
    }

    fn freeze_weights(&mut self) {
        freeze(&mut self.one.linear.weight);
        freeze(&mut self.two.linear.weight);
    }

    /// The first leaves as many positions as there are: the second reads them.
    fn forward(&self, tape: &mut Tape, layout: &Arc<Layout>) -> Result<Var> {
        let ids: Vec<u32> = (0..layout.rows() as u32).collect();
        let x = ops::embedding(tape, &[self.x.lookup(&ids)], layout)?;
        let x = self.one.forward(tape, &x)?;
        self.two.forward(tape, &x, &SIZES)
    }
}

fn layout(adapters: [Option<u16>; 3]) -> Arc<Layout> {
    let adapters = adapters.map(|id| id.map(AdapterId)).to_vec();
    Layout::new(vec![0, 12, 17, 25], vec![4, 9, 2], adapters).unwrap()
}

fn check_net(what: &str, net: Net, layout: Arc<Layout>) {
    check(what, Pass(net, move |net: &Net, tape: &mut Tape| net.forward(tape, &layout)));
}

#[test]
fn weights_and_biases_of_convolutions() {
    for groups in [1, 2] {
        let random = &mut Philox::new(61, 0);
        check_net("convolutions", Net::new(groups, random), layout([None; 3]));
    }
}

#[test]
fn adapters_of_convolutions_beside_trained_weights_and_none() {
    for groups in [1, 2] {
        let random = &mut Philox::new(62, 0);
        let mut net = Net::new(groups, random);
        net.adapt(0, 4, 0.0, random);
        net.adapt(1, 2, 0.0, random);
        check_net("adapters of convolutions", net, layout([Some(0), None, Some(1)]));
    }
}

#[test]
fn adapters_of_convolutions_with_dropout_of_some() {
    for groups in [1, 2] {
        let random = &mut Philox::new(63, 0);
        let mut net = Net::new(groups, random);
        net.freeze_weights();
        net.adapt(0, 4, 0.4, random);
        net.adapt(1, 2, 0.0, random);
        net.adapt(2, 2, 0.2, random);
        check_net("dropout of convolutions", net, layout([Some(0), Some(1), Some(2)]));
    }
}

/// Lengths count as constants in the backward pass: differences show the gradients of the magnitude and of the input.
#[test]
fn magnitudes_of_convolutions() {
    for dropout in [0.0, 0.4] {
        let random = &mut Philox::new(64, 0);
        let mut net = Net::new(1, random);
        net.freeze_weights();
        net.adapt(0, 3, dropout, random);
        for layer in [&mut net.one.linear, &mut net.two.linear] {
            let pair = &mut layer.lora[0];
            pair.a.set_trainable(false);
            pair.b.set_trainable(false);
            pair.magnitude = Some(Magnitude::new(Leaf::trained(normal(&[OUTPUTS], 2.0, random))));
        }
        net.adapt(1, 2, 0.0, random);
        check_net("magnitudes of convolutions", net, layout([Some(0), Some(1), Some(0)]));
    }
}

#[test]
fn windows_of_images_of_several_sizes() {
    struct Inputs(Embedding);
    impl lowrank::nn::Module for Inputs {
        fn visit<'a>(&'a self, path: &str, visitor: &mut dyn lowrank::nn::Visitor<'a>) {
            self.0.visit(path, visitor);
        }
        fn visit_mut(&mut self, path: &str, visitor: &mut dyn lowrank::nn::VisitorMut) {
            self.0.visit_mut(path, visitor);
        }
    }
    let mut inputs = Inputs(Embedding::new(25, CHANNELS));
    fill(&mut inputs, &mut Philox::new(65, 0));
    let forward = |inputs: &Inputs, tape: &mut Tape| {
        let ids: Vec<u32> = (0..25).collect();
        let x = ops::embedding(tape, &[inputs.0.lookup(&ids)], &layout([None; 3]))?;
        ops::unfold(tape, &x, WINDOWS, &SIZES)
    };
    check("windows", Pass(inputs, forward));
}
