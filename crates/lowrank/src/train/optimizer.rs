//! AdamW over everything that is trained.

use std::collections::{BTreeMap, HashMap};

use lowrank_kernels::optimizer::{self, squared_norm};

use super::rates::LearningRates;
use crate::nn::{Module, for_each_trained_mut};
use crate::tape::{Gradients, LeafId};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};

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
    /// The steps that they are of: those in which a gradient reached the tensor.
    pub steps: u64,
}

impl Moments {
    fn new(shape: Shape) -> Self {
        let zeros = || Tensor::zeros(shape, DType::F32);
        Self { exp_avg: zeros(), exp_avg_sq: zeros(), steps: 0 }
    }
}

/// AdamW. A tensor that no gradient reached in a step stays as it is, with its moments.
///
/// # Source
/// Loshchilov and Hutter, arXiv 1711.05101, as `torch.optim.AdamW` computes it; clipping as
/// `torch.nn.utils.clip_grad_norm_`.
#[derive(Debug, Default)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    moments: HashMap<LeafId, Moments>,
    /// What the learning rate of a tensor is multiplied by, where that is not 1.
    factors: HashMap<LeafId, f64>,
}

impl AdamW {
    /// An optimiser that has not stepped yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: HashMap::new(), factors: HashMap::new() }
    }

    /// Has the tensors that `module` trains move at learning rates of their own.
    ///
    /// # Errors
    /// If a pattern is no regular expression, or means nothing that is trained.
    pub fn set_rates(&mut self, module: &mut dyn Module, rates: &LearningRates) -> Result<()> {
        let mut factors = rates.factors(module)?.into_iter();
        self.factors.clear();
        for_each_trained_mut(module, |_, leaf| {
            let factor = factors.next().filter(|factor| *factor != 1.0);
            self.factors.extend(factor.map(|factor| (leaf.id(), factor)));
        });
        Ok(())
    }

    /// How many steps it has taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments of each trained tensor of `module` by the name that [`for_each_trained_mut`] gives it.
    pub fn moments(&self, module: &mut dyn Module) -> BTreeMap<String, Moments> {
        let mut moments = BTreeMap::new();
        for_each_trained_mut(module, |name, leaf| {
            moments.extend(self.moments.get(&leaf.id()).map(|own| (name.to_owned(), own.clone())));
        });
        moments
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// If moments are of something that `module` does not train, or of another shape.
    pub fn restore(
        &mut self,
        module: &mut dyn Module,
        steps: u64,
        mut moments: BTreeMap<String, Moments>,
    ) -> Result<()> {
        let (mut restored, mut wrong) = (HashMap::new(), None);
        for_each_trained_mut(module, |name, leaf| {
            let Some(own) = moments.remove(name) else { return };
            let fits =
                |tensor: &Tensor| tensor.shape() == leaf.value().shape() && tensor.dtype() == DType::F32;
            if !(fits(&own.exp_avg) && fits(&own.exp_avg_sq)) {
                wrong = Some(name.to_owned());
            }
            restored.insert(leaf.id(), own);
        });
        if let Some(name) = wrong.or_else(|| moments.into_keys().next()) {
            return Err(Error::Usage(format!("the moments of {name} fit nothing that is trained")));
        }
        (self.steps, self.moments) = (steps, restored);
        Ok(())
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
            step: 0,
            gradient_scale: clip as f32,
        };
        for_each_trained_mut(module, |_, leaf| {
            let Some(gradient) = gradients.get(leaf) else { return };
            let shape = leaf.value().shape();
            let moments = self.moments.entry(leaf.id()).or_insert_with(|| Moments::new(shape));
            moments.steps += 1;
            let factor = self.factors.get(&leaf.id()).copied().unwrap_or(1.0);
            let learning_rate = learning_rate * factor;
            let settings = optimizer::AdamW { step: moments.steps, learning_rate, ..settings };
            let (exp_avg, exp_avg_sq) = (moments.exp_avg.make_mut(), moments.exp_avg_sq.make_mut());
            optimizer::adamw_step(leaf.value_mut(), gradient, exp_avg, exp_avg_sq, settings);
        });
        norm
    }
}
