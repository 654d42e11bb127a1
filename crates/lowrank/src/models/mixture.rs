//! The feed-forward network of mixture models: a router, experts of which each row passes a few, and a shared one.

use super::config::MixtureConfig;
use super::llama::DecoderMlp;
use crate::Result;
use crate::module;
use crate::nn::{ExpertStack, Linear, Role};
use crate::tape::{Tape, Var, ops};

/// A mixture of experts. Modules have the names of Transformers 5.
///
/// # Source
/// Jiang et al., Mixtral of Experts (arXiv 2401.04088), section 2.1; the shared expert of Qwen1.5-MoE. As Transformers'
/// `MixtralSparseMoeBlock`, `Qwen2MoeSparseMoeBlock` and `Qwen3MoeSparseMoeBlock`.
#[derive(Debug)]
pub struct SparseMoe {
    gate: Linear,
    experts: Experts,
    shared_expert: Option<DecoderMlp>,
    shared_expert_gate: Option<Linear>,
    choice: ops::Choice,
}

module!(SparseMoe {
    "gate" => gate,
    "experts" => experts,
    "shared_expert" => shared_expert,
    "shared_expert_gate" => shared_expert_gate,
});

impl SparseMoe {
    /// A mixture between hidden rows of `width`.
    pub(super) fn new(config: &MixtureConfig, width: usize, activation: ops::Activation) -> Self {
        let shared = config.shared_intermediate_size;
        Self {
            gate: Linear::new(width, config.num_experts, false).with_role(Role::Matrix),
            experts: Experts {
                gate_up_proj: ExpertStack::new(config.num_experts, width, 2 * config.intermediate_size),
                down_proj: ExpertStack::new(config.num_experts, config.intermediate_size, width),
                activation,
            },
            shared_expert: shared.map(|inner| DecoderMlp::new(width, inner, false, activation)),
            shared_expert_gate: shared.map(|_| Linear::new(width, 1, false)),
            choice: ops::Choice {
                experts: config.num_experts,
                chosen: config.num_experts_per_tok,
                normalised: config.norm_topk_prob,
            },
        }
    }

    pub(super) fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        let logits = self.gate.forward(tape, x)?;
        let routes = ops::route(tape, &logits, self.choice)?;
        let rows = ops::dispatch(tape, x, &routes)?;
        let rows = self.experts.forward(tape, &rows, &routes)?;
        let sum = ops::collect(tape, &rows, &routes)?;
        let Some((shared, gate)) = self.shared_expert.as_ref().zip(self.shared_expert_gate.as_ref()) else {
            return Ok(sum);
        };
        let logits = gate.forward(tape, x)?;
        let routes = ops::share(tape, &logits)?;
        let rows = shared.forward(tape, x)?;
        let shared = ops::collect(tape, &rows, &routes)?;
        ops::add(tape, &sum, 0.0, &shared)
    }
}

/// `down(activation(gate·x) · up·x)` of each expert, `gate` and `up` one below the other in its part of `gate_up_proj`.
#[derive(Debug)]
pub struct Experts {
    gate_up_proj: ExpertStack,
    down_proj: ExpertStack,
    activation: ops::Activation,
}

module!(Experts { "gate_up_proj" => gate_up_proj, "down_proj" => down_proj; "act_fn" });

impl Experts {
    fn forward(&self, tape: &mut Tape, rows: &Var, routes: &ops::Routes) -> Result<Var> {
        let both = self.gate_up_proj.forward(tape, rows, routes)?;
        let inner = ops::gated(tape, &both, self.activation)?;
        self.down_proj.forward(tape, &inner, routes)
    }
}
