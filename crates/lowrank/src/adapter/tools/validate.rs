//! Whether an adapter is what its configuration says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::folder::{AdapterFolder, AdapterLayer};
use crate::adapter::config::{Bias, Targets, TokenIndices};
use crate::adapter::file::PREFIX;
use crate::adapter::layers::Numbered;
use crate::adapter::matcher::{Matcher, is_saved, is_suffix, is_within};
use crate::adapter::parameters;
use crate::adapter::peft_config::NEEDS_BASE;
use crate::hub::to_tensor;
use crate::tape::is_finite;
use crate::text::printable;
use crate::{Error, Result};

/// Heads that PEFT names in every configuration of a classifier, whether the model has them or not.
const HEADS: [&str; 2] = ["classifier", "score"];
/// The parts of the keys of the copies that PEFT writes.
const COPIES: [&str; 2] = [".modules_to_save.", ".original_module."];

/// The ending of the keys of single rows of a table.
const ROWS: &str = ".token_adapter.trainable_tokens_delta";

/// What was found out of an adapter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Validation {
    /// The adapter, as it was named.
    pub adapter: PathBuf,
    /// How many layers it adds a product to.
    pub layers: usize,
    /// How many other tensors it has.
    pub others: usize,
    /// What is wrong, a sentence each.
    pub findings: Vec<String>,
}

/// Checks an adapter, a folder or a Hub id: that every pair is complete and of the rank that the configuration says, all
/// values are finite, and whatever the configuration names is there and nothing else.
///
/// Unlike all else here it does not stop at what is wrong, but lists it.
pub fn validate(adapter: &str) -> Validation {
    let mut validation = Validation { adapter: adapter.into(), ..Validation::default() };
    match AdapterFolder::open(adapter) {
        Ok(folder) => {
            validation.layers = folder.layers().len();
            validation.others = folder.others().count();
            let mut findings = folder.unused_patterns.iter().map(Error::to_string).collect();
            check_pairs(&folder, &mut findings);
            check_experts(&folder, &mut findings);
            if let Err(error) = check_targets(&folder, &mut findings) {
                findings.push(error.to_string());
            }
            check_others(&folder, &mut findings);
            check_tokens(&folder, &mut findings);
            // What is wrong with a tensor of several layers is so once.
            let mut told = BTreeSet::new();
            findings.retain(|finding: &String| told.insert(finding.clone()));
            validation.findings = findings;
        }
        Err(error) => validation.findings.push(error.to_string()),
    }
    validation
}

fn check_pairs(folder: &AdapterFolder, findings: &mut Vec<String>) {
    if folder.layers().is_empty() {
        findings.push("it has no pairs lora_A and lora_B".to_owned());
    }
    for layer in folder.layers() {
        let checked = folder.product(layer).and_then(|product| {
            product.a().values()?;
            product.b().values().map(drop)
        });
        findings.extend(checked.err().map(|error| error.to_string()));
        findings.extend(folder.check_magnitude(layer).err().map(|error| error.to_string()));
        let bias = folder.bias(layer);
        match bias {
            Ok(Some(values)) if !values.iter().all(|value| value.is_finite()) => {
                let [_, _, key] = layer.keys();
                findings.push(folder.error(&key, "it holds a value that is not finite").to_string());
            }
            Err(error) => findings.push(error.to_string()),
            Ok(_) => {}
        }
    }
}

/// All stacks of one layer are of as many experts: how many, each pair's factors and its rank say.
fn check_experts(folder: &AdapterFolder, findings: &mut Vec<String>) {
    let mut by_module: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
    for layer in folder.layers().iter().filter(|layer| layer.expert().is_some_and(|own| own.number == 0)) {
        let (module, stack) = layer.adapted.name().rsplit_once('.').unwrap_or(("", layer.adapted.name()));
        by_module.entry(module).or_default().extend(layer.expert().map(|own| (stack, own.of)));
    }
    for (module, stacks) in by_module {
        let (first, count) = stacks[0];
        findings.extend(stacks.iter().filter(|(_, other)| *other != count).map(|(stack, other)| {
            format!(
                "{module}: the pair of {first} is that of {count} experts, but that of {stack} of {other}"
            )
        }));
    }
}

/// Every name of the configuration means a pair, and every pair is meant.
fn check_targets(folder: &AdapterFolder, findings: &mut Vec<String>) -> Result<()> {
    let config = folder.config();
    let modules = folder.layers().iter().filter(|layer| layer.adapted.parameter.is_none());
    let names = || modules.clone().map(AdapterLayer::name);
    let on_parameters = || folder.layers().iter().filter_map(|layer| layer.adapted.parameter.as_ref());
    if let Err(error) = parameters::check(config) {
        findings.push(error.to_string());
    }
    for target in &config.target_parameters {
        if !on_parameters().any(|parameter| is_suffix(&parameter.name, target)) {
            findings.push(format!("target_parameters: {target:?} names no parameter that has a pair"));
        }
    }
    let names_of_parameters: BTreeSet<&str> =
        on_parameters().map(|parameter| parameter.name.as_str()).collect();
    for name in names_of_parameters {
        if config.modules_to_save.iter().any(|saved| is_within(name, saved)) {
            findings.push(format!("{name}: it has a pair, but modules_to_save means it"));
        }
    }
    let targets =
        config.target_modules.as_ref().map(|targets| Matcher::new("target_modules", targets)).transpose()?;
    let excluded = config
        .exclude_modules
        .as_ref()
        .map(|targets| Matcher::new("exclude_modules", targets))
        .transpose()?;
    if let Some(Targets::Names(targets)) = &config.target_modules {
        for target in targets.iter().filter(|target| !names().any(|name| is_suffix(name, target))) {
            // PEFT lists what it found, and excludes some of it again.
            let is_excluded = excluded.as_ref().map_or(Ok(false), |matcher| matcher.matches(target))?;
            if !is_excluded && !config.modules_to_save.iter().any(|saved| is_within(target, saved)) {
                findings.push(format!("target_modules: {target:?} names no layer that has a pair"));
            }
        }
    }
    let numbered = Numbered::new(config)?;
    for name in names() {
        if targets.as_ref().map_or(Ok(false), |matcher| Ok::<_, Error>(!matcher.matches(name)?))? {
            findings.push(format!("{name}: it has a pair, but target_modules does not mean it"));
        }
        if excluded.as_ref().map_or(Ok(false), |matcher| matcher.matches(name))? {
            findings.push(format!("{name}: it has a pair, but exclude_modules means it"));
        }
        let in_full = matches!(&config.target_modules, Some(Targets::Names(all)) if all.iter().any(|full| full == name));
        if numbered.as_ref().is_some_and(|numbered| !in_full && !numbered.means(numbered.number(name))) {
            findings.push(format!("{name}: it has a pair, but layers_to_transform does not mean its layer"));
        }
        if config.modules_to_save.iter().any(|saved| is_within(name, saved)) {
            findings.push(format!("{name}: it has a pair, but modules_to_save means it"));
        }
    }
    Ok(())
}

/// Every module to save is there, and every tensor beside the pairs is meant.
fn check_others(folder: &AdapterFolder, findings: &mut Vec<String>) {
    let config = folder.config();
    let mut found = BTreeSet::new();
    for (key, view) in folder.others() {
        if !to_tensor(key, &view).is_ok_and(|tensor| is_finite(&tensor)) {
            findings.push(
                folder
                    .error(key, "it holds a value that is not finite, or that is no f32, bf16 or f16")
                    .to_string(),
            );
        }
        let is_rows = key.ends_with(ROWS) && config.trainable_token_indices.is_some();
        if is_rows || folder.layer_of_magnitude(key).is_some() {
            continue;
        }
        let Some(path) = key.strip_prefix(PREFIX) else {
            findings.push(folder.error(key, format!("its key does not begin with {PREFIX}")).to_string());
            continue;
        };
        let saved = config
            .modules_to_save
            .iter()
            .filter(|name| path.rsplit_once('.').is_some_and(|(module, _)| is_saved(module, name)));
        let saved: Vec<&str> = saved.map(String::as_str).collect();
        let is_bias = path.ends_with(".bias") && config.bias != Bias::None;
        let is_copy = COPIES.iter().any(|part| path.contains(part));
        let is_base =
            path.strip_suffix(".base_layer.weight").is_some_and(|name| folder.layer(name).is_some());
        if saved.is_empty() && !is_bias && !is_copy && !is_base {
            findings.push(folder.error(key, "neither modules_to_save nor bias means it").to_string());
        }
        found.extend(saved);
    }
    for name in &config.modules_to_save {
        if !found.contains(name.as_str()) && !HEADS.contains(&name.as_str()) {
            findings.push(format!("modules_to_save: {name:?} names no tensor of the file"));
        }
    }
}

/// Of each table of `trainable_token_indices` there are as many rows as entries, each of which is named once.
fn check_tokens(folder: &AdapterFolder, findings: &mut Vec<String>) {
    let rows: Vec<(&str, usize)> = folder
        .others()
        .filter_map(|(key, view)| Some((key.strip_suffix(ROWS)?, view.shape.first().copied().unwrap_or(0))))
        .collect();
    let of_table = |name: &str| {
        rows.iter().find(|(key, _)| is_suffix(key.strip_prefix(PREFIX).unwrap_or(key), name)).copied()
    };
    let mut check = |name: &str, found: Option<(&str, usize)>, indices: &[u32]| {
        let count = indices.len();
        match found {
            None => findings.push(format!("trainable_token_indices: {name} has no {}", &ROWS[1..])),
            Some((key, rows)) if rows != count => {
                let reason = format!("it has {rows} rows, where trainable_token_indices has {count} entries");
                findings.push(folder.error(&format!("{key}{ROWS}"), reason).to_string());
            }
            Some(_) => {}
        }
        if let Some((_, twice)) =
            indices.iter().enumerate().find(|(at, index)| indices[..*at].contains(index))
        {
            findings.push(format!("trainable_token_indices: {twice} is there twice"));
        }
    };
    match &folder.config().trainable_token_indices {
        None => {}
        Some(TokenIndices::OfInput(indices)) => check("the input's table", rows.first().copied(), indices),
        Some(TokenIndices::OfTables(tables)) => {
            tables.iter().for_each(|(name, indices)| check(name, of_table(name), indices));
        }
    }
}

impl Validation {
    /// Takes back what only the weights of the base model could tell, because they did.
    pub fn settle(&mut self) {
        self.findings.retain(|finding| !finding.contains(NEEDS_BASE));
    }

    /// Adds what is wrong beside a model, if it is not known yet.
    pub fn add(&mut self, finding: String) {
        if !self.findings.iter().any(|known| finding.contains(known.as_str())) {
            self.findings.push(finding);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_valid(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            // What comes from a file may hold what a terminal obeys.
            writeln!(f, "{}", printable(finding))?;
        }
        let verdict = match self.findings.len() {
            0 => "OK".to_owned(),
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        };
        write!(f, "{verdict}: {} layers, {} other tensors", self.layers, self.others)
    }
}
