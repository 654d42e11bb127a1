//! What names and patterns mean.

use fancy_regex::Regex;

use super::config::Targets;
use crate::{Error, Result};

/// A choice of modules, ready to be asked.
pub(super) struct Matcher {
    /// The setting that it was made of.
    key: &'static str,
    choice: Choice,
}

enum Choice {
    Names(Vec<String>),
    Pattern(Box<Regex>),
    AllLinear,
}

impl Matcher {
    pub(super) fn new(key: &'static str, targets: &Targets) -> Result<Self> {
        let choice = match targets {
            Targets::Names(names) => Choice::Names(names.clone()),
            Targets::AllLinear => Choice::AllLinear,
            Targets::Pattern(pattern) => Choice::Pattern(Box::new(regex(key, pattern, pattern)?)),
        };
        Ok(Self { key, choice })
    }

    /// Whether the module at `path` is meant.
    ///
    /// # Errors
    /// If a pattern takes too long on the path.
    ///
    /// # Source
    /// PEFT's `check_target_module_exists`: a name means itself and whatever ends with it after a dot, a pattern
    /// must match in full.
    pub(super) fn matches(&self, path: &str) -> Result<bool> {
        match &self.choice {
            Choice::Names(names) => Ok(names.iter().any(|name| is_suffix(path, name))),
            Choice::Pattern(pattern) => pattern.is_match(path).map_err(|e| {
                Error::setting(self.key, format!("the pattern cannot be matched with {path}: {e}"))
            }),
            Choice::AllLinear => Ok(true),
        }
    }
}

/// An expression that must match from end to end, made of what `key` holds as `given`.
pub(super) fn regex(key: &'static str, whole: &str, given: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{whole})$"))
        .map_err(|e| Error::setting(key, format!("{given:?} is no regular expression: {e}")))
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

/// Whether the module or parameter at `path` is, or lies inside, one that the entry `name` of `modules_to_save` means:
/// any whose path ends with it, so that `norm` means `post_attention_layernorm` too.
///
/// # Source
/// PEFT's `_set_trainable`: `key.endswith(name)`.
pub(super) fn is_saved(path: &str, name: &str) -> bool {
    let ends = path.match_indices('.').map(|(end, _)| end).chain([path.len()]);
    !name.is_empty() && ends.map(|end| &path[..end]).any(|module| module.ends_with(name))
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
    fn an_entry_of_modules_to_save_means_whatever_ends_with_it_and_what_lies_inside() {
        assert!(is_saved("model.layers.0.post_attention_layernorm", "norm"));
        assert!(is_saved("pre_classifier", "classifier"));
        assert!(is_saved("bert.embeddings.word_embeddings", "bert.embeddings"));
        assert!(!is_saved("model.norm_after.dense", "norm"));
        assert!(!is_saved("model.norm", ""));
    }

    #[test]
    fn a_pattern_matches_in_full_or_not_at_all() {
        let pattern = Targets::Pattern(r".*layer\.1\..*(query|value)".into());
        let matcher = Matcher::new("target_modules", &pattern).unwrap();
        assert!(matcher.matches("bert.encoder.layer.1.attention.self.query").unwrap());
        assert!(!matcher.matches("bert.encoder.layer.1.attention.self.query.more").unwrap());
        assert!(!matcher.matches("bert.encoder.layer.0.attention.self.query").unwrap());
    }
}
