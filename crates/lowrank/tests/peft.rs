//! Adapter files as PEFT writes them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{Case, attach_perturbed, load, random_batch};
use lowrank::adapter::{self, AdapterFile, LoraConfig, Plan, Targets};
use lowrank::hub::Checkpoint;
use lowrank::models;
use lowrank::nn::for_each_parameter;
use lowrank::tape::AdapterId;
use lowrank::train::{AdaptedModel, LoadOptions};
use lowrank_kernels::Compute;
use serde_json::{Map, Value};

const ADAPTER: AdapterId = AdapterId(0);

fn cases() -> impl Iterator<Item = Case> {
    // What is under ViT's older names is saved under those that PEFT finds today.
    let older = |case: &Case| case.name.ends_with("_names_of_4");
    Case::all().into_iter().filter(move |case| case.adapter().is_some() && !older(case))
}

/// Saves the adapter that is on a model, under the configuration of the file that it came from.
fn save(adapted: &mut AdaptedModel, source: &str, folder: &Path) -> Plan {
    let file = AdapterFile::open(source.as_ref()).unwrap();
    let plan = adapted.adapters()[0].plan.clone();
    let config = file.config_for(adapted.model(), adapted.model().info()).unwrap();
    let info = adapted.model().info().clone();
    adapter::save(adapted.model_mut(), &info, ADAPTER, &plan, &config, "someone/base", folder).unwrap();
    plan
}

fn config(folder: &Path) -> Map<String, Value> {
    serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
}

#[test]
fn an_adapter_of_pefts_is_saved_with_the_same_keys_shapes_and_values() {
    for case in cases() {
        let folder = tempfile::tempdir().unwrap();
        let (mut adapted, _) = load(&case, Compute::F32);
        save(&mut adapted, &case.adapter().unwrap(), folder.path());
        let theirs = Checkpoint::open_adapter(case.adapter().unwrap()).unwrap();
        let ours = Checkpoint::open_adapter(folder.path()).unwrap();
        let aliases = case.facts["aliases"].as_object().unwrap();
        let ignored: BTreeSet<&str> =
            case.facts["ignored"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let expected: Vec<&str> =
            theirs.names().filter(|key| !aliases.contains_key(*key) && !ignored.contains(key)).collect();
        assert_eq!(ours.names().collect::<Vec<_>>(), expected, "{}", case.name);
        for key in expected {
            let (ours, theirs) = (ours.get(key).unwrap(), theirs.get(key).unwrap());
            assert_eq!((ours.dtype, ours.shape), (theirs.dtype, theirs.shape), "{}: {key}", case.name);
            assert_eq!(ours.bytes, theirs.bytes, "{}: {key}", case.name);
        }
        assert_eq!(ours.metadata(), theirs.metadata(), "{}", case.name);
    }
}

/// PEFT adds both names that a head may have, and keeps sets in no order; the base model's name is the run's.
#[test]
fn an_adapters_configuration_is_saved_with_pefts_keys_in_pefts_order() {
    let sorted = |value: &Value| match value {
        Value::Array(names) => {
            let mut names: Vec<String> = names.iter().map(Value::to_string).collect();
            names.sort();
            Value::from(names)
        }
        other => other.clone(),
    };
    for case in cases() {
        let folder = tempfile::tempdir().unwrap();
        let (mut adapted, _) = load(&case, Compute::F32);
        save(&mut adapted, &case.adapter().unwrap(), folder.path());
        let (ours, theirs) = (config(folder.path()), config(case.adapter().unwrap().as_ref()));
        let keys = |map: &Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&ours), keys(&theirs), "{}", case.name);
        for (key, theirs) in &theirs {
            let ours = &ours[key];
            match key.as_str() {
                "base_model_name_or_path" => assert_eq!(ours, "someone/base"),
                "modules_to_save" => check_modules_to_save(&case, ours, theirs),
                // Of a mixture PEFT goes through the names, and then writes what was not given as an empty list.
                "target_parameters" if *theirs == serde_json::json!([]) => {
                    assert!(ours.is_null(), "{}", case.name)
                }
                // PEFT keeps one that was given for a list of one.
                "layers_to_transform" | "layers_pattern" if !theirs.is_array() && !theirs.is_null() => {
                    assert_eq!(*ours, serde_json::json!([theirs]), "{}: {key}", case.name);
                }
                _ => assert_eq!(sorted(ours), sorted(theirs), "{}: {key}", case.name),
            }
        }
    }
}

/// All that PEFT names, but for the one of its two names of a head that a model has not.
fn check_modules_to_save(case: &Case, ours: &Value, theirs: &Value) {
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let (ours, mut theirs) = (names(ours), names(theirs));
    if ["classifier", "score"].iter().any(|head| ours.contains(*head)) {
        theirs.retain(|name| ours.contains(name) || !["classifier", "score"].contains(&name.as_str()));
    }
    assert_eq!(ours, theirs, "{}", case.name);
}

/// The pooler is new with the head, so it is trained and saved with it.
#[test]
fn a_fresh_adapter_brings_the_pooler_that_the_checkpoint_lacks() {
    let model = Case::named("bert_mlm").model();
    let options =
        || LoadOptions { compute: Some(Compute::F32), num_labels: Some(2), ..LoadOptions::default() };
    let mut adapted = AdaptedModel::load(&model, None, options()).unwrap();
    models::initialise_head(adapted.model_mut(), 3).unwrap();
    for_each_parameter(adapted.model(), |path, parameter| {
        let values = || parameter.base().unwrap().value().to_f32_vec();
        if path == "bert.pooler.dense.weight" {
            let (sum, count) = values().iter().fold((0.0, 0), |(sum, count), x| (sum + x * x, count + 1));
            let deviation = (sum / count as f32).sqrt();
            assert!((deviation - 0.02).abs() < 0.003, "{deviation}");
        } else if path == "bert.pooler.dense.bias" {
            assert!(values().iter().all(|x| *x == 0.0));
        }
    });
    let config =
        LoraConfig { target_modules: Some(Targets::Names(vec!["dense".into()])), ..Default::default() };
    let plan = attach_perturbed(&mut adapted, &config);
    assert_eq!(plan.modules_to_save, ["classifier", "bert.pooler"]);
    assert!(plan.targets.paths().all(|name| !name.contains("pooler")), "it is trained whole");
    let folder = tempfile::tempdir().unwrap();
    let info = adapted.model().info().clone();
    adapter::save(adapted.model_mut(), &info, ADAPTER, &plan, &config, "someone/base", folder.path())
        .unwrap();
    let again = AdaptedModel::load(&model, folder.path().to_str(), options()).unwrap();
    let batch = random_batch(&[4, 9], 61, 2);
    let answers = |adapted: &AdaptedModel| adapted.logits(&batch, Some(ADAPTER)).unwrap();
    assert_eq!(answers(&again), answers(&adapted));
}

/// PEFT sorts patterns when it saves, and another one may then be the first to match.
#[test]
fn overlapping_patterns_mean_the_same_after_a_save_and_a_load() {
    let model = Case::named("bert_rank_pattern").model();
    let options = || LoadOptions { compute: Some(Compute::F32), ..LoadOptions::default() };
    let mut adapted = AdaptedModel::load(&model, None, options()).unwrap();
    let config = LoraConfig {
        rank_pattern: vec![(r"layer\.1\..*query".into(), 5), ("attention.self.query".into(), 2)],
        alpha_pattern: vec![("query".into(), 3.0), ("attention.self.value".into(), 1.0)],
        ..LoraConfig::default()
    };
    let plan = attach_perturbed(&mut adapted, &config);
    let ranks: Vec<(usize, f32)> =
        plan.targets.linears.iter().map(|layer| (layer.r, layer.scaling)).collect();
    assert_eq!(ranks, [(2, 1.5), (8, 0.125), (5, 0.6), (8, 0.125)]);
    let folder = tempfile::tempdir().unwrap();
    let info = adapted.model().info().clone();
    adapter::save(adapted.model_mut(), &info, ADAPTER, &plan, &config, "someone/base", folder.path())
        .unwrap();
    let again = AdaptedModel::load(&model, folder.path().to_str(), options()).unwrap();
    assert_eq!(again.adapters()[0].plan.targets, plan.targets);
    let batch = random_batch(&[4, 9], 61, 3);
    let answers = |adapted: &AdaptedModel| adapted.logits(&batch, Some(ADAPTER)).unwrap();
    assert_eq!(answers(&again), answers(&adapted));
}

#[test]
fn saving_what_was_loaded_gives_the_same_bytes_and_the_same_answers() {
    for case in cases() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (adapted, batch) = load(&case, Compute::F32);
        let answers = adapted.logits(&batch, Some(ADAPTER)).unwrap();
        let mut source = case.adapter().unwrap();
        for folder in &folders {
            let mut again = load(&case, Compute::F32).0;
            adapter::detach(again.model_mut(), ADAPTER);
            let info = again.model().info().clone();
            let file = AdapterFile::open(source.as_ref()).unwrap();
            let plan = file.attach(again.model_mut(), &info, ADAPTER).unwrap();
            assert_eq!(plan, again.adapters()[0].plan, "{}", case.name);
            assert_eq!(again.logits(&batch, Some(ADAPTER)).unwrap(), answers, "{}", case.name);
            save(&mut again, &source, folder.path());
            source = folder.path().to_string_lossy().into_owned();
        }
        for name in ["adapter_model.safetensors", "adapter_config.json"] {
            let read = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(name)).unwrap();
            assert_eq!(read(&folders[0]), read(&folders[1]), "{}: {name}", case.name);
        }
    }
}
