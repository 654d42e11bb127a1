//! What adapters have beside their pairs, together: heads and other modules to save, biases, and what these are set by.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::folder::{AdapterFolder, AdapterLayer};
use crate::adapter::config::Bias;
use crate::adapter::file::PREFIX;
use crate::hub::TensorView;
use crate::{Error, Result};

/// The tensors beside the pairs of several adapters that are to be one.
///
/// # Errors
/// If two of them have different values for one, one replaces a layer that another adapts, or biases of adapted layers
/// are trained on some only.
pub(super) fn others(folders: &[AdapterFolder]) -> Result<Vec<(String, TensorView<'_>)>> {
    check_biases(folders)?;
    let adapted: BTreeSet<&str> = folders.iter().flat_map(linears).collect();
    let mut found: BTreeMap<String, (TensorView<'_>, &Path)> = BTreeMap::new();
    for folder in folders {
        for (key, view) in folder.others() {
            if let Some(module) = weight_of(key).filter(|module| is_adapted(folders, module)) {
                let reason = format!(
                    "another of the adapters has a pair on {module}, which would be added to another weight; adapters that \
                     adapt and replace one layer cannot be combined"
                );
                return Err(folder.error(key, reason));
            }
            let key = key_among(key, &adapted);
            match found.get(&key) {
                Some((other, path)) if !is_same(other, &view) => {
                    let reason = format!(
                        "it has another value in {}: one of them would be lost; a head, a module to save or a bias must \
                         be the same in all adapters that have it",
                        path.display()
                    );
                    return Err(folder.error(&key, reason));
                }
                Some(_) => {}
                None => drop(found.insert(key, (view, folder.path()))),
            }
        }
    }
    Ok(found.into_iter().map(|(key, (view, _))| (key, view)).collect())
}

fn linears(folder: &AdapterFolder) -> impl Iterator<Item = &str> {
    folder.layers().iter().filter(|layer| !layer.is_embedding).map(|layer| layer.name())
}

fn is_adapted(folders: &[AdapterFolder], module: &str) -> bool {
    folders.iter().any(|folder| folder.layer(module).is_some())
}

/// The module whose weight a tensor replaces.
fn weight_of(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX)?.strip_suffix(".weight")
}

fn is_same(one: &TensorView<'_>, other: &TensorView<'_>) -> bool {
    one.dtype == other.dtype && one.shape == other.shape && one.bytes == other.bytes
}

/// The key that a tensor has where these linear layers are adapted: PEFT renames their biases.
fn key_among(key: &str, adapted: &BTreeSet<&str>) -> String {
    let module = key.strip_suffix(".base_layer.bias").or(key.strip_suffix(".bias"));
    match module.and_then(|module| module.strip_prefix(PREFIX)) {
        Some(module) if adapted.contains(module) => format!("{PREFIX}{module}.base_layer.bias"),
        _ => key.to_owned(),
    }
}

fn check_biases(folders: &[AdapterFolder]) -> Result<()> {
    let of_adapted = folders.iter().any(|folder| folder.config().bias == Bias::LoraOnly);
    let all = folders.iter().any(|folder| folder.config().bias == Bias::All);
    let layers: BTreeSet<Vec<&str>> = folders.iter().map(|folder| linears(folder).collect()).collect();
    if of_adapted && !all && layers.len() > 1 {
        let reason =
            "it is \"lora_only\", and the adapters are on different layers: of some there would be no bias";
        return Err(Error::setting("bias", reason));
    }
    Ok(())
}

/// The configuration of several adapters as one, but for ranks and scalings: the first one's, on the layers of all.
///
/// # Errors
/// If only some are for weights that are stored the other way round.
pub(super) fn settings(folders: &[AdapterFolder]) -> Result<Map<String, Value>> {
    let Some(first) = folders.first() else { return Ok(Map::new()) };
    let mut settings = first.settings().clone();
    let names = |folder: &AdapterFolder| -> BTreeSet<String> {
        folder.layers().iter().map(|layer| layer.name().to_owned()).collect()
    };
    let all: BTreeSet<String> = folders.iter().flat_map(names).collect();
    if names(first) != all {
        let layers = || folders.iter().flat_map(AdapterFolder::layers);
        let modules = layers().filter(|layer| layer.adapted.parameter.is_none()).map(AdapterLayer::name);
        let parameters = layers().filter_map(|layer| Some(layer.adapted.parameter.as_ref()?.name.as_str()));
        let [modules, parameters]: [BTreeSet<&str>; 2] = [modules.collect(), parameters.collect()];
        settings.insert("target_modules".into(), json!(modules));
        let has_parameters = !parameters.is_empty();
        settings
            .insert("target_parameters".into(), if has_parameters { json!(parameters) } else { Value::Null });
        for key in ["exclude_modules", "layers_to_transform", "layers_pattern"] {
            settings.insert(key.to_owned(), Value::Null);
        }
    }
    let mut saved: Vec<&String> = Vec::new();
    for name in folders.iter().flat_map(|folder| &folder.config().modules_to_save) {
        if !saved.contains(&name) {
            saved.push(name);
        }
    }
    settings.insert("modules_to_save".into(), if saved.is_empty() { Value::Null } else { json!(saved) });
    let bias = folders.iter().map(|folder| folder.config().bias);
    let bias = bias
        .max_by_key(|bias| [Bias::None, Bias::LoraOnly, Bias::All].iter().position(|other| other == bias));
    settings.insert("bias".into(), json!(bias.unwrap_or_default().as_str()));
    let turned = |folder: &AdapterFolder| {
        folder.settings().get("fan_in_fan_out").and_then(Value::as_bool).unwrap_or(false)
    };
    if folders.iter().any(|folder| turned(folder) != turned(first)) {
        let reason = "it is true of some of the adapters only: they are for different models";
        return Err(Error::setting("fan_in_fan_out", reason));
    }
    Ok(settings)
}

/// A sentence on the models that the adapters were trained on, if these are not one.
pub(super) fn note_on_models(folders: &[AdapterFolder]) -> Option<String> {
    let models =
        folders.iter().filter_map(|folder| folder.settings().get("base_model_name_or_path")?.as_str());
    let models: BTreeSet<&str> = models.collect();
    let list = models.iter().copied().collect::<Vec<_>>().join(", ");
    (models.len() > 1)
        .then(|| format!("the adapters name different base models, of which the first one's is kept: {list}"))
}
