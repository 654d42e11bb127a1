//! Counting parameters as PEFT does.

use std::fmt;

use super::attach::Plan;
use super::matcher::is_saved;
use crate::nn::{Module, for_each_embedding, for_each_linear, for_each_parameter};

/// How many parameters there are, and how many are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterCount {
    /// Those that are trained.
    pub trainable: u64,
    /// All of them: the base model with its own head, the low-rank pairs, and the copies of modules to save.
    pub all: u64,
}

impl ParameterCount {
    /// Counts a model as it is: nothing is trained.
    pub fn of_base(model: &dyn Module) -> Self {
        let mut all = 0;
        for_each_parameter(model, |_, parameter| {
            // A tied parameter is another one's second name.
            if parameter.tie().is_none() {
                all += parameter.shape().elements() as u64;
            }
        });
        Self { trainable: 0, all }
    }

    /// Counts a model with an adapter; shapes are enough.
    ///
    /// # Source
    /// PEFT's `get_nb_trainable_parameters`: a module to save counts twice, a bias that is trained in its place once.
    pub fn with_adapter(model: &dyn Module, plan: &Plan) -> Self {
        let mut count = Self::of_base(model);
        let mut pairs = 0;
        for_each_linear(model, |path, linear| {
            if let Some(layer) = plan.linear(path) {
                let vectors = usize::from(layer.lora_bias) + usize::from(layer.use_dora);
                let (inputs, outputs) = (linear.inputs(), linear.outputs());
                let of_output = layer.r / linear.groups() + vectors;
                pairs += (layer.r * inputs + of_output * outputs) as u64;
            }
        });
        for_each_embedding(model, |path, embedding| {
            if let Some(layer) = plan.embedding(path) {
                let vectors = usize::from(layer.use_dora);
                let width = embedding.width();
                pairs += (layer.r * (embedding.entries() + width) + vectors * width) as u64;
            }
        });
        pairs += plan.tokens.iter().map(|tokens| (tokens.indices.len() * tokens.width) as u64).sum::<u64>();
        count.trainable += pairs;
        count.all += pairs;
        for_each_parameter(model, |path, parameter| {
            if plan.replaced.iter().any(|name| name == path) {
                let elements = parameter.shape().elements() as u64;
                count.trainable += elements;
                let module = path.rsplit_once('.').map_or("", |(module, _)| module);
                if plan.modules_to_save.iter().any(|name| is_saved(module, name)) {
                    count.all += elements;
                }
            }
        });
        count
    }
}

impl fmt::Display for ParameterCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.trainable as f64 / self.all.max(1) as f64;
        let (trainable, all) = (Grouped(self.trainable), Grouped(self.all));
        write!(f, "trainable params: {trainable} || all params: {all} || trainable%: {percent:.4}")
    }
}

/// A number with a comma before every three digits.
pub struct Grouped(pub u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_pefts() {
        let count = ParameterCount { trainable: 887_042, all: 125_534_212 };
        assert_eq!(
            count.to_string(),
            "trainable params: 887,042 || all params: 125,534,212 || trainable%: 0.7066"
        );
    }
}
