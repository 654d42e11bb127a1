//! Learning rates of single tensors.

use fancy_regex::Regex;

use crate::nn::{Module, for_each_trained_mut};
use crate::tape::Leaf;
use crate::{Error, Result};

/// How the learning rate of a tensor follows from the run's.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningRates {
    /// The learning rate after the warm-up, which the schedule moves.
    pub learning_rate: f64,
    /// LoRA+: by how much that of `B` and of vectors (biases, norms) is larger; 1: not at all, and nothing below holds
    /// either.
    pub loraplus_lr_ratio: f64,
    /// LoRA+: that of pairs on embeddings, which the schedule moves in the same way.
    pub loraplus_lr_embedding: f64,
    /// Learning rates of modules and what lies inside: a name, its last parts, or a regular expression for these. The
    /// first that matches decides, and goes before LoRA+.
    pub patterns: Vec<(String, f64)>,
}

impl Default for LearningRates {
    fn default() -> Self {
        Self {
            learning_rate: 5e-4,
            loraplus_lr_ratio: 1.0,
            loraplus_lr_embedding: 1e-6,
            patterns: Vec::new(),
        }
    }
}

impl LearningRates {
    /// What the run's learning rate is multiplied by for each tensor that `module` trains, in its order.
    ///
    /// # Errors
    /// If a pattern is no regular expression, or decides nothing.
    ///
    /// # Source
    /// LoRA+ (Hayou et al., arXiv 2402.12354), the groups as in PEFT's `create_loraplus_optimizer`.
    pub(super) fn factors(&self, module: &mut dyn Module) -> Result<Vec<f64>> {
        const KEY: &str = "learning_rate_pattern";
        let compile = |(pattern, rate): &(String, f64)| {
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})(?:\..*)?$"));
            let regex = regex
                .map_err(|e| Error::setting(KEY, format!("{pattern:?} is no regular expression: {e}")))?;
            Ok((regex, *rate))
        };
        let patterns: Vec<(Regex, f64)> = self.patterns.iter().map(compile).collect::<Result<_>>()?;
        let mut used = vec![false; patterns.len()];
        let (mut factors, mut result) = (Vec::new(), Ok(()));
        for_each_trained_mut(module, |name, leaf| {
            let mut factor = self.loraplus(name, leaf);
            for ((pattern, rate), used) in patterns.iter().zip(&mut used) {
                match pattern.is_match(name) {
                    Ok(false) => continue,
                    Ok(true) => (factor, *used) = (rate / self.learning_rate, true),
                    Err(e) => {
                        let reason = format!("the pattern cannot be matched with {name}: {e}");
                        result = Err(Error::setting(KEY, reason));
                    }
                }
                break;
            }
            factors.push(factor);
        });
        result?;
        match used.iter().position(|used| !used) {
            None => Ok(factors),
            Some(unused) => {
                let pattern = &self.patterns[unused].0;
                let reason = format!(
                    "{pattern:?} means nothing that is trained, or nothing that an earlier pattern has not decided"
                );
                Err(Error::setting(KEY, reason))
            }
        }
    }

    fn loraplus(&self, name: &str, leaf: &Leaf) -> f64 {
        if self.loraplus_lr_ratio == 1.0 {
            1.0
        } else if name.contains("lora_embedding_") {
            self.loraplus_lr_embedding / self.learning_rate
        } else if name.contains("lora_B") || leaf.value().shape().rank() == 1 {
            self.loraplus_lr_ratio
        } else {
            1.0
        }
    }
}
