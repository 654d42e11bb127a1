//! How two adapters differ.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::factors::Factors;
use super::folder::AdapterFolder;
use crate::Result;
use crate::hub::{TensorView, to_tensor};
use crate::text::{cell, fitting, write_columns};

/// How one adapter differs from another.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AdapterDiff {
    /// Settings that differ, in the order of the first one's file.
    pub settings: Vec<ChangedSetting>,
    /// Layers that the first one alone has.
    pub only_in_first: Vec<String>,
    /// Layers that the second one alone has.
    pub only_in_second: Vec<String>,
    /// The layers of both, in the order of their names.
    pub layers: Vec<LayerDiff>,
    /// Tensors beside the pairs that differ, or that one of them alone has.
    pub tensors: Vec<ChangedTensor>,
}

/// A setting of two values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangedSetting {
    /// Its key.
    pub key: String,
    /// The first adapter's value; null where it has none.
    pub first: Value,
    /// The second one's.
    pub second: Value,
}

/// What two adapters add to one weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerDiff {
    /// The layer.
    pub name: String,
    /// The ranks.
    pub r: [usize; 2],
    /// The norms of the products.
    pub norm: [f64; 2],
    /// The norm of the difference of the products; absent where their shapes differ.
    pub distance: Option<f64>,
    /// The cosine of the angle between the products; absent where one is zero, or their shapes differ.
    pub cosine: Option<f64>,
}

/// A tensor that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangedTensor {
    /// Its key.
    pub key: String,
    /// The largest difference of an element; absent where one of them has no such tensor, or of another shape or type.
    pub largest_difference: Option<f32>,
    /// What differs, in words.
    pub what: &'static str,
}

impl AdapterDiff {
    /// Whether the two add the same to every weight and have the same beside it: whatever their factors are.
    pub fn is_same_function(&self) -> bool {
        self.only_in_first.is_empty()
            && self.only_in_second.is_empty()
            && self.tensors.is_empty()
            && self.layers.iter().all(|layer| layer.distance == Some(0.0))
    }
}

/// Compares two adapters: folders, or Hub ids. Products are compared, not factors, of which many pairs have the same.
///
/// # Errors
/// If one of them cannot be read, or a pair is incomplete or holds a value that is not finite.
pub fn diff(first: &str, second: &str) -> Result<AdapterDiff> {
    let (one, other) = (AdapterFolder::open(first)?, AdapterFolder::open(second)?);
    let mut diff = AdapterDiff {
        settings: settings(&one, &other),
        tensors: tensors(&one, &other),
        ..AdapterDiff::default()
    };
    for layer in one.layers() {
        match other.layer(layer.name()).filter(|same| same.is_embedding == layer.is_embedding) {
            Some(same) => {
                let name = layer.name();
                let (x, y) = (one.product(layer)?, other.product(same)?);
                let x = (x.scaling(), Factors::stored(&x)?);
                let y = (y.scaling(), Factors::stored(&y)?);
                diff.layers.push(compare(name, x, y)?);
            }
            None => diff.only_in_first.push(layer.name().to_owned()),
        }
    }
    let is_new = |name: &&str| !one.layers().iter().any(|layer| layer.name() == *name);
    let names = other.layers().iter().map(|layer| layer.name());
    diff.only_in_second = names.filter(is_new).map(str::to_owned).collect();
    Ok(diff)
}

fn compare(name: &str, (s, x): (f64, Factors), (t, y): (f64, Factors)) -> Result<LayerDiff> {
    let (x, y) = (Factors::sum(&[(s, &x)]), Factors::sum(&[(t, &y)]));
    let norm = [x.norm(name)?, y.norm(name)?];
    let (mut distance, mut cosine) = (None, None);
    if (x.rows, x.columns) == (y.rows, y.columns) {
        let is_same = x.r == y.r && x.a == y.a && x.b == y.b;
        distance = Some(if is_same { 0.0 } else { x.distance(&y, name)? });
        let norms = norm[0] * norm[1];
        cosine = (norms > 0.0).then(|| x.inner_product(&y) / norms);
    }
    Ok(LayerDiff { name: name.to_owned(), r: [x.r, y.r], norm, distance, cosine })
}

fn settings(one: &AdapterFolder, other: &AdapterFolder) -> Vec<ChangedSetting> {
    let (first, second) = (one.settings(), other.settings());
    let keys = first.keys().chain(second.keys().filter(|key| !first.contains_key(*key)));
    let value = |settings: &serde_json::Map<String, Value>, key: &String| sorted(settings.get(key));
    keys.map(|key| ChangedSetting { key: key.clone(), first: value(first, key), second: value(second, key) })
        .filter(|changed| changed.first != changed.second)
        .collect()
}

/// Lists of names are sets, which PEFT writes in any order.
fn sorted(value: Option<&Value>) -> Value {
    match value {
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            let mut items = items.clone();
            items.sort_by(|x, y| x.as_str().cmp(&y.as_str()));
            Value::Array(items)
        }
        Some(other) => other.clone(),
        None => Value::Null,
    }
}

fn tensors(one: &AdapterFolder, other: &AdapterFolder) -> Vec<ChangedTensor> {
    // Biases of pairs are compared as what they are: tensors.
    let biases = |folder: &AdapterFolder| -> Vec<String> {
        folder.layers().iter().map(|layer| layer.keys()[2].clone()).collect()
    };
    let others =
        |folder: &AdapterFolder| -> Vec<String> { folder.others().map(|(key, _)| key.to_owned()).collect() };
    let keys: BTreeSet<String> =
        [biases(one), biases(other), others(one), others(other)].concat().into_iter().collect();
    let mut changed = Vec::new();
    for key in keys {
        let (largest_difference, what) = match (one.checkpoint().get(&key), other.checkpoint().get(&key)) {
            (Some(first), Some(second)) => match largest_difference(&key, &first, &second) {
                Some(0.0) => continue,
                Some(largest) => (Some(largest), "differs"),
                None if first.bytes == second.bytes && first.shape == second.shape => continue,
                None => (None, "has another shape or type"),
            },
            (Some(_), None) => (None, "is in the first alone"),
            (None, Some(_)) => (None, "is in the second alone"),
            (None, None) => continue,
        };
        changed.push(ChangedTensor { key, largest_difference, what });
    }
    changed
}

fn largest_difference(key: &str, one: &TensorView<'_>, other: &TensorView<'_>) -> Option<f32> {
    let (one, other) = (to_tensor(key, one).ok()?, to_tensor(key, other).ok()?);
    let same_shape = one.shape() == other.shape();
    let (one, other) = (one.to_f32_vec(), other.to_f32_vec());
    let differences = one.iter().zip(&other).map(|(x, y)| (x - y).abs());
    // `max` would pass over what is not a number.
    let largest =
        differences.fold(0.0, |largest, off| if off > largest || off.is_nan() { off } else { largest });
    same_shape.then_some(largest)
}

impl fmt::Display for AdapterDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ChangedSetting { key, first, second } in &self.settings {
            writeln!(f, "{}: {first} | {second}", key.escape_debug())?;
        }
        let mut lines =
            vec![["layer", "r", "norm", "norm", "distance", "cosine"].map(str::to_owned).to_vec()];
        for layer in &self.layers {
            let [r, other] = layer.r;
            let or_dash = |value: Option<f64>| value.map_or("-".to_owned(), cell);
            lines.push(vec![
                // A name comes from a file, and may hold what a terminal obeys.
                layer.name.escape_debug().to_string(),
                if r == other { r.to_string() } else { format!("{r} | {other}") },
                cell(layer.norm[0]),
                cell(layer.norm[1]),
                or_dash(layer.distance),
                or_dash(layer.cosine),
            ]);
        }
        write_columns(f, &lines)?;
        for (names, which) in [(&self.only_in_first, "first"), (&self.only_in_second, "second")] {
            let rest = format!(": in the {which} alone");
            names.iter().try_for_each(|name| writeln!(f, "{}{rest}", fitting(name, &rest)))?;
        }
        for ChangedTensor { key, largest_difference, what } in &self.tensors {
            let by = largest_difference.map_or(String::new(), |by| format!(" by {by:.3e} at most"));
            let rest = format!(": it {what}{by}");
            writeln!(f, "{}{rest}", fitting(key, &rest))?;
        }
        let same = if self.is_same_function() { "they do the same" } else { "they do not do the same" };
        write!(f, "{} layers in common; {same}", self.layers.len())
    }
}
