//! Which modules a configuration means.

use fancy_regex::Regex;

use super::config::{LoraConfig, Targets};
use crate::models::ModelInfo;
use crate::nn::{Module, for_each_linear, for_each_parameter};
use crate::{Error, Result};

/// A choice of modules, ready to be asked.
pub(super) enum Matcher {
    Names(Vec<String>),
    Pattern(Box<Regex>),
    AllLinear,
}

impl Matcher {
    pub(super) fn new(key: &str, targets: &Targets) -> Result<Self> {
        Ok(match targets {
            Targets::Names(names) => Self::Names(names.clone()),
            Targets::AllLinear => Self::AllLinear,
            Targets::Pattern(pattern) => {
                let whole = Regex::new(&format!("^(?:{pattern})$"))
                    .map_err(|e| Error::setting(key, format!("{pattern:?} is no regular expression: {e}")))?;
                Self::Pattern(Box::new(whole))
            }
        })
    }

    /// Whether the module at `path` is meant.
    ///
    /// # Source
    /// PEFT's `check_target_module_exists`: a name means itself and whatever ends with it after a dot, a pattern
    /// must match in full.
    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| is_suffix(path, name)),
            Self::Pattern(pattern) => pattern.is_match(path).unwrap_or(false),
            Self::AllLinear => true,
        }
    }
}

/// Whether `name` is the whole path or its last parts.
pub(super) fn is_suffix(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether the module or parameter at `path` is, or lies inside, a module that `name` means.
pub(super) fn is_within(path: &str, name: &str) -> bool {
    let ends = path.match_indices('.').map(|(end, _)| end).chain([path.len()]);
    ends.map(|end| &path[..end]).any(|module| is_suffix(module, name))
}

/// The modules that are trained whole, each once: those of the configuration, the head, and what the flags add.
pub(super) fn modules_to_save(config: &LoraConfig, info: &ModelInfo) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| {
        for name in more {
            if !names.iter().any(|known| known == name) {
                names.push((*name).to_owned());
            }
        }
    };
    // PEFT's own files name a head twice that was asked for and is added as well.
    add(&config.modules_to_save.iter().map(String::as_str).collect::<Vec<_>>());
    add(info.head);
    if config.train_layer_norms {
        add(info.layer_norms);
    }
    if config.train_embeddings {
        add(info.embeddings);
    }
    names
}

/// The names of the linear layers that a configuration adapts, in the model's order.
///
/// # Errors
/// If a name of the list matches nothing (the nearest are named), a pattern matches no linear layer, or all that
/// matches is excluded or trained whole.
pub fn target_linears(model: &dyn Module, info: &ModelInfo, config: &LoraConfig) -> Result<Vec<String>> {
    let usual = Targets::Names(info.default_targets.iter().map(|name| (*name).to_owned()).collect());
    let targets = config.target_modules.as_ref().unwrap_or(&usual);
    let matcher = Matcher::new("target_modules", targets)?;
    let excluded = config
        .exclude_modules
        .as_ref()
        .map(|targets| Matcher::new("exclude_modules", targets))
        .transpose()?;
    let saved = modules_to_save(config, info);

    let mut linears = Vec::new();
    for_each_linear(model, |path, _| linears.push(path.to_owned()));
    if let Targets::Names(names) = targets {
        for name in names {
            check_name(name, &linears, model)?;
        }
    }
    let matched: Vec<String> = linears.iter().filter(|path| matcher.matches(path)).cloned().collect();
    if matched.is_empty() {
        let Targets::Pattern(pattern) = targets else {
            return Err(Error::setting("target_modules", "they match no linear layer"));
        };
        let example = linears.first().map_or("", String::as_str);
        let reason = format!(
            "{pattern:?} matches no linear layer in full; a layer's name is, for example, {example:?}"
        );
        return Err(Error::setting("target_modules", reason));
    }
    let kept: Vec<String> = matched
        .into_iter()
        .filter(|path| !excluded.as_ref().is_some_and(|matcher| matcher.matches(path)))
        .filter(|path| !saved.iter().any(|name| is_within(path, name)))
        .collect();
    if kept.is_empty() {
        let reason = "every layer that they match is in exclude_modules or modules_to_save";
        return Err(Error::setting("target_modules", reason));
    }
    Ok(kept)
}

/// A name of the list must mean a linear layer.
fn check_name(name: &str, linears: &[String], model: &dyn Module) -> Result<()> {
    if linears.iter().any(|path| is_suffix(path, name)) {
        return Ok(());
    }
    let mut is_other = false;
    for_each_parameter(model, |path, _| is_other |= is_within(path, name));
    if is_other {
        return Err(Error::setting("target_modules", format!("{name:?} is no linear layer")));
    }
    Err(Error::unknown("target module", name, last_parts(linears).iter().map(String::as_str)))
}

/// The last one and two parts of each name: what users write.
fn last_parts(paths: &[String]) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for path in paths {
        let mut names = path.rsplitn(3, '.');
        let last = names.next().unwrap_or_default();
        parts.push(last.to_owned());
        parts.extend(names.next().map(|parent| format!("{parent}.{last}")));
    }
    parts.sort();
    parts.dedup();
    parts
}

/// Checks that each of `modules_to_save` means something.
pub(super) fn check_modules_to_save(model: &dyn Module, config: &LoraConfig) -> Result<()> {
    let mut paths = Vec::new();
    for_each_parameter(model, |path, _| paths.push(path.to_owned()));
    for name in &config.modules_to_save {
        if !paths.iter().any(|path| path.rsplit_once('.').is_some_and(|(module, _)| is_within(module, name)))
        {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_the_last_parts_of_a_path() {
        assert!(is_suffix("bert.encoder.layer.0.attention.self.query", "query"));
        assert!(is_suffix("bert.encoder.layer.0.attention.self.query", "self.query"));
        assert!(!is_suffix("bert.encoder.layer.0.attention.self.query", "uery"));
        assert!(is_suffix("query", "query"));
    }

    #[test]
    fn a_module_to_save_takes_all_that_lies_inside() {
        assert!(is_within("classifier.dense.weight", "classifier"));
        assert!(is_within("bert.embeddings.LayerNorm.bias", "embeddings"));
        assert!(!is_within("bert.embeddings2.weight", "embeddings"));
    }

    #[test]
    fn a_pattern_matches_in_full_or_not_at_all() {
        let pattern = Targets::Pattern(r".*layer\.1\..*(query|value)".into());
        let matcher = Matcher::new("target_modules", &pattern).unwrap();
        assert!(matcher.matches("bert.encoder.layer.1.attention.self.query"));
        assert!(!matcher.matches("bert.encoder.layer.1.attention.self.query.more"));
        assert!(!matcher.matches("bert.encoder.layer.0.attention.self.query"));
    }
}
