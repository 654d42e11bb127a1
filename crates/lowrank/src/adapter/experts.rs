//! Adapters on the experts of mixtures.
//!
//! A stack `[experts, outputs, inputs]` has one pair for each expert, of one rank. Here these are pairs of ordinary layers;
//! in a file they are one `A`, `[experts·r, inputs]`, the experts' one below the other, and one `B`, `[outputs, r·experts]`,
//! whose columns are in the order of the rank and then of the experts. In adapters of Transformers 4, each expert's layers
//! are modules.
//!
//! # Source
//! PEFT's `lora.ParamWrapper`; its `transformers_weight_conversion`, for adapters of Transformers 4.

use std::borrow::Cow;

use super::config::{LoraConfig, Targets};
use super::layers::Numbered;
use super::matcher::{Matcher, is_suffix};
use super::parameters::Parameters;
use crate::models::{ExpertNames, ModelInfo};
use crate::nn::{Expert, Module, Role, for_each_linear, join};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The router of a mixture, as its module is called.
const ROUTER: &str = "gate";

/// The configuration in which the layers of experts, as Transformers 4 has them, are the stacks of Transformers 5: names of
/// `target_modules` that mean them become `target_parameters`. The two layers that are one stack there need twice the rank,
/// and get it by a pattern.
///
/// `from_4` says that an adapter is there that has layers of experts: then the names mean them in any mixture.
///
/// # Errors
/// If one of these two is a target and the other is not; if a pattern takes too long.
///
/// # Source
/// PEFT's `_convert_peft_config_moe`, but for three things: `layers_to_transform` means the stacks of its layers; a regular
/// expression means the stacks of which it matches an expert's layer, not all of the same last name; and under rslora, the
/// pair of two layers scales as the pairs of both, not by √2 more.
pub(super) fn in_names_of_now<'c>(
    model: &dyn Module,
    info: &ModelInfo,
    config: &'c LoraConfig,
    from_4: bool,
) -> Result<Cow<'c, LoraConfig>> {
    let names = info.experts.filter(|names| names.are_targets || from_4);
    let (Some(names), Some(targets)) = (names, &config.target_modules) else {
        return Ok(Cow::Borrowed(config));
    };
    let mut found = Found::default();
    let mut modules = Vec::new();
    match targets {
        Targets::Names(given) => {
            for name in given {
                match names.stack_of(last(name)) {
                    Some(stack) => found.add(last(name), stack),
                    None if last(name) == ROUTER => found.add(ROUTER, "gate.weight"),
                    None => modules.push(name.clone()),
                }
                // Where PEFT does not take it for that, it means layers that are no experts' as well.
                modules.extend(
                    (!names.are_targets && names.stack_of(last(name)).is_some()).then(|| name.clone()),
                );
            }
        }
        Targets::AllLinear => {
            // Layers that are no mixtures have none of these.
            let parameters = Parameters::of(model);
            for layer in [names.gate, names.up, names.down] {
                let stack = names.stack_of(layer).filter(|stack| parameters.has(stack));
                stack.into_iter().for_each(|stack| found.add(layer, stack));
            }
            if parameters.routers().next().is_some() {
                found.add(ROUTER, "gate.weight");
            }
        }
        Targets::Pattern(_) => {
            let matcher = Matcher::new("target_modules", targets)?;
            let matches = |name: &str| -> Result<bool> {
                let older = info.older_name.map(|older| older(name));
                Ok(matcher.matches(name)? || older.map_or(Ok(false), |older| matcher.matches(&older))?)
            };
            let parameters = Parameters::of(model);
            for stack in parameters.stacks() {
                for layer in names.layers_of(stack.own_name()) {
                    for number in 0..stack.len() {
                        if matches(&format!("{}.{number}.{layer}", stack.module()))? {
                            found.add(layer, &stack.name);
                            break;
                        }
                    }
                }
            }
            for router in parameters.routers() {
                if matches(router.module())? {
                    found.add(ROUTER, &router.name);
                }
            }
        }
    }
    if found.0.is_empty() {
        return Ok(Cow::Borrowed(config));
    }
    found.only_numbered(model, config)?;
    let mut converted = config.clone();
    for (_, new) in &found.0 {
        found.check_whole(&names, new)?;
        let layers = names.layers_of(last(new)).len();
        if layers > 1 {
            double(&mut converted, config, new, layers);
        }
        if !converted.target_parameters.contains(new) {
            converted.target_parameters.push(new.clone());
        }
    }
    if let Targets::Names(_) = targets {
        if modules.is_empty() {
            // There is nothing left that it could number.
            (converted.layers_to_transform, converted.layers_pattern) = (None, Vec::new());
        }
        converted.target_modules = Some(Targets::Names(modules));
    }
    Ok(Cow::Owned(converted))
}

/// Names of layers of experts, each with that of the parameter that it is part of.
#[derive(Default)]
struct Found(Vec<(String, String)>);

impl Found {
    fn add(&mut self, layer: &str, parameter: &str) {
        let both = (layer.to_owned(), parameter.to_owned());
        if !self.0.contains(&both) {
            self.0.push(both);
        }
    }

    /// Under `layers_to_transform`, which PEFT does not apply to parameters, names those of these layers alone.
    fn only_numbered(&mut self, model: &dyn Module, config: &LoraConfig) -> Result<()> {
        let Some(numbered) = Numbered::new(config)? else { return Ok(()) };
        let parameters = Parameters::of(model);
        let all = parameters.stacks().chain(parameters.routers()).map(|own| own.name.as_str());
        let meant: Vec<&str> = all.filter(|name| numbered.means(numbered.number(name))).collect();
        for (layer, parameter) in std::mem::take(&mut self.0) {
            meant.iter().filter(|name| is_suffix(name, &parameter)).for_each(|name| self.add(&layer, name));
        }
        Ok(())
    }

    /// Checks that all layers that a parameter consists of are there.
    fn check_whole(&self, names: &ExpertNames, parameter: &str) -> Result<()> {
        let is_there = |layer: &&str| self.0.iter().any(|(own, other)| own == layer && other == parameter);
        let (there, missing): (Vec<&str>, Vec<&str>) =
            names.layers_of(last(parameter)).into_iter().partition(is_there);
        match (&there[..], &missing[..]) {
            ([given, ..], [missing, ..]) => {
                let reason = format!(
                    "{given:?} goes only with {missing:?}: both are parts of one weight, {}",
                    last(parameter)
                );
                Err(Error::setting("target_modules", reason))
            }
            _ => Ok(()),
        }
    }
}

/// Gives the pair of several layers, which are one, the ranks of all of them, and the scaling that each would have.
fn double(converted: &mut LoraConfig, config: &LoraConfig, parameter: &str, layers: usize) {
    let name = parameter.replace('.', r"\.");
    // PEFT's own pattern, where all of this name are meant.
    let pattern = if parameter.contains('.') { name } else { format!(r".*\.{name}") };
    if converted.rank_pattern.iter().any(|(known, _)| *known == pattern) {
        return;
    }
    let factor = if config.use_rslora { (layers as f64).sqrt() } else { layers as f64 };
    let alpha = config.lora_alpha.unwrap_or(config.r as f64);
    converted.rank_pattern.push((pattern.clone(), layers * config.r));
    converted.alpha_pattern.push((pattern, factor * alpha));
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The parameters that no module's name means: experts, routers, and layers whose names are taken for those of experts.
pub(crate) fn parameters_beside_modules(model: &dyn Module, info: &ModelInfo) -> Vec<String> {
    let parameters = Parameters::of(model);
    let of_mixtures = parameters.stacks().chain(parameters.routers());
    let mut names: Vec<String> = of_mixtures.map(|parameter| parameter.name.clone()).collect();
    for_each_linear(model, |path, linear| {
        if linear.role() == Role::Layer && is_taken_for_an_expert(info, path) {
            names.push(join(path, "weight"));
        }
    });
    names
}

/// Whether a module is one whose name PEFT takes for that of a layer of experts, which it then is not.
pub(super) fn is_taken_for_an_expert(info: &ModelInfo, path: &str) -> bool {
    info.experts.is_some_and(|names| names.are_targets && names.stack_of(last(path)).is_some())
}

/// One of the two matrices of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Factor {
    /// `[r, inputs]`.
    A,
    /// `[outputs, r]`.
    B,
}

impl Factor {
    /// The one that a name below a layer means.
    pub(super) fn of(part: &str) -> Option<Self> {
        match part {
            "lora_A.weight" => Some(Self::A),
            "lora_B.weight" => Some(Self::B),
            _ => None,
        }
    }

    /// The shape of the matrices of all experts, which are as large as this one each.
    pub(super) fn stacked_shape(self, [rows, width]: [usize; 2], experts: usize) -> [usize; 2] {
        match self {
            Self::A => [experts * rows, width],
            Self::B => [rows, width * experts],
        }
    }

    /// The matrices of all experts as a file has them.
    pub(super) fn stack(self, of_experts: &[Tensor]) -> Tensor {
        if self == Self::A {
            return Tensor::join_rows(of_experts);
        }
        let own = of_experts.first().map_or((0, 0), Tensor::rows_and_width);
        let mut stacked = Tensor::zeros(self.stacked_shape(own.into(), of_experts.len()), DType::F32);
        let values = stacked.make_mut::<f32>();
        for (number, from) in of_experts.iter().enumerate() {
            let columns = values.iter_mut().skip(number).step_by(of_experts.len());
            columns.zip(from.as_slice::<f32>()).for_each(|(to, from)| *to = *from);
        }
        stacked
    }

    /// The matrix of one expert among those that a file has.
    pub(super) fn of_expert(self, stacked: &Tensor, Expert { number, of }: Expert) -> Tensor {
        let (rows, width) = stacked.rows_and_width();
        match self {
            Self::A => stacked.rows(number * (rows / of)..(number + 1) * (rows / of)),
            Self::B => {
                let columns = stacked.as_slice::<f32>().iter().skip(number).step_by(of);
                Tensor::from_slice([rows, width / of], &columns.copied().collect::<Vec<f32>>())
            }
        }
    }

    /// The parts of a matrix of such a layer that are of its `count` layers: the reverse of [`Factor::joined`].
    pub(super) fn parts(self, whole: &Tensor, count: usize) -> Vec<Tensor> {
        let (rows, width) = whole.rows_and_width();
        let each = rows / count;
        let part = |number: usize| {
            let own = whole.rows(number * each..(number + 1) * each);
            if self == Self::A {
                return own;
            }
            let columns = width / count;
            let rows = own.as_slice::<f32>().chunks_exact(width.max(1));
            let values: Vec<f32> =
                rows.flat_map(|row| &row[number * columns..(number + 1) * columns]).copied().collect();
            Tensor::from_slice([each, columns], &values)
        };
        (0..count).map(part).collect()
    }

    /// The matrix of a layer that consists of several, from those of their pairs: `A` one below the other, `B` beside and
    /// below each other, with zeros elsewhere.
    pub(super) fn joined(self, parts: &[Tensor]) -> Tensor {
        if self == Self::A {
            return Tensor::join_rows(parts);
        }
        let shapes: Vec<(usize, usize)> = parts.iter().map(Tensor::rows_and_width).collect();
        let rows = shapes.iter().map(|shape| shape.0).sum();
        let width = shapes.iter().map(|shape| shape.1).sum();
        let mut joined = Tensor::zeros([rows, width], DType::F32);
        let mut targets = joined.make_mut::<f32>().chunks_exact_mut(width.max(1));
        let mut column = 0;
        for (part, (_, own)) in parts.iter().zip(shapes) {
            for (row, to) in part.as_slice::<f32>().chunks_exact(own.max(1)).zip(&mut targets) {
                to[column..column + own].copy_from_slice(row);
            }
            column += own;
        }
        joined
    }
}

/// The layer of an expert that a name of Transformers 4 is that of, or of something below it.
pub(super) fn layer_of_expert(name: &str) -> Option<&str> {
    let mut parts = name.split('.').skip_while(|part| *part != "experts").skip(1);
    parts.next()?.parse::<usize>().ok()?;
    parts.next()
}

/// What the layers that one expert's part of a stack consists of are called in files of Transformers 4.
pub(super) fn names_of_4(info: &ModelInfo, stack: &str, number: usize) -> Vec<String> {
    let layers = info.experts.map_or_else(Vec::new, |names| names.layers_of(last(stack)));
    let module = stack.rsplit_once('.').map_or("", |(module, _)| module);
    layers.into_iter().map(|layer| format!("{module}.{number}.{layer}")).collect()
}
