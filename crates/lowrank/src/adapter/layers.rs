//! What a configuration says of single layers: their rank and alpha by pattern, and which are meant by number.

use std::collections::HashMap;

use fancy_regex::Regex;

use super::config::LoraConfig;
use super::matcher::regex;
use crate::nn::Expert;
use crate::{Error, Result};

/// A layer that gets a low-rank pair, and what the configuration gives this one.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapted {
    /// Its name in the model.
    pub path: String,
    /// The rank of its pair.
    pub r: usize,
    /// The numerator of its scaling; absent: `r`.
    pub lora_alpha: Option<f64>,
    /// What multiplies `B·A·x`.
    pub scaling: f32,
    /// Whether its pair has a bias.
    pub lora_bias: bool,
    /// Whether it has a magnitude of its own.
    pub use_dora: bool,
    /// The parameter that the pair is on, where `target_parameters` named it; else it is on a module.
    pub parameter: Option<OnParameter>,
}

/// A parameter with a pair: PEFT's `lora.ParamWrapper`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnParameter {
    /// Its name in the reference.
    pub name: String,
    /// Where a file has the pair, if it is that of an expert.
    pub stacked: Option<Stacked>,
}

/// Where a file has the pair of an expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stacked {
    /// Which expert it is.
    pub expert: Expert,
    /// The module below which the tensors of all experts are: PEFT wraps the one that holds the stacks once for each of
    /// them that is adapted, the last of them outermost.
    pub module: String,
}

impl Adapted {
    /// The layer of this name among others.
    pub fn find<'a>(layers: &'a [Self], path: &str) -> Option<&'a Self> {
        layers.iter().find(|layer| layer.path == path)
    }

    /// A layer that is what a parameter consists of, or a part of that, and gets what patterns give the parameter.
    pub(super) fn on_parameter(of_parameter: &Self, path: &str, parameter: OnParameter) -> Self {
        Self { path: path.to_owned(), parameter: Some(parameter), ..of_parameter.clone() }
    }

    /// The name that a configuration means it by: that of the module, or of the parameter.
    pub fn name(&self) -> &str {
        self.parameter.as_ref().map_or(&self.path, |parameter| &parameter.name)
    }

    /// Where a file has its pair, if it is that of an expert.
    pub fn stacked(&self) -> Option<&Stacked> {
        self.parameter.as_ref()?.stacked.as_ref()
    }

    /// Where each is, by its name.
    pub(super) fn places(layers: &[Self]) -> HashMap<String, usize> {
        layers.iter().enumerate().map(|(place, layer)| (layer.path.clone(), place)).collect()
    }

    /// Their names.
    pub fn paths(layers: &[Self]) -> impl Iterator<Item = &str> {
        layers.iter().map(|layer| layer.path.as_str())
    }
}

/// Values for layers whose names match patterns; the first pattern that does decides.
///
/// # Source
/// PEFT's `get_pattern_key`: a pattern means a name, or its last parts.
pub(super) struct ByPattern<T> {
    key: &'static str,
    patterns: Vec<(Regex, T)>,
    used: Vec<bool>,
}

impl<T: Copy> ByPattern<T> {
    pub(super) fn new(key: &'static str, patterns: &[(String, T)]) -> Result<Self> {
        let compile = |(pattern, value): &(String, T)| {
            Ok((regex(key, &format!(r"(?:.*\.)?(?:{pattern})"), pattern)?, *value))
        };
        let used = vec![false; patterns.len()];
        Ok(Self { key, patterns: patterns.iter().map(compile).collect::<Result<_>>()?, used })
    }

    /// The value for a layer of these names.
    pub(super) fn get(&mut self, names: &[&str]) -> Result<Option<T>> {
        for ((pattern, value), used) in self.patterns.iter().zip(&mut self.used) {
            for name in names {
                let matches = pattern.is_match(name).map_err(|e| {
                    Error::setting(self.key, format!("the pattern cannot be matched with {name}: {e}"))
                })?;
                if matches {
                    *used = true;
                    return Ok(Some(*value));
                }
            }
        }
        Ok(None)
    }

    /// The places of the patterns that decided nothing.
    fn unused(&self) -> impl Iterator<Item = usize> {
        self.used.iter().enumerate().filter(|(_, used)| !**used).map(|(place, _)| place)
    }
}

/// What a configuration gives single layers.
pub(crate) struct PerLayer<'c> {
    config: &'c LoraConfig,
    ranks: ByPattern<usize>,
    alphas: ByPattern<f64>,
}

impl<'c> PerLayer<'c> {
    pub(crate) fn new(config: &'c LoraConfig) -> Result<Self> {
        let ranks = ByPattern::new("rank_pattern", &config.rank_pattern)?;
        Ok(Self { config, ranks, alphas: ByPattern::new("alpha_pattern", &config.alpha_pattern)? })
    }

    /// The layer at `path`, which may have had another name in older versions of Transformers.
    pub(super) fn adapted(&mut self, path: &str, older: Option<&str>) -> Result<Adapted> {
        let names: Vec<&str> = [path].into_iter().chain(older).collect();
        let r = self.ranks.get(&names)?.unwrap_or(self.config.r);
        let lora_alpha = self.alphas.get(&names)?.or(self.config.lora_alpha);
        let scaling = self.config.scaling(r, lora_alpha);
        let LoraConfig { lora_bias, use_dora, .. } = *self.config;
        Ok(Adapted { path: path.to_owned(), r, lora_alpha, scaling, lora_bias, use_dora, parameter: None })
    }

    /// What is wrong with each pattern that decided nothing.
    pub(super) fn unused(&self) -> impl Iterator<Item = Error> {
        let ranks = self.ranks.unused().map(|at| self.unused_rank(at));
        ranks.chain(self.alphas.unused().map(|at| self.unused_alpha(at)))
    }

    fn unused_rank(&self, at: usize) -> Error {
        unused("rank_pattern", &self.config.rank_pattern[at].0)
    }

    fn unused_alpha(&self, at: usize) -> Error {
        unused("alpha_pattern", &self.config.alpha_pattern[at].0)
    }

    /// Checks that every pattern of a configuration decided something; this one's may be more, which come after those.
    pub(super) fn check_used(&self, given: &LoraConfig) -> Result<()> {
        let ranks = self.ranks.unused().filter(|at| *at < given.rank_pattern.len());
        let alphas = self.alphas.unused().filter(|at| *at < given.alpha_pattern.len());
        let mut unused = ranks.map(|at| self.unused_rank(at)).chain(alphas.map(|at| self.unused_alpha(at)));
        unused.next().map_or(Ok(()), Err)
    }
}

fn unused(key: &str, pattern: &str) -> Error {
    let reason = "means no layer that is adapted, or none that an earlier pattern has not decided; it must match the \
                  end of a layer's name, as query and layer.1.*query do";
    Error::setting(key, format!("{pattern:?} {reason}"))
}

/// The layers of `layers_to_transform`.
pub(super) struct Numbered<'c> {
    numbers: &'c [usize],
    /// The number that follows the name of a list of layers.
    patterns: Vec<Regex>,
}

impl<'c> Numbered<'c> {
    /// None where all layers are meant.
    pub(super) fn new(config: &'c LoraConfig) -> Result<Option<Self>> {
        let numbers = match config.layers_to_transform.as_deref() {
            None | Some([]) => return Ok(None),
            Some(numbers) => numbers,
        };
        let any = [r"[^.]*".to_owned()];
        let lists = if config.layers_pattern.is_empty() { &any[..] } else { &config.layers_pattern };
        let start = if config.layers_pattern.is_empty() { r".*?\." } else { r"(?:|.*?\.)" };
        let compile = |list: &String| regex("layers_pattern", &format!(r"{start}{list}\.(\d+)\..*"), list);
        Ok(Some(Self { numbers, patterns: lists.iter().map(compile).collect::<Result<_>>()? }))
    }

    /// The number of the layer that the module at `path` is in.
    ///
    /// # Source
    /// PEFT's `check_target_module_exists`: the first number after the name of the list that matches first.
    pub(super) fn number(&self, path: &str) -> Option<usize> {
        self.patterns
            .iter()
            .find_map(|pattern| pattern.captures(path).ok().flatten())
            .and_then(|found| found.get(1)?.as_str().parse().ok())
    }

    pub(super) fn means(&self, number: Option<usize>) -> bool {
        number.is_some_and(|number| self.numbers.contains(&number))
    }

    /// Checks that each number is one of those that matched modules are in.
    pub(super) fn check(&self, found: &[usize]) -> Result<()> {
        let Some(unknown) = self.numbers.iter().find(|number| !found.contains(number)) else { return Ok(()) };
        let reason = match found.iter().min().zip(found.iter().max()) {
            None => "none of target_modules is in a numbered layer".to_owned(),
            Some((first, last)) => {
                format!("layer {unknown} has none of target_modules; the layers are {first} to {last}")
            }
        };
        Err(Error::setting("layers_to_transform", reason))
    }
}
