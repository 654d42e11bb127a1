//! Adapters on parameters: the stacked weights of a mixture's experts, its router, and single weights, by their names.
//!
//! # Source
//! PEFT's `target_parameters` and `lora.ParamWrapper`.

use std::collections::HashSet;

use super::config::{Init, LoraConfig};
use super::layers::{OnParameter, Stacked};
use super::matcher::is_suffix;
use crate::nn::{Expert, Module, Role, for_each_linear, for_each_parameter, join};
use crate::{Error, Result};

const KEY: &str = "target_parameters";

/// The parameters of a model as the reference has them.
pub(super) struct Parameters {
    /// Those that a pair can be put on, in the model's order.
    all: Vec<TargetParameter>,
    /// The others.
    others: Vec<String>,
}

/// A parameter that a pair can be put on.
pub(super) struct TargetParameter {
    /// Its name in the reference.
    pub name: String,
    /// What it consists of here: each expert's layer, or the one layer whose weight it is.
    layers: Vec<(String, Option<Expert>)>,
}

impl TargetParameter {
    /// The module whose parameter it is.
    pub(super) fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(module, _)| module)
    }

    /// What it is called below its module.
    pub(super) fn own_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// How many layers it consists of.
    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether it is the weights of experts.
    pub(super) fn is_stack(&self) -> bool {
        self.layers.iter().any(|(_, expert)| expert.is_some())
    }

    /// Its layers, with where the pair of each is; `adapted` are all that get pairs.
    pub(super) fn layers<'p>(
        &'p self,
        adapted: &[&Self],
    ) -> impl Iterator<Item = (&'p str, OnParameter)> + use<'p> {
        let module = self.module_in_file(adapted);
        self.layers.iter().map(move |(path, expert)| {
            let stacked = expert.map(|expert| Stacked { expert, module: module.clone() });
            (path.as_str(), OnParameter { name: self.name.clone(), stacked })
        })
    }

    fn module_in_file(&self, adapted: &[&Self]) -> String {
        let module = self.module();
        let of_module = adapted.iter().filter(|other| other.module() == module);
        let further_out = of_module.skip_while(|other| other.name != self.name).skip(1).count();
        format!("{module}{}", ".base_layer".repeat(further_out))
    }
}

impl Parameters {
    pub(super) fn of(model: &dyn Module) -> Self {
        let mut all: Vec<TargetParameter> = Vec::new();
        for_each_linear(model, |path, linear| {
            let (name, expert) = match linear.role() {
                Role::Expert(expert) => {
                    (path.rsplit_once('.').map_or(path, |(stack, _)| stack).into(), Some(expert))
                }
                // Of the former, PEFT would take a tensor of four dimensions; of the latter, its rows for its columns.
                _ if linear.is_convolution() || linear.weight.is_transposed() => return,
                _ => (join(path, "weight"), None),
            };
            let layer = (path.to_owned(), expert);
            match all.last_mut().filter(|last| last.name == name) {
                Some(last) => last.layers.push(layer),
                None => all.push(TargetParameter { name, layers: vec![layer] }),
            }
        });
        let layers = all.iter().flat_map(|parameter| &parameter.layers);
        let layers: HashSet<&str> = layers.map(|(path, _)| path.as_str()).collect();
        let mut others = Vec::new();
        for_each_parameter(model, |path, _| {
            if !path.strip_suffix(".weight").is_some_and(|layer| layers.contains(layer)) {
                others.push(path.to_owned());
            }
        });
        Self { all, others }
    }

    /// Those that are the weights of experts.
    pub(super) fn stacks(&self) -> impl Iterator<Item = &TargetParameter> {
        self.all.iter().filter(|parameter| parameter.is_stack())
    }

    /// The weights of routers, which choose among experts.
    pub(super) fn routers(&self) -> impl Iterator<Item = &TargetParameter> {
        let is_beside = |router: &TargetParameter, stack: &TargetParameter| {
            let mixture = stack.module().rsplit_once('.').map_or("", |(mixture, _)| mixture);
            router.name.strip_prefix(mixture) == Some(".gate.weight")
        };
        self.all.iter().filter(move |router| self.stacks().any(|stack| is_beside(router, stack)))
    }

    /// Those that a list means: each entry is a name or the end of one.
    ///
    /// # Errors
    /// If an entry means nothing, or something that no pair can be put on.
    pub(super) fn meant(&self, names: &[String]) -> Result<Vec<&TargetParameter>> {
        for name in names {
            if let Some(other) = self.others.iter().find(|other| is_suffix(other, name)) {
                let reason = format!(
                    "{name:?} means {other}, on which no pair can be put by its name; a layer is named in target_modules"
                );
                return Err(Error::setting(KEY, reason));
            }
            if self.has(name) {
                continue;
            }
            let mut ends: Vec<String> =
                self.all.iter().flat_map(|parameter| ends_of(&parameter.name)).collect();
            ends.sort();
            ends.dedup();
            return Err(Error::unknown("target parameter", name, ends.iter().map(String::as_str)));
        }
        let is_meant =
            |parameter: &&TargetParameter| names.iter().any(|name| is_suffix(&parameter.name, name));
        Ok(self.all.iter().filter(is_meant).collect())
    }

    /// What to write for a module that has no layer, but parameters.
    pub(super) fn instead_of_module(&self, module: &str) -> Option<String> {
        let names = self.all.iter().filter(|parameter| parameter.module() == module);
        let names: Vec<String> = names.filter_map(|parameter| ends_of(&parameter.name).next()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Whether an entry means a parameter.
    pub(super) fn has(&self, name: &str) -> bool {
        self.all.iter().any(|parameter| is_suffix(&parameter.name, name))
    }
}

/// The last two and three parts of a name: what users write.
fn ends_of(name: &str) -> impl Iterator<Item = String> {
    let parts: Vec<&str> = name.split('.').collect();
    let ends = [2, 3].map(|count| parts.len().checked_sub(count).map(|start| parts[start..].join(".")));
    ends.into_iter().flatten()
}

/// Checks that an adapter with `target_parameters` is one that PEFT can load, and that can be made.
///
/// # Errors
/// Names the setting that it cannot have.
pub(crate) fn check(config: &LoraConfig) -> Result<()> {
    let refuse = |key: &str, what: &str| {
        let reason =
            format!("{what} does not go with a pair on a parameter (target_parameters, experts), as in PEFT");
        Err(Error::setting(key, reason))
    };
    if config.target_parameters.is_empty() {
        return Ok(());
    }
    if config.lora_dropout > 0.0 {
        return refuse("lora_dropout", "a dropout other than 0");
    }
    if config.use_dora {
        return refuse("use_dora", "it");
    }
    if config.lora_bias {
        return refuse("lora_bias", "it");
    }
    let is_in_a_layer = |name: &String| name.split('.').any(|part| part.parse::<usize>().is_ok());
    let numbered = config.layers_to_transform.as_ref().is_some_and(|numbers| !numbers.is_empty());
    if let Some(name) = config.target_parameters.iter().find(|name| numbered && !is_in_a_layer(name)) {
        let reason = format!(
            "it numbers the layers of target_modules alone, and {name:?} would be adapted in all; name parameters with \
             their layers, as layers.0.mlp.experts.down_proj"
        );
        return Err(Error::setting("layers_to_transform", reason));
    }
    match &config.init_lora_weights {
        init @ (Init::Eva | Init::Loftq) => {
            refuse("init_lora_weights", &format!("{:?}", init.word().unwrap_or_default()))
        }
        _ => Ok(()),
    }
}
