//! Keys of a configuration, checked.

use lowrank_kernels::activation::Activation;
use serde_json::{Map, Value};

/// No model of today has a dimension beyond this; larger ones would overflow products of sizes.
const LARGEST_SIZE: u64 = 1 << 24;
/// No model of today has more layers, each of which takes memory before any weight is looked for.
const LARGEST_DEPTH: usize = 1 << 12;
/// No task of today has more classes, each of which gets a name.
const MOST_LABELS: usize = 1 << 16;

pub(super) fn value<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

pub(super) fn size(map: &Map<String, Value>, key: &str, default: Option<usize>) -> Result<usize, String> {
    match (value(map, key), default) {
        (None, Some(default)) => Ok(default),
        (None, None) => Err(format!("it has no {key}")),
        (Some(value), _) => {
            value.as_u64().filter(|n| (1..=LARGEST_SIZE).contains(n)).map(|n| n as usize).ok_or_else(|| {
                format!("{key} is {value}; it must be a whole number from 1 to {LARGEST_SIZE}")
            })
        }
    }
}

/// A product of sizes that is one itself, as [`size`].
pub(super) fn product(what: &str, sizes: &[usize]) -> Result<usize, String> {
    let product = sizes.iter().try_fold(1, |product: usize, size| product.checked_mul(*size));
    product.filter(|n| *n as u64 <= LARGEST_SIZE).ok_or_else(|| {
        format!("{what} are {sizes:?}; their product must be a whole number from 1 to {LARGEST_SIZE}")
    })
}

/// The configuration with its values under the architecture's own keys, where it has them under general names.
///
/// # Source
/// Transformers' `attribute_map`, of which these are the pairs.
pub(super) fn under_own_keys(
    map: &Map<String, Value>,
    names: &[(&str, &str)],
) -> Result<Map<String, Value>, String> {
    let mut own = map.clone();
    for (general, key) in names {
        match (value(map, general), value(map, key)) {
            (Some(one), Some(other)) if one != other => {
                return Err(format!(
                    "{general} is {one} and {key} is {other}, which mean the same: remove one"
                ));
            }
            (Some(value), None) => drop(own.insert((*key).to_owned(), value.clone())),
            _ => {}
        }
    }
    Ok(own)
}

/// As [`size`], where 0 and null mean that there is none.
pub(super) fn optional_size(map: &Map<String, Value>, key: &str) -> Result<Option<usize>, String> {
    match value(map, key) {
        None => Ok(None),
        Some(value) if value.as_u64() == Some(0) => Ok(None),
        Some(_) => size(map, key, None).map(Some),
    }
}

pub(super) fn depth(map: &Map<String, Value>, key: &str, default: Option<usize>) -> Result<usize, String> {
    let layers = size(map, key, default)?;
    if layers <= LARGEST_DEPTH {
        return Ok(layers);
    }
    Err(format!("{key} is {layers}; it must be a whole number from 1 to {LARGEST_DEPTH}"))
}

pub(super) fn number(map: &Map<String, Value>, key: &str, default: f64) -> Result<f64, String> {
    match value(map, key) {
        None => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| format!("{key} is {value}; it must be a number")),
    }
}

pub(super) fn fraction(map: &Map<String, Value>, key: &str, default: f32) -> Result<f32, String> {
    let value = number(map, key, f64::from(default))?;
    if (0.0..1.0).contains(&value) { Ok(value as f32) } else { Err(format!("{key} is {value}, not in 0..1")) }
}

pub(super) fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match value(map, key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{key} is {other}; it must be a string")),
    }
}

pub(super) fn flag(map: &Map<String, Value>, key: &str, default: bool) -> Result<bool, String> {
    match value(map, key) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(format!("{key} is {other}; it must be true or false")),
    }
}

pub(super) fn activation(
    map: &Map<String, Value>,
    key: &str,
    default: &'static str,
) -> Result<Activation, String> {
    named_activation(key, text(map, key)?.unwrap_or(default))
}

pub(super) fn named_activation(key: &str, name: &str) -> Result<Activation, String> {
    Activation::from_name(name).ok_or_else(|| {
        format!("{key} {name:?} is not one of {}", Activation::NAMES.map(|(name, _)| name).join(", "))
    })
}

pub(super) fn token_id(map: &Map<String, Value>, key: &str) -> Result<Option<u32>, String> {
    match value(map, key) {
        None => Ok(None),
        Some(value) => as_token_id(value).map(Some).ok_or_else(|| format!("{key} {value} is not a token id")),
    }
}

/// One id, or a list of them.
fn token_ids(map: &Map<String, Value>, key: &str) -> Result<Vec<u32>, String> {
    match value(map, key) {
        None => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids
            .iter()
            .map(|id| as_token_id(id).ok_or_else(|| format!("{key} holds {id}, not a token id")))
            .collect(),
        Some(_) => Ok(token_id(map, key)?.into_iter().collect()),
    }
}

/// The tokens that end a text: `default` where nothing is said of them, and none where the file says null.
pub(super) fn end_tokens(map: &Map<String, Value>, default: Option<u32>) -> Result<Vec<u32>, String> {
    match map.get("eos_token_id") {
        None => Ok(default.into_iter().collect()),
        Some(_) => token_ids(map, "eos_token_id"),
    }
}

fn as_token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// Refuses keys that change what a model computes unless they have the value that this program computes.
pub(super) fn must_be_off(map: &Map<String, Value>, keys: &[&str], why: &str) -> Result<(), String> {
    for key in keys {
        match value(map, key) {
            None | Some(Value::Bool(false)) => {}
            Some(value) => return Err(format!("{key} is {value}, not false: {why}")),
        }
    }
    Ok(())
}

/// Heads must fit the kernels' counters.
pub(super) fn check_heads(heads: (&str, usize)) -> Result<(), String> {
    use lowrank_kernels::attention::MOST_HEADS;
    if heads.1 > MOST_HEADS {
        return Err(format!("{} is {}; it must be at most {MOST_HEADS}", heads.0, heads.1));
    }
    Ok(())
}

/// Heads must fit the kernels' counters, positions too.
pub(super) fn check_attention(heads: (&str, usize), positions: (&str, usize)) -> Result<(), String> {
    use lowrank_kernels::attention::MOST_TOKENS;
    check_heads(heads)?;
    if positions.1 > MOST_TOKENS {
        return Err(format!("{} is {}; at most {MOST_TOKENS} can be used", positions.0, positions.1));
    }
    Ok(())
}

/// `id2label` in the order of its ids, or names for `num_labels` classes; two classes where the file has neither.
pub(super) fn labels(map: &Map<String, Value>) -> Result<Vec<String>, String> {
    if let Some(names) = value(map, "id2label") {
        let names = names.as_object().ok_or("id2label must be an object")?;
        let mut labels = vec![None; names.len()];
        for (id, name) in names {
            let slot = id.parse::<usize>().ok().and_then(|id| labels.get_mut(id));
            let slot = slot.ok_or_else(|| format!("id2label has the id {id:?}; ids must count from 0"))?;
            *slot = Some(name.as_str().map_or_else(|| name.to_string(), str::to_owned));
        }
        return labels.into_iter().collect::<Option<_>>().ok_or_else(|| "id2label skips an id".to_owned());
    }
    let count = size(map, "num_labels", Some(2))?;
    if count > MOST_LABELS {
        return Err(format!("num_labels is {count}; it must be at most {MOST_LABELS}"));
    }
    Ok((0..count).map(|id| format!("LABEL_{id}")).collect())
}
