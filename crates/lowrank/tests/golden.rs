//! Logits, losses and gradients of PyTorch + PEFT, on this process's CPU tier.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Case, difference};
use lowrank::adapter::AdapterFile;
use lowrank::hub::Tensors;
use lowrank::models::HeadSpec;
use lowrank::train::{AdaptedModel, forward};
use lowrank_kernels::{Compute, Tier};

fn run(case: &Case, compute: Compute) -> Result<Tensors, String> {
    let adapter = case.adapter();
    let loaded = AdaptedModel::load(&case.model(), adapter.as_deref(), case.options(compute));
    let mut adapted = loaded.map_err(|error| error.to_string())?;
    let file = adapter.map(|folder| AdapterFile::open(folder.as_ref()).unwrap());
    let id = adapted.first_adapter();
    forward(&mut adapted, &case.inputs(), id, file.as_ref()).map_err(|error| error.to_string())
}

/// Checks every case, and tells of all that fail.
fn each_case(mut check: impl FnMut(&Case) -> Result<(), String>) {
    let mut failure = |case: &Case| check(case).err().map(|reason| format!("{}: {reason}", case.name));
    let failures: Vec<String> = Case::all().iter().filter_map(&mut failure).collect();
    let (count, tier) = (failures.len(), Tier::active());
    assert!(failures.is_empty(), "{count} cases fail on {tier}:\n{}", failures.join("\n"));
}

fn require(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

#[test]
fn logits_losses_and_gradients_are_those_of_pytorch_in_f32() {
    each_case(|case| {
        let outputs = run(case, Compute::F32)?;
        for (name, expected) in case.expected() {
            let actual = outputs.get(&name).ok_or_else(|| format!("no {name}"))?.to_f32_vec();
            let same = (actual.len(), expected.len());
            require(same.0 == same.1, || format!("{name} has {} elements, not {}", same.0, same.1))?;
            let (off, scale) = difference(&actual, &expected);
            require(off <= 2e-5 * scale.max(1.0), || format!("{name} is off by {off:e} of {scale}"))?;
        }
        Ok(())
    });
}

/// Rounding alone moves the gradients of these tiny models: PyTorch's own bf16 autocast is up to 2.9e-2 from its f32,
/// logits up to 4.5e-2. Where it stays below 2e-2, so must this program; elsewhere it may be 1.5 times as far.
#[test]
fn logits_and_gradients_in_bf16_are_within_two_percent_or_as_near_as_pytorchs() {
    each_case(|case| {
        let outputs = run(case, Compute::Bf16)?;
        let (gradients, logits): (Vec<_>, Vec<_>) = case
            .expected()
            .into_iter()
            .filter(|(name, _)| name != "loss")
            .partition(|(name, _)| !name.ends_with("logits"));
        for (what, expected) in [("logits", logits), ("gradient", gradients)] {
            // Logits below 1 are compared as if they were 1.
            let floor = if what == "logits" { logits_floor(&expected) } else { f64::MIN_POSITIVE };
            let (mut off, mut whole) = (0.0, 0.0);
            for (name, expected) in expected {
                let actual = outputs.get(&name).ok_or_else(|| format!("no {name}"))?;
                for (actual, expected) in actual.to_f32_vec().into_iter().zip(expected) {
                    off += f64::from(actual - expected).powi(2);
                    whole += f64::from(expected).powi(2);
                }
            }
            let error = (off / f64::max(whole, floor)).sqrt();
            let pytorch = case.facts["pytorch_bf16_error"][what].as_f64().unwrap_or(0.0);
            let within = error <= (1.5 * pytorch).max(2e-2);
            require(within, || format!("{what} off by {error:.4}, PyTorch by {pytorch:.4}"))?;
        }
        Ok(())
    });
}

fn logits_floor(logits: &[(String, Vec<f32>)]) -> f64 {
    logits.iter().map(|(_, values)| values.len() as f64).sum()
}

#[test]
fn every_tensor_of_an_adapter_file_gets_a_gradient_under_its_own_key() {
    each_case(|case| {
        let Some(folder) = case.adapter() else { return Ok(()) };
        let outputs = run(case, Compute::F32)?;
        let file = lowrank::hub::Checkpoint::open_adapter(folder).unwrap();
        let ignored: Vec<&str> =
            case.facts["ignored"].as_array().into_iter().flatten().filter_map(|key| key.as_str()).collect();
        for key in file.names().filter(|key| !ignored.contains(key)) {
            require(outputs.contains_key(&format!("grad.{key}")), || format!("no gradient of {key}"))?;
        }
        Ok(())
    });
}

#[test]
fn the_count_of_parameters_is_pefts_line_digit_for_digit() {
    use lowrank::adapter::{ParameterCount, plan};
    each_case(|case| {
        let (Some(folder), Some(line)) = (case.adapter(), case.facts["peft_trainable_line"].as_str()) else {
            return Ok(());
        };
        let config = lowrank::models::read_config(case.model().as_ref()).unwrap();
        let model = lowrank::models::from_config(&config, case.spec()).unwrap();
        let file = AdapterFile::open(folder.as_ref()).unwrap();
        let config = file.config_for(&*model, model.info()).unwrap();
        let plan = plan(&*model, model.info(), &config).map_err(|error| error.to_string())?;
        let count = ParameterCount::with_adapter(&*model, &plan).to_string();
        require(count == line, || format!("{count}\n  PEFT: {line}"))
    });
}

/// The experts of a stack are one there, below a wrapper for each parameter of a module but the last.
#[test]
fn the_adapted_modules_are_those_of_peft() {
    use std::collections::BTreeSet;
    let mut compared = 0;
    each_case(|case| {
        let (Some(folder), Some(expected)) = (case.adapter(), case.facts["targets"].as_array()) else {
            return Ok(());
        };
        compared += 1;
        let config = lowrank::models::read_config(case.model().as_ref()).unwrap();
        let model = lowrank::models::from_config(&config, case.spec()).unwrap();
        let plan = AdapterFile::open(folder.as_ref()).unwrap().plan(&*model, model.info());
        let targets = plan.map_err(|error| error.to_string())?.targets;
        let linears = targets.linears.iter().map(|layer| match layer.stacked() {
            Some(stacked) => stacked.module.as_str(),
            None => layer.path.as_str(),
        });
        let found: BTreeSet<&str> =
            linears.chain(targets.embeddings.iter().map(|layer| layer.path.as_str())).collect();
        let expected: BTreeSet<&str> = expected.iter().filter_map(|name| name.as_str()).collect();
        // Under Transformers 4, those of some models have other names.
        let older = model.info().older_name.map(|older| found.iter().map(|name| older(name)).collect());
        let older: BTreeSet<String> = older.unwrap_or_default();
        let same = found == expected || expected.iter().copied().eq(older.iter().map(String::as_str));
        require(same, || format!("{found:?}\n  PEFT: {expected:?}"))
    });
    assert!(compared > 60);
}

#[test]
fn the_modules_are_those_of_transformers() {
    let text = std::fs::read_to_string(common::fixtures().join("modules.json")).unwrap();
    let expected: std::collections::BTreeMap<String, Vec<String>> = serde_json::from_str(&text).unwrap();
    assert!(expected.len() > 20, "an architecture of each kind, with each head");
    for (name, mut expected) in expected {
        let (folder, task) = name.split_once(':').unwrap_or((&name, ""));
        let config = lowrank::models::read_config(&common::fixtures().join("models").join(folder)).unwrap();
        let head = match task {
            "" => config.head.unwrap_or(config.usual_head()),
            task => common::head_of(task),
        };
        let model = lowrank::models::from_config(&config, HeadSpec::new(head, 2)).unwrap();
        let mut paths = Vec::new();
        lowrank::nn::for_each_module(&*model, |path, _| paths.push(path.to_owned()));
        paths.sort();
        expected.sort();
        assert_eq!(paths, expected, "{name}");
    }
}
