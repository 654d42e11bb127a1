//! Pairs on parameters, in files that are read without the model.

use std::collections::BTreeSet;

use super::config::LoraConfig;
use super::layers::{Adapted, OnParameter, PerLayer, Stacked};
use super::matcher::{Matcher, is_suffix};
use crate::hub::ADAPTER_CONFIG;
use crate::models::MOST_EXPERTS;
use crate::nn::Expert;
use crate::{Error, Result};

/// What PEFT calls the module that a wrapper is around.
const WRAPPED: &str = ".base_layer";

/// The stacks of a module in the order in which PEFT wraps them, the innermost first.
const ORDER: [&str; 2] = ["gate_up_proj", "down_proj"];

/// The module without wrappers, and how many there are around the one that is named.
fn unwrapped(module: &str) -> (&str, usize) {
    let mut inner = module;
    let mut depth = 0;
    while let Some(outer) = inner.strip_suffix(WRAPPED) {
        (inner, depth) = (outer, depth + 1);
    }
    (inner, depth)
}

/// The module below which a file has the pairs of a stack, where the stacks of these names are adapted.
pub(super) fn module_in_file(parameter: &str, adapted: &BTreeSet<&str>) -> String {
    let (module, own) = parameter.rsplit_once('.').unwrap_or(("", parameter));
    let place = |name: &str| ORDER.iter().position(|known| *known == name);
    let further_out = adapted.iter().filter_map(|name| name.strip_prefix(module)?.strip_prefix('.'));
    let further_out = further_out.filter(|other| place(other) > place(own)).count();
    format!("{module}{}", WRAPPED.repeat(further_out))
}

/// The layers that the pair below a module belongs to, `all` of which have pairs: the module itself, or each expert of a
/// stack, as many as the rows of `A` are times the rank.
///
/// # Shapes
/// Of `A` `[experts·r, inputs]` and `B` `[outputs, r·experts]`, if they are there.
///
/// # Errors
/// If only a model could tell which parameter it is on, or the factors are none of experts.
pub(crate) fn layers_of_pair(
    config: &LoraConfig,
    per_layer: &mut PerLayer<'_>,
    module: &str,
    all: &BTreeSet<&str>,
    [a, b]: [Option<&[usize]>; 2],
) -> Result<Vec<Adapted>> {
    let Some(name) = parameter_of(config, module, all)? else {
        return Ok(vec![per_layer.adapted(module, None)?]);
    };
    let own = per_layer.adapted(&name, None)?;
    let on =
        |path: &str, stacked| Adapted::on_parameter(&own, path, OnParameter { name: name.clone(), stacked });
    if name.ends_with(".weight") {
        return Ok(vec![on(module, None)]);
    }
    let refuse = |reason: String| Err(Error::Usage(format!("{module}: {reason}")));
    let r = own.r;
    let rows = match (a, b) {
        (Some(&[rows, inputs]), Some(&[outputs, columns])) if rows == columns && inputs.min(outputs) > 0 => {
            rows
        }
        (None, _) | (_, None) => return refuse("one factor of its pair is missing".to_owned()),
        (Some(a), Some(b)) => {
            let reason = format!(
                "its A is {a:?} and its B {b:?}; those of experts are [experts*r, N] and [M, r*experts]"
            );
            return refuse(reason);
        }
    };
    if rows == 0 || !rows.is_multiple_of(r) {
        let reason = format!(
            "its A has {rows} rows, which is no multiple of the rank {r} of {name} in {ADAPTER_CONFIG}"
        );
        return refuse(reason);
    }
    let of = rows / r;
    if of > MOST_EXPERTS {
        return refuse(format!("its pair would be that of {of} experts; {MOST_EXPERTS} are the most"));
    }
    let layer = |number: usize| {
        let stacked = Stacked { expert: Expert { number, of }, module: module.to_owned() };
        on(&format!("{name}.{number}"), Some(stacked))
    };
    Ok((0..of).map(layer).collect())
}

/// The parameter that the pair below a module is on; none if it is on the module.
fn parameter_of(config: &LoraConfig, module: &str, all: &BTreeSet<&str>) -> Result<Option<String>> {
    if config.target_parameters.is_empty() {
        return Ok(None);
    }
    let (inner, depth) = unwrapped(module);
    let mut named: [BTreeSet<&str>; 2] = Default::default();
    for target in &config.target_parameters {
        let (owner, own) = target.rsplit_once('.').unwrap_or(("", target));
        if owner.is_empty() || is_suffix(inner, owner) {
            named[usize::from(owner.is_empty())].insert(own);
        }
    }
    let [with_module, by_end] = named;
    let is_module = match &config.target_modules {
        Some(targets) => Matcher::new("target_modules", targets)?.matches(inner)?,
        None => false,
    };
    // What a list of modules names is one of them, unless its parameter is named with it.
    if with_module.is_empty() && is_module {
        return Ok(None);
    }
    let wrappers = all.iter().filter(|other| unwrapped(other).0 == inner).count();
    let of_either = with_module.union(&by_end).copied().collect();
    let found = [with_module, of_either].iter().find_map(|own| among(own, wrappers, depth));
    match found {
        Some(own) => Ok(Some(format!("{inner}.{own}"))),
        None => {
            let reason =
                "only the base model's parameters could tell which of target_parameters its pair is on";
            Err(Error::Usage(format!("{module}: {reason}")))
        }
    }
}

/// Which of a module's parameters has the wrapper that is so far inside, where each has one of all.
fn among<'n>(own: &BTreeSet<&'n str>, wrappers: usize, depth: usize) -> Option<&'n str> {
    if own.len() != wrappers {
        return None;
    }
    if wrappers == 1 {
        return own.first().copied();
    }
    let known: Vec<&str> = ORDER.iter().filter_map(|name| own.get(name).copied()).collect();
    let inside_out = known.get(wrappers.checked_sub(1 + depth)?).copied();
    inside_out.filter(|_| known.len() == wrappers)
}
