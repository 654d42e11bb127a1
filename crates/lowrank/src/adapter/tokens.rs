//! Single tokens that are trained: rows of a table.

use super::config::{LoraConfig, TokenIndices};
use super::matcher::{is_saved, is_suffix};
use super::targets::Targeted;
use crate::nn::{Module, for_each_embedding, for_each_parameter, join};
use crate::{Error, Result};

/// Names of the table of words; in a model with several, the first is meant.
const INPUT_TABLES: [&str; 4] = ["embed_tokens", "wte", "word_embeddings", "shared"];

/// That of a T5, which PEFT takes for tied to the head whether it is or not.
const T5_TABLE: &str = "shared";

/// Rows of a table that an adapter trains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainedTokens {
    /// The table: a module.
    pub path: String,
    /// Its entries, in the order in which they are saved.
    pub indices: Vec<u32>,
    /// The width of a row.
    pub width: usize,
}

/// The rows that a configuration trains.
///
/// # Errors
/// If a table does not exist, an entry lies outside or is there twice, or the table is trained in another way as well.
///
/// # Source
/// PEFT's `trainable_token_indices`: a list is of the input's table.
pub(super) fn trained_tokens(
    model: &dyn Module,
    config: &LoraConfig,
    targets: &Targeted,
    saved: &[String],
) -> Result<Vec<TrainedTokens>> {
    let wanted: Vec<(Option<&str>, &[u32])> = match &config.trainable_token_indices {
        None => return Ok(Vec::new()),
        Some(TokenIndices::OfInput(indices)) => vec![(None, indices)],
        Some(TokenIndices::OfTables(tables)) => {
            tables.iter().map(|(name, indices)| (Some(name.as_str()), &indices[..])).collect()
        }
    };
    let mut tables: Vec<(String, usize, usize)> = Vec::new();
    for_each_embedding(model, |path, table| {
        // What something else than a lookup reads knows of no rows.
        if table.is_adaptable() {
            tables.push((path.to_owned(), table.entries(), table.width()));
        }
    });
    let mut found: Vec<TrainedTokens> = Vec::new();
    for (name, indices) in wanted {
        let is_meant = |(path, ..): &&(String, usize, usize)| match name {
            Some(name) => is_suffix(path, name),
            None => INPUT_TABLES.iter().any(|name| is_suffix(path, name)),
        };
        let Some((path, entries, width)) = tables.iter().find(is_meant) else {
            let names: Vec<&str> =
                tables.iter().map(|(path, ..)| path.rsplit('.').next().unwrap_or(path)).collect();
            return Err(match name {
                Some(name) => {
                    refuse(&format!("the model has no table {name:?}; it has {}", names.join(", ")))
                }
                None => refuse(
                    "the model has no table of words that is known here; name it: {\"table\" = [1, 2]}",
                ),
            });
        };
        if let Some(index) = indices.iter().find(|index| **index as usize >= *entries) {
            return Err(refuse(&format!("{index} is outside {path}, which has {entries} entries")));
        }
        let twice = indices.iter().enumerate().find(|(at, index)| indices[..*at].contains(index));
        if let Some((_, index)) = twice {
            return Err(refuse(&format!("{index} is there twice")));
        }
        if found.iter().any(|other| other.path == *path) {
            return Err(refuse(&format!("{path} is named twice")));
        }
        check_untouched(model, path, targets, saved)?;
        if !indices.is_empty() {
            found.push(TrainedTokens { path: path.clone(), indices: indices.to_vec(), width: *width });
        }
    }
    Ok(found)
}

/// Neither the table nor what is tied to it is adapted or trained whole.
fn check_untouched(model: &dyn Module, path: &str, targets: &Targeted, saved: &[String]) -> Result<()> {
    let weight = join(path, "weight");
    let mut names = vec![path.to_owned()];
    let mut tied_to = None;
    for_each_parameter(model, |other, parameter| {
        if other == weight {
            tied_to = parameter.tie();
        }
        if parameter.tie() == Some(weight.as_str()) {
            names.extend(other.strip_suffix(".weight").map(str::to_owned));
        }
    });
    let mut has_own_output = false;
    for_each_parameter(model, |other, parameter| {
        has_own_output |= other == "lm_head.weight" && parameter.tie().is_none();
    });
    if path == T5_TABLE && has_own_output {
        let reason =
            "the model's head is its own, and PEFT would put the rows of the input's table in its place, too";
        return Err(refuse(reason));
    }
    if let Some(other) = tied_to {
        let other = other.strip_suffix(".weight").unwrap_or(other);
        return Err(refuse(&format!("{path} is another name of {other}; name that")));
    }
    for name in &names {
        if targets.paths().any(|target| target == name) {
            return Err(refuse(&format!("{name} is adapted as well: target_modules means it")));
        }
        if saved.iter().any(|entry| is_saved(name, entry)) {
            return Err(refuse(&format!("{name} is trained whole as well: modules_to_save means it")));
        }
    }
    Ok(())
}

fn refuse(reason: &str) -> Error {
    Error::setting("trainable_token_indices", reason)
}
