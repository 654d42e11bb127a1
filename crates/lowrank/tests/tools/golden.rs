//! `tests/golden/fixtures/combine`: what PEFT makes of the same adapters.

use std::collections::BTreeMap;

use lowrank::adapter::tools::{CombineOptions, MajoritySign, combine};
use serde_json::Value;

use crate::common::read_tensors;
use crate::variants::fixture;
use crate::{off, products, sum};

#[test]
fn what_peft_makes_of_adapters_is_made_of_them_here() {
    let calls: Value = serde_json::from_slice(&std::fs::read(fixture("calls.json")).unwrap()).unwrap();
    let expected: BTreeMap<String, Vec<f32>> =
        read_tensors(&fixture("expected.safetensors")).into_iter().collect();
    let mut compared = 0;
    for (name, call) in calls.as_object().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let names = call["adapters"].as_array().unwrap().iter().map(|name| fixture(name.as_str().unwrap()));
        let weights = call["weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap());
        let adapters: Vec<(String, f64)> =
            names.map(|path| path.to_string_lossy().into_owned()).zip(weights).collect();
        let report = combine(&CombineOptions {
            adapters: &adapters,
            method: call["method"].as_str().unwrap().parse().unwrap(),
            density: call["density"].as_f64(),
            rank: call["svd_rank"].as_u64().map(|rank| rank as usize),
            majority_sign: match call["majority_sign_method"].as_str() {
                Some("frequency") => MajoritySign::Frequency,
                _ => MajoritySign::Total,
            },
            seed: 1,
            out: &out,
        })
        .unwrap();
        let parts: Vec<_> =
            adapters.iter().map(|(path, weight)| (*weight, products(path.as_ref()))).collect();
        let wanted = sum(&parts.iter().map(|(weight, layers)| (*weight, layers)).collect::<Vec<_>>());
        for (layer, made) in products(&out) {
            let mut theirs: Vec<f64> =
                expected[&format!("{name}.{layer}")].iter().map(|value| f64::from(*value)).collect();
            if layer == "words" {
                // PEFT's product is what is added to the table, `[entries, width]`.
                theirs = (0..12)
                    .flat_map(|row| (0..19).map(move |column| column * 12 + row))
                    .map(|at| theirs[at])
                    .collect();
            }
            // PyTorch decomposes in f32.
            assert!(off(&made, &theirs) < 2e-5, "{name}: {layer} is off by {:e}", off(&made, &theirs));
            let told = report.layers.iter().find(|told| told.name == layer).unwrap().relative_error;
            let actual = off(&made, &wanted[&layer]);
            assert!((told - actual).abs() < 1e-7, "{name}: {layer} is off by {actual} and not by {told}");
            compared += 1;
        }
    }
    assert_eq!(compared, expected.len());
}
