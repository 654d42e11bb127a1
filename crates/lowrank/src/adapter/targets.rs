//! Which modules and parameters a configuration means.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{LoraConfig, Targets};
use super::experts::{in_names_of_now, is_taken_for_an_expert};
use super::layers::{Adapted, Numbered, PerLayer};
use super::matcher::{Matcher, is_saved, is_suffix, is_within};
use super::parameters::{self, Parameters};
use crate::models::ModelInfo;
use crate::nn::{Module, ModuleKind, for_each_linear, for_each_module, for_each_parameter};
use crate::{Error, Result};

/// The modules that are trained whole, each once: those of the configuration, the head, and what the flags add.
pub(super) fn modules_to_save(config: &LoraConfig, info: &ModelInfo) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| {
        for name in more {
            if !names.iter().any(|known| is_within(name, known) || is_saved(name, known)) {
                names.push((*name).to_owned());
            }
        }
    };
    // PEFT's own files name a head twice that was asked for and is added as well.
    add(&config.modules_to_save.iter().map(String::as_str).collect::<Vec<_>>());
    add(&info.head);
    if config.train_layer_norms {
        add(info.layer_norms);
    }
    if config.train_embeddings {
        add(info.embeddings);
    }
    names
}

/// A module of a model, the model itself left out.
struct Place {
    path: String,
    /// Its name in older versions of Transformers, where that was another.
    older: Option<String>,
    kind: ModuleKind,
}

impl Place {
    fn matches(&self, matcher: &Matcher) -> Result<bool> {
        Ok(matcher.matches(&self.path)?
            || self.older.as_ref().map_or(Ok(false), |older| matcher.matches(older))?)
    }

    fn is_named_in_full(&self, targets: &Targets) -> bool {
        let is = |name: &String| *name == self.path || self.older.as_ref() == Some(name);
        matches!(targets, Targets::Names(names) if names.iter().any(is))
    }

    fn is_called(&self, name: &str) -> bool {
        is_suffix(&self.path, name) || self.older.as_ref().is_some_and(|older| is_suffix(older, name))
    }
}

fn places(model: &dyn Module, info: &ModelInfo) -> Vec<Place> {
    let mut places = Vec::new();
    for_each_module(model, |path, kind| {
        let is_layer = matches!(kind, ModuleKind::Linear | ModuleKind::Convolution);
        if is_layer || !path.is_empty() {
            let older = info.older_name.map(|older| older(path)).filter(|older| older != path);
            places.push(Place { path: path.to_owned(), older, kind });
        }
    });
    places
}

/// The modules that a configuration adapts, in the model's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targeted {
    /// The linear layers, experts among them, and the convolutions.
    pub linears: Vec<Adapted>,
    /// The embeddings.
    pub embeddings: Vec<Adapted>,
}

impl Targeted {
    /// The names of all of them, those of the linear layers first.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        Adapted::paths(&self.linears).chain(Adapted::paths(&self.embeddings))
    }

    /// The names of those that `target_modules` means.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        let on_modules = self.linears.iter().filter(|layer| layer.parameter.is_none());
        on_modules.map(|layer| layer.path.as_str()).chain(Adapted::paths(&self.embeddings))
    }
}

/// How strictly a configuration is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    /// Of a person: what means nothing is an error.
    Fresh,
    /// Of a file: PEFT passes over patterns and numbers that mean nothing.
    Written,
}

/// The linear layers, convolutions and embeddings that a configuration adapts; `all-linear` means neither of the latter
/// two.
///
/// # Errors
/// If a name of a list matches nothing (the nearest are named), a pattern matches no layer that can be adapted,
/// something else is matched, a layer is meant both as a module and by its weight, or all that matches is excluded or
/// trained whole.
///
/// # Source
/// PEFT's `inject_adapter`: every module is matched, what is excluded or trained whole is passed over, and a module
/// that cannot be adapted is an error. `layers_to_transform` passes over no module that is named in full, and neither it
/// nor `exclude_modules` means parameters.
pub fn target_modules(model: &dyn Module, info: &ModelInfo, config: &LoraConfig) -> Result<Targeted> {
    targeted(model, info, config, Strictness::Written)
}

/// As [`target_modules`], strict or not.
pub(super) fn targeted(
    model: &dyn Module,
    info: &ModelInfo,
    given: &LoraConfig,
    strictness: Strictness,
) -> Result<Targeted> {
    let config = &*in_names_of_now(model, info, given, false)?;
    if strictness == Strictness::Fresh {
        parameters::check(config)?;
    }
    let usual = if config.target_parameters.is_empty() { info.default_targets } else { &[] };
    let usual = Targets::Names(usual.iter().map(|name| (*name).to_owned()).collect());
    let targets = config.target_modules.as_ref().unwrap_or(&usual);
    let excluded = config
        .exclude_modules
        .as_ref()
        .map(|targets| Matcher::new("exclude_modules", targets))
        .transpose()?;
    let places = places(model, info);
    let chosen = Chosen { model, info, config, targets, excluded, places: &places };
    if let Targets::Names(names) = targets {
        names.iter().try_for_each(|name| chosen.check_name(name))?;
    }
    let (mut per_layer, numbered) = (PerLayer::new(config)?, Numbered::new(config)?);
    let (mut targeted, left_out) = chosen.modules(&mut per_layer, numbered.as_ref(), strictness)?;
    if !config.target_parameters.is_empty() {
        chosen.add_parameters(&mut targeted, &mut per_layer, strictness)?;
    }
    if strictness == Strictness::Fresh {
        per_layer.check_used(given)?;
    }
    match (targets, left_out) {
        _ if targeted != Targeted::default() => Ok(targeted),
        (_, true) => {
            let reason = "every layer that they match is in exclude_modules or modules_to_save";
            Err(Error::setting("target_modules", reason))
        }
        (Targets::Pattern(pattern), _) => {
            let linear = places.iter().find(|place| place.kind == ModuleKind::Linear);
            let example = linear.map_or("", |place| place.path.as_str());
            let reason = format!(
                "{pattern:?} matches no linear layer or embedding in full; a layer's name is, for example, {example:?}"
            );
            Err(Error::setting("target_modules", reason))
        }
        _ => Err(Error::setting("target_modules", "they match no linear layer and no embedding")),
    }
}

/// A configuration beside the model that it is for.
struct Chosen<'a> {
    model: &'a dyn Module,
    info: &'a ModelInfo,
    config: &'a LoraConfig,
    targets: &'a Targets,
    excluded: Option<Matcher>,
    places: &'a [Place],
}

impl Chosen<'_> {
    /// What `target_modules` means, and whether anything of that is left out.
    fn modules(
        &self,
        per_layer: &mut PerLayer<'_>,
        numbered: Option<&Numbered<'_>>,
        strictness: Strictness,
    ) -> Result<(Targeted, bool)> {
        let Self { info, targets, places, .. } = *self;
        let matcher = Matcher::new("target_modules", targets)?;
        let saved = modules_to_save(self.config, info);
        let mut numbers = Vec::new();
        let (mut kept, mut other, mut left_out) = (Targeted::default(), None, false);
        for place in places {
            let Place { path, kind, .. } = place;
            let passed_over = *kind != ModuleKind::Linear || info.output == Some(path);
            if (*targets == Targets::AllLinear && passed_over)
                || is_taken_for_an_expert(info, path)
                || !place.matches(&matcher)?
            {
                continue;
            }
            if self.is_excluded(place)? || saved.iter().any(|name| is_within(path, name)) {
                left_out = true;
                continue;
            }
            if let Some(numbered) = numbered.filter(|_| !place.is_named_in_full(targets)) {
                let number = numbered.number(path);
                numbers.extend(number);
                if !numbered.means(number) {
                    continue;
                }
            }
            let mut adapted = || per_layer.adapted(path, place.older.as_deref());
            match kind {
                ModuleKind::Linear | ModuleKind::Convolution => kept.linears.push(adapted()?),
                ModuleKind::Embedding => kept.embeddings.push(adapted()?),
                ModuleKind::Table | ModuleKind::Other => other = other.or(Some(place)),
            }
        }
        if let Some(place) = other {
            return Err(self.not_adaptable(place, &kept));
        }
        if strictness == Strictness::Fresh {
            numbered.map_or(Ok(()), |numbered| numbered.check(&numbers))?;
        }
        Ok((kept, left_out))
    }

    fn is_excluded(&self, place: &Place) -> Result<bool> {
        self.excluded.as_ref().map_or(Ok(false), |matcher| place.matches(matcher))
    }

    /// Adds what `target_parameters` means, in the model's order.
    fn add_parameters(
        &self,
        targeted: &mut Targeted,
        per_layer: &mut PerLayer<'_>,
        strictness: Strictness,
    ) -> Result<()> {
        const KEY: &str = "target_parameters";
        let parameters = Parameters::of(self.model);
        let meant = parameters.meant(&self.config.target_parameters)?;
        let modules: BTreeSet<String> = targeted.modules().map(str::to_owned).collect();
        let saved = modules_to_save(self.config, self.info);
        for parameter in &meant {
            let (name, module) = (&parameter.name, parameter.module());
            if modules.contains(module) {
                let reason = format!(
                    "{name} is the weight of a layer that target_modules means; leave one of them out"
                );
                return Err(Error::setting(KEY, reason));
            }
            if let Some(saved) = saved.iter().find(|saved| is_within(module, saved)) {
                let reason = format!("{name} is trained whole, as part of {saved}; leave one of them out");
                return Err(Error::setting(KEY, reason));
            }
            let place = self.places.iter().find(|place| place.path == module);
            let excluded = match &self.excluded {
                Some(matcher) if strictness == Strictness::Fresh => {
                    matcher.matches(name)? || place.map_or(Ok(false), |place| place.matches(matcher))?
                }
                _ => false,
            };
            if excluded {
                let reason = format!(
                    "it leaves modules out, and {name} is a parameter, which target_parameters or the name of a layer of \
                     experts means"
                );
                return Err(Error::setting("exclude_modules", reason));
            }
            let older = self.info.older_name.map(|older| older(name)).filter(|older| older != name);
            let own = per_layer.adapted(name, older.as_deref())?;
            let layers = parameter.layers(&meant).map(|(path, on)| Adapted::on_parameter(&own, path, on));
            targeted.linears.extend(layers);
        }
        let mut order = BTreeMap::new();
        for_each_linear(self.model, |path, _| {
            order.insert(path.to_owned(), order.len());
        });
        targeted.linears.sort_by_key(|layer| order.get(&layer.path).copied());
        Ok(())
    }

    /// A name of the list must mean a module.
    fn check_name(&self, name: &str) -> Result<()> {
        if self.places.iter().any(|place| place.is_called(name)) {
            return Ok(());
        }
        if Parameters::of(self.model).has(name) {
            let reason = format!("{name:?} is no module, but a parameter: name it in target_parameters");
            return Err(Error::setting("target_modules", reason));
        }
        let linears = self.places.iter().filter(|place| place.kind == ModuleKind::Linear);
        let linears: Vec<String> = linears.map(|place| place.path.clone()).collect();
        Err(Error::unknown("target module", name, last_parts(&linears).iter().map(String::as_str)))
    }

    /// The error of a target that cannot be adapted, and what to write instead. `kept` are the others that are matched.
    fn not_adaptable(&self, place: &Place, kept: &Targeted) -> Error {
        let Self { targets, places, .. } = *self;
        let Place { path, kind, .. } = place;
        let parameters = Parameters::of(self.model).instead_of_module(path);
        let fault = match kind {
            ModuleKind::Table => "no linear layer: PEFT would adapt this table, this program cannot",
            _ => "no linear layer and no embedding: PEFT could not load the adapter",
        };
        let (given, hint) = match targets {
            Targets::Pattern(pattern) => {
                let names = last_names(kept.paths());
                let start = pattern.strip_suffix(".*").unwrap_or_default();
                let example = format!("{start}.*({})", names.join("|"));
                let hint = format!("; end the pattern with the names of layers, for example {example}");
                (pattern.as_str(), if names.is_empty() { String::new() } else { hint })
            }
            Targets::Names(names) => {
                let given = names.iter().find(|name| is_suffix(path, name)).map_or("", String::as_str);
                let inside =
                    places.iter().filter(|p| p.kind == ModuleKind::Linear && is_within(&p.path, given));
                let inside = last_names(inside.map(|place| place.path.as_str()));
                let hint = match parameters {
                    Some(names) => format!("; name its parameters in target_parameters: {names}"),
                    None if inside.is_empty() => String::new(),
                    None => format!("; name the layers inside: {}", inside.join(", ")),
                };
                (given, hint)
            }
            Targets::AllLinear => ("all-linear", String::new()),
        };
        Error::setting("target_modules", format!("{given:?} matches {path}, which is {fault}{hint}"))
    }
}

/// The last part of each path, each once.
fn last_names<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for path in paths {
        let name = path.rsplit('.').next().unwrap_or(path);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The last one and two parts of each name: what users write.
fn last_parts(paths: &[String]) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for path in paths {
        let mut names = path.rsplitn(3, '.');
        let last = names.next().unwrap_or_default();
        // A number alone is nobody's name.
        parts.extend(last.parse::<usize>().is_err().then(|| last.to_owned()));
        parts.extend(names.next().map(|parent| format!("{parent}.{last}")));
    }
    parts.sort();
    parts.dedup();
    parts
}

/// Checks that `exclude_modules` means something: each of its names, or its pattern, a module.
pub(super) fn check_exclude_modules(model: &dyn Module, info: &ModelInfo, config: &LoraConfig) -> Result<()> {
    let Some(targets) = &config.exclude_modules else { return Ok(()) };
    let places = places(model, info);
    if let Targets::Names(names) = targets {
        let unknown = names.iter().find(|name| !places.iter().any(|place| place.is_called(name)));
        let paths: Vec<String> = places.into_iter().map(|place| place.path).collect();
        return unknown.map_or(Ok(()), |name| {
            Err(Error::unknown("module to exclude", name, last_parts(&paths).iter().map(String::as_str)))
        });
    }
    let matcher = Matcher::new("exclude_modules", targets)?;
    for place in &places {
        if place.matches(&matcher)? {
            return Ok(());
        }
    }
    let example = places.first().map_or("", |place| place.path.as_str());
    let pattern = if let Targets::Pattern(pattern) = targets { pattern } else { "all-linear" };
    let reason =
        format!("{pattern:?} matches no module in full; a module's name is, for example, {example:?}");
    Err(Error::setting("exclude_modules", reason))
}

/// Checks that each of `modules_to_save` means something.
pub(super) fn check_modules_to_save(model: &dyn Module, config: &LoraConfig) -> Result<()> {
    let mut paths = Vec::new();
    for_each_parameter(model, |path, _| paths.push(path.to_owned()));
    for name in &config.modules_to_save {
        if !paths.iter().any(|path| path.rsplit_once('.').is_some_and(|(module, _)| is_saved(module, name))) {
            let modules: Vec<String> = paths
                .iter()
                .filter_map(|path| path.rsplit_once('.'))
                .map(|(module, _)| module.to_owned())
                .collect();
            let candidates = last_parts(&modules);
            return Err(Error::unknown("module to save", name, candidates.iter().map(String::as_str)));
        }
    }
    Ok(())
}
