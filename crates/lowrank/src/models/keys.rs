//! The keys of a model's parameters in a checkpoint.

use std::ops::Range;

use super::{ExpertNames, ModelInfo};
use crate::hub::{Checkpoint, TensorView};

/// Finds parameters in a checkpoint: of the whole model or of the bare one, under their names of today or of old.
pub(crate) struct Keys<'a> {
    checkpoint: &'a Checkpoint,
    older_name: Option<fn(&str) -> String>,
    experts: Option<ExpertNames>,
    prefix: String,
    bare: bool,
}

impl<'a> Keys<'a> {
    pub fn new(info: &ModelInfo, checkpoint: &'a Checkpoint) -> Self {
        let prefix = format!("{}.", info.base_prefix);
        let bare = prefix.len() > 1 && !checkpoint.names().any(|key| key.starts_with(&prefix));
        Self { checkpoint, older_name: info.older_name, experts: info.experts, prefix, bare }
    }

    /// The key of the parameter, or the prefix of a module's keys, in this checkpoint.
    pub fn key<'p>(&self, path: &'p str) -> &'p str {
        if self.bare { path.strip_prefix(&self.prefix).unwrap_or(path) } else { path }
    }

    /// The key, the one before Transformers 5 renamed it, and what TensorFlow's checkpoints called a norm's parameters.
    pub fn spellings(&self, path: &str) -> Vec<String> {
        let key = self.key(path);
        let mut spellings = vec![key.to_owned()];
        spellings.extend(self.older_name.map(|older| older(key)));
        for (new, old) in [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")] {
            spellings.extend(key.strip_suffix(new).map(|stem| format!("{stem}{old}")));
        }
        spellings
    }

    /// The parameter's key and tensor, if they are there as one; of an expert, its part of the tensor of all.
    pub fn find(&self, path: &str) -> Option<(String, TensorView<'a>)> {
        let get = |key: String| self.checkpoint.get(&key).map(|view| (key, view));
        let found = self.spellings(path).into_iter().find_map(get);
        found.or_else(|| {
            let expert = ExpertPath::of(path)?;
            let all = self.spellings(&format!("{}.{}", expert.stack, expert.name)).into_iter().find_map(get);
            let count = self.experts.map_or(0, |names| names.count);
            let own = all.and_then(|(key, view)| Some((key, part_of(view, expert.number, count)?)));
            own.or_else(|| match &self.tensors_of_expert(&expert)[..] {
                [only] => self.spellings(only).into_iter().find_map(get),
                _ => None,
            })
        })
    }

    /// The keys and tensors whose rows, one below the other, are the parameter: one, or those of an expert's layers that
    /// are one layer here. None if one of them is missing.
    pub fn find_all(&self, path: &str) -> Vec<(String, TensorView<'a>)> {
        if let Some(found) = self.find(path) {
            return vec![found];
        }
        let names = ExpertPath::of(path).map_or_else(Vec::new, |expert| self.tensors_of_expert(&expert));
        names.iter().map(|name| self.find(name)).collect::<Option<_>>().unwrap_or_default()
    }

    /// Where the rows of the parameter are, if it is not a tensor by itself: in those of an expert's layers, or in that of
    /// all experts.
    pub fn parts(&self, path: &str) -> Option<Vec<TensorRows>> {
        let found = self.find_all(path);
        let is_whole = |(key, view): &(String, TensorView<'_>)| {
            self.checkpoint.get(key).map(|all| all.shape) == Some(view.shape)
        };
        if found.len() < 2 && found.first().is_none_or(is_whole) {
            return None;
        }
        let mut end = 0;
        let part = |(key, view): (String, TensorView<'_>)| {
            let rows = *view.shape.first()?;
            let offset = view.range.start - self.checkpoint.get(&key)?.range.start;
            end += rows;
            Some(TensorRows {
                key,
                first: (offset * rows).checked_div(view.bytes.len())?,
                rows: end - rows..end,
            })
        };
        found.into_iter().map(part).collect()
    }

    /// The names of the tensors of one expert that one of its layers consists of.
    fn tensors_of_expert(&self, expert: &ExpertPath<'_>) -> Vec<String> {
        let Some(names) = self.experts else { return Vec::new() };
        let ExpertPath { stack, name, number } = expert;
        let layers = names.layers_of(name);
        layers.into_iter().map(|layer| format!("{stack}.{number}.{layer}.weight")).collect()
    }
}

/// Rows of a parameter that are part of a tensor of a checkpoint, or one by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorRows {
    /// The tensor's key.
    pub key: String,
    /// The first of its rows.
    pub first: usize,
    /// The parameter's rows.
    pub rows: Range<usize>,
}

/// The tensors as which Transformers writes a parameter of `rows` rows: one, under the oldest of its names, or those of an
/// expert's layers.
pub(crate) fn written_as(info: &ModelInfo, path: &str, rows: usize) -> Vec<TensorRows> {
    layers_of_expert(info, path, rows).unwrap_or_else(|| {
        let key = info.older_name.map_or_else(|| path.to_owned(), |older| older(path));
        vec![TensorRows { key, first: 0, rows: 0..rows }]
    })
}

/// The tensors as which Transformers writes an expert's part of a stack, if the parameter is one.
pub(crate) fn layers_of_expert(info: &ModelInfo, path: &str, rows: usize) -> Option<Vec<TensorRows>> {
    let ExpertPath { stack, name, number } = ExpertPath::of(path)?;
    let layers = info.experts?.layers_of(name);
    let each = rows / layers.len().max(1);
    let layer = |(at, layer): (usize, &str)| {
        let key = format!("{stack}.{number}.{layer}.weight");
        let key = info.older_name.map_or_else(|| key.clone(), |older| older(&key));
        TensorRows { key, first: 0, rows: at * each..(at + 1) * each }
    };
    Some(layers.into_iter().enumerate().map(layer).collect()).filter(|layers: &Vec<_>| !layers.is_empty())
}

/// The name of an expert's weight: `stack.name.number.weight`.
struct ExpertPath<'p> {
    stack: &'p str,
    name: &'p str,
    number: usize,
}

impl<'p> ExpertPath<'p> {
    fn of(path: &'p str) -> Option<Self> {
        let (all, number) = path.strip_suffix(".weight")?.rsplit_once('.')?;
        let (stack, name) = all.rsplit_once('.')?;
        let is_stack = stack.rsplit('.').next() == Some("experts");
        Some(Self { stack, name, number: number.parse().ok()? }).filter(|_| is_stack)
    }
}

/// One of the matrices that a tensor consists of, if there are `count`.
fn part_of(view: TensorView<'_>, number: usize, count: usize) -> Option<TensorView<'_>> {
    let [found, shape @ ..] = view.shape else { return None };
    if shape.len() != 2 || *found != count || number >= count {
        return None;
    }
    let size = view.bytes.len() / count;
    let bytes = view.bytes.get(number * size..(number + 1) * size)?;
    let start = view.range.start + number * size;
    Some(TensorView { shape, bytes, range: start..start + size, ..view })
}
