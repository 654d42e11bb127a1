//! AdamW over everything that is trained.

use std::collections::BTreeMap;

use lowrank_kernels::optimizer::{self, squared_norm};

use crate::nn::{Module, for_each_trained_mut};
use crate::tape::Gradients;
use crate::tensor::{DType, Tensor};

/// The optimiser's settings beside the learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// The decay of the first moment.
    pub beta1: f64,
    /// The decay of the second moment.
    pub beta2: f64,
    /// What is added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, on every trained tensor.
    pub weight_decay: f64,
    /// The largest norm of all gradients together; 0: any.
    pub max_grad_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 }
    }
}

/// The moments of one tensor.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The running mean of gradients.
    pub exp_avg: Tensor,
    /// The running mean of their squares.
    pub exp_avg_sq: Tensor,
}

/// AdamW.
///
/// # Source
/// Loshchilov and Hutter, arXiv 1711.05101, as `torch.optim.AdamW` computes it; clipping as
/// `torch.nn.utils.clip_grad_norm_`.
#[derive(Debug, Default)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// An optimiser that has not stepped yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: BTreeMap::new() }
    }

    /// How many steps it has taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments of each tensor by its name.
    pub fn moments(&self) -> &BTreeMap<String, Moments> {
        &self.moments
    }

    /// Goes on from a checkpoint.
    pub fn restore(&mut self, steps: u64, moments: BTreeMap<String, Moments>) {
        (self.steps, self.moments) = (steps, moments);
    }

    /// Moves every trained tensor of `module` and returns the norm of all gradients before clipping. Where that norm
    /// is not finite, nothing is moved.
    pub fn step(&mut self, module: &mut dyn Module, gradients: &Gradients, learning_rate: f64) -> f64 {
        let mut squares = 0.0;
        for_each_trained_mut(module, |_, leaf| squares += gradients.get(leaf).map_or(0.0, squared_norm));
        let norm = f64::sqrt(squares);
        if !norm.is_finite() {
            return norm;
        }
        let limit = self.config.max_grad_norm;
        let clip = if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 };
        self.steps += 1;
        let AdamWConfig { beta1, beta2, epsilon, weight_decay, .. } = self.config;
        let settings = optimizer::AdamW {
            learning_rate,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            step: self.steps,
            gradient_scale: clip as f32,
        };
        for_each_trained_mut(module, |name, leaf| {
            let Some(gradient) = gradients.get(leaf) else { return };
            let shape = leaf.value().shape();
            if !self.moments.contains_key(name) {
                let zeros = || Tensor::zeros(shape, DType::F32);
                self.moments.insert(name.to_owned(), Moments { exp_avg: zeros(), exp_avg_sq: zeros() });
            }
            if let Some(moments) = self.moments.get_mut(name) {
                let (exp_avg, exp_avg_sq) = (moments.exp_avg.make_mut(), moments.exp_avg_sq.make_mut());
                optimizer::adamw_step(leaf.value_mut(), gradient, exp_avg, exp_avg_sq, settings);
            }
        });
        norm
    }
}
