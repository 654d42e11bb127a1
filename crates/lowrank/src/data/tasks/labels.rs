//! From the label in a file to a class or a score.

use std::path::Path;

use crate::data::example::Label;
use crate::{Error, Result};

/// What a task's labels are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    Classes(LabelSet),
    Score,
}

/// The labels that were found in a file: one alone tells nothing apart.
pub(super) fn several(path: &Path, names: Vec<String>) -> Result<Vec<String>> {
    match names.as_slice() {
        [only] => Err(Error::file(path, format!("every label is {only:?}: there is nothing to tell apart"))),
        _ => Ok(names),
    }
}

/// The labels of a classification task.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LabelSet {
    /// In the order of the model's ids.
    pub names: Vec<String>,
    /// The class that each number in a file means; empty where numbers are names.
    numbered: Vec<u32>,
}

impl LabelSet {
    /// A set whose labels are written by name, or by place where no name is itself a number.
    pub fn new(names: Vec<String>) -> Self {
        let numeric = names.iter().any(|name| name.parse::<f64>().is_ok());
        let numbered = if numeric { Vec::new() } else { (0u32..).take(names.len()).collect() };
        Self { names, numbered }
    }

    /// A set that files number as in `published`, in the order of a model that has the same labels by another one.
    pub fn published(published: &[&str], model: Option<&[String]>) -> Self {
        let names: Vec<String> = published.iter().map(|&name| name.to_owned()).collect();
        let place = |name: &str| model?.iter().position(|label| label.eq_ignore_ascii_case(name));
        let places: Option<Vec<usize>> = published.iter().map(|name| place(name)).collect();
        match (places, model) {
            (Some(places), Some(model)) if model.len() == names.len() => {
                let mut ordered = names.clone();
                for (name, &place) in names.iter().zip(&places) {
                    ordered[place].clone_from(name);
                }
                let numbered = places.iter().filter_map(|&place| u32::try_from(place).ok()).collect();
                Self { names: ordered, numbered }
            }
            _ => Self::new(names),
        }
    }

    /// The class that a task's numbers call 1: the one that F1 is of.
    pub fn positive(&self) -> u32 {
        self.numbered.get(1).copied().unwrap_or(1)
    }

    fn class(&self, label: &str) -> Option<u32> {
        let named = self.names.iter().position(|name| name == label);
        match named {
            Some(place) => u32::try_from(place).ok(),
            None => self.numbered.get(label.parse::<usize>().ok()?).copied(),
        }
    }
}

impl Target {
    /// The label, or what is wrong with it.
    pub fn read(&self, label: &str) -> Result<Label, String> {
        let label = canonical(label);
        match self {
            Self::Classes(set) => set
                .class(&label)
                .map(Label::Class)
                .ok_or_else(|| format!("unknown label {label:?}; the labels are {}", listed(&set.names))),
            Self::Score => match label.parse::<f32>() {
                Ok(score) if score.is_finite() => Ok(Label::Score(score)),
                _ => Err(format!("the label {label:?} is not a finite number, as regression needs")),
            },
        }
    }
}

/// A label as it is compared: without blanks around it, whole numbers without a fraction.
pub(super) fn canonical(label: &str) -> String {
    let label = label.trim();
    match label.split_once('.') {
        Some((whole, zeros)) if whole.parse::<i64>().is_ok() && zeros.bytes().all(|byte| byte == b'0') => {
            whole.to_owned()
        }
        _ => label.to_owned(),
    }
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    match names.get(..SHOWN) {
        Some(first) if names.len() > SHOWN => {
            format!("{} and {} more", first.join(", "), names.len() - SHOWN)
        }
        _ => names.join(", "),
    }
}
