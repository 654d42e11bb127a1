//! Mixtures of experts: the router, the rows of each expert, adapters on experts, the shared expert.

use std::sync::Arc;

use lowrank::Result;
use lowrank::module;
use lowrank::nn::{Embedding, ExpertStack, Linear, for_each_linear_mut, for_each_trained_mut};
use lowrank::tape::{AdapterId, Gradients, Layout, Tape, Var, ops};
use lowrank_kernels::random::Philox;

use crate::check::{Pass, check, fill, freeze, lora, tape};

const LENGTHS: [usize; 3] = [6, 1, 5];
const ROWS: usize = 12;
const WIDTHS: [usize; 2] = [7, 4];
const EXPERTS: usize = 4;

/// Experts over an input and logits that are themselves trained.
struct Mixture {
    x: Embedding,
    logits: Embedding,
    experts: ExpertStack,
    shared: Linear,
    shared_logits: Embedding,
}

module!(Mixture {
    "x" => x,
    "logits" => logits,
    "experts" => experts,
    "shared" => shared,
    "shared_logits" => shared_logits,
});

impl Mixture {
    fn new(random: &mut Philox) -> Self {
        let mut net = Self {
            x: Embedding::new(ROWS, WIDTHS[0]),
            logits: Embedding::new(ROWS, EXPERTS),
            experts: ExpertStack::new(EXPERTS, WIDTHS[0], WIDTHS[1]),
            shared: Linear::new(WIDTHS[0], WIDTHS[1], false),
            shared_logits: Embedding::new(ROWS, 1),
        };
        fill(&mut net, random);
        // No step of a difference changes the choice: the logits of a row are far from each other.
        for (at, logit) in net.logits.weight.base_mut().unwrap().value_mut().iter_mut().enumerate() {
            *logit = 0.5 * ((at / EXPERTS + 3 * (at % EXPERTS)) % 5) as f32;
        }
        net
    }

    /// The last expert gets no row of the first sequence.
    fn pass_over_the_last(&mut self) {
        let logits = self.logits.weight.base_mut().unwrap().value_mut();
        logits.chunks_exact_mut(EXPERTS).take(LENGTHS[0]).for_each(|row| row[EXPERTS - 1] = -2.0);
    }

    /// The experts have pairs, and are frozen themselves.
    fn adapted(adapters: &[u16], random: &mut Philox) -> Self {
        let mut net = Self::new(random);
        for_each_linear_mut(&mut net.experts, |_, expert| {
            freeze(&mut expert.weight);
            for adapter in adapters {
                expert.lora.push(lora(
                    *adapter,
                    [WIDTHS[1], WIDTHS[0]],
                    2 + usize::from(*adapter),
                    0.0,
                    random,
                ));
            }
        });
        net
    }

    fn forward(&self, tape: &mut Tape, layout: &Arc<Layout>, choice: ops::Choice) -> Result<Var> {
        let ids: Vec<u32> = (0..ROWS as u32).collect();
        let mut read = |table: &Embedding| ops::embedding(tape, &[table.lookup(&ids)], layout);
        let (x, logits, of_shared) = (read(&self.x)?, read(&self.logits)?, read(&self.shared_logits)?);
        let routes = ops::route(tape, &logits, choice)?;
        let rows = ops::dispatch(tape, &x, &routes)?;
        let rows = self.experts.forward(tape, &rows, &routes)?;
        let sum = ops::collect(tape, &rows, &routes)?;
        let routes = ops::share(tape, &of_shared)?;
        let shared = self.shared.forward(tape, &x)?;
        let shared = ops::collect(tape, &shared, &routes)?;
        ops::add(tape, &sum, 0.0, &shared)
    }
}

fn with_adapters(adapters: [Option<u16>; 3]) -> Arc<Layout> {
    let adapters = adapters.map(|id| id.map(AdapterId)).to_vec();
    Layout::new(vec![0, 6, 7, 12], vec![5, 0, 3], adapters).unwrap()
}

fn check_mixture(what: &str, net: Mixture, adapters: [Option<u16>; 3], normalised: bool) {
    let layout = with_adapters(adapters);
    let choice = ops::Choice { experts: EXPERTS, chosen: 2, normalised };
    check(what, Pass(net, move |net: &Mixture, tape: &mut Tape| net.forward(tape, &layout, choice)));
}

#[test]
fn experts_their_router_and_what_they_read() {
    for normalised in [false, true] {
        let net = Mixture::new(&mut Philox::new(31, 0));
        check_mixture(&format!("a mixture, normalised: {normalised}"), net, [None; 3], normalised);
    }
}

#[test]
fn adapters_on_experts_alone_and_several_in_one_batch() {
    let random = &mut Philox::new(32, 0);
    check_mixture("pairs on experts", Mixture::adapted(&[0], random), [Some(0); 3], true);
    let net = Mixture::adapted(&[0, 1], random);
    check_mixture("pairs of two adapters on experts", net, [Some(1), None, Some(0)], false);
}

#[test]
fn frozen_experts_without_adapters_pass_the_gradient_on() {
    let mut net = Mixture::adapted(&[], &mut Philox::new(33, 0));
    net.shared.weight.base_mut().unwrap().set_trainable(false);
    check_mixture("frozen experts", net, [None; 3], true);
}

/// In the reference the pairs of all experts are one tensor, which is reached if one of them is.
#[test]
fn the_pair_of_an_expert_without_rows_has_a_gradient_of_zero() {
    let mut net = Mixture::adapted(&[0, 1], &mut Philox::new(34, 0));
    net.pass_over_the_last();
    let (mut tape, layout) = (tape(), with_adapters([Some(0), None, Some(1)]));
    let choice = ops::Choice { experts: EXPERTS, chosen: 2, normalised: true };
    let output = net.forward(&mut tape, &layout, choice).unwrap();
    let targets = vec![0.5; output.value().elements()];
    let loss = ops::squared_error(&mut tape, &output, &targets, 1.0).unwrap();
    let mut gradients = Gradients::new();
    tape.backward(&loss, &mut gradients).unwrap();
    let mut zeros = Vec::new();
    for_each_trained_mut(&mut net.experts, |name, leaf| {
        let gradient = gradients.get(leaf).unwrap_or_else(|| panic!("{name} has no gradient"));
        zeros.extend(gradient.iter().all(|g| *g == 0.0).then(|| name.to_owned()));
    });
    assert_eq!(zeros, ["3.lora_A.weight", "3.lora_B.weight"]);
}
