//! Adapter folders looked at.

use std::fs;
use std::path::Path;

use lowrank::adapter::tools::{diff, inspect, validate};
use lowrank::hub::Tensors;
use lowrank::tensor::Tensor;
use serde_json::{Value, json};

use crate::common::Case;
use crate::variants::{PREFIX, Variant};

#[test]
fn every_adapter_of_pefts_is_valid() {
    let mut count = 0;
    for case in Case::all() {
        if let Some(adapter) = case.adapter() {
            let validation = validate(&adapter);
            assert!(validation.is_valid() && validation.layers > 0, "{}: {validation}", case.name);
            count += 1;
        }
    }
    assert!(count > 20);
    for (variant, adapter) in Variant::all() {
        let folder = tempfile::tempdir().unwrap();
        let validation = validate(&adapter.write(folder.path(), |_| ()));
        assert!(validation.is_valid(), "{variant}: {validation}");
    }
}

fn set(folder: &Path, key: &str, value: Value) {
    let path = folder.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn each_defect_is_found_and_named() {
    let key = |name: &str| format!("{PREFIX}{name}");
    type Change = Box<dyn Fn(&mut Tensors)>;
    type Defect<'a> = (Change, Option<(&'a str, Value)>, &'a [&'a str]);
    let nothing = || -> Change { Box::new(|_| ()) };
    let insert = |name: &str, shape: [usize; 2]| -> Change {
        let name = key(name);
        Box::new(move |tensors| {
            let values = vec![1.0_f32; shape[0] * shape[1]];
            tensors.insert(name.clone(), Tensor::from_slice(shape, &values));
        })
    };
    let removed = key("query.lora_B.weight");
    let infinite = key("value.lora_A.weight");
    let cases: Vec<Defect<'_>> = vec![
        (Box::new(move |tensors| drop(tensors.remove(&removed))), None, &["query.lora_B.weight", "missing"]),
        (
            Box::new(move |tensors| tensors.get_mut(&infinite).unwrap().make_mut::<f32>()[8] = f32::NAN),
            None,
            &["value.lora_A.weight", "NaN at [1, 1]"],
        ),
        (insert("query.lora_A.weight", [2, 7]), None, &["query.lora_A.weight", "2 rows", "r is 3"]),
        (insert("query.lora_B.weight", [9, 2]), None, &["query.lora_B.weight", "2 columns"]),
        (insert("score.weight", [2, 7]), None, &["score.weight", "neither modules_to_save nor bias"]),
        (nothing(), Some(("rank_pattern", json!({"key": 3}))), &["rank_pattern", "\"key\"", "no layer"]),
        (nothing(), Some(("alpha_pattern", json!({"key": 3}))), &["alpha_pattern", "\"key\"", "no layer"]),
        // One name matches nothing while others match: PEFT passes over it.
        (
            nothing(),
            Some(("target_modules", json!(["query", "value", "words", "kee"]))),
            &["target_modules", "\"kee\"", "no layer"],
        ),
        (
            nothing(),
            Some(("target_modules", json!(["query", "words"]))),
            &["value", "target_modules does not mean it"],
        ),
        (nothing(), Some(("exclude_modules", json!(["value"]))), &["value", "exclude_modules means it"]),
        (
            nothing(),
            Some(("modules_to_save", json!(["norm"]))),
            &["modules_to_save", "\"norm\"", "no tensor"],
        ),
        (nothing(), Some(("lora_bias", json!(true))), &["query.lora_B.bias", "missing"]),
        (nothing(), Some(("use_dora", json!(true))), &["query.lora_magnitude_vector", "missing"]),
        (
            insert("value.lora_magnitude_vector", [9, 1]),
            Some(("use_dora", json!(true))),
            &["value.lora_magnitude_vector", "as long as B has rows"],
        ),
        (
            insert("value.lora_magnitude_vector", [9, 1]),
            None,
            &["value.lora_magnitude_vector", "does not say that use_dora is true"],
        ),
        (nothing(), Some(("use_qalora", json!(true))), &["use_qalora", "not supported"]),
        (
            nothing(),
            Some(("trainable_token_indices", json!({"table": [1, 2]}))),
            &["trainable_token_indices", "table has no token_adapter"],
        ),
        (
            insert("table.token_adapter.trainable_tokens_delta", [2, 7]),
            Some(("trainable_token_indices", json!({"table": [1, 2, 3]}))),
            &["trainable_tokens_delta", "2 rows", "3 entries"],
        ),
        (
            insert("table.token_adapter.trainable_tokens_delta", [2, 7]),
            Some(("trainable_token_indices", json!([5, 5]))),
            &["trainable_token_indices", "5 is there twice"],
        ),
    ];
    for (change, setting, parts) in cases {
        let folder = tempfile::tempdir().unwrap();
        let name = Variant::plain(3, 1).write(folder.path(), change);
        if let Some((key, value)) = setting {
            set(folder.path(), key, value);
        }
        let findings = validate(&name).findings;
        let named = |finding: &&String| parts.iter().all(|part| finding.contains(part));
        assert!(findings.iter().any(|finding| named(&finding)), "{parts:?} is not in {findings:?}");
    }
}

#[test]
fn all_defects_are_listed_and_not_the_first_alone() {
    let folder = tempfile::tempdir().unwrap();
    let name = Variant::plain(3, 1).write(folder.path(), |tensors| {
        tensors.retain(|key, _| !key.contains("query.lora_A") && !key.contains("value.lora_B"));
    });
    set(folder.path(), "rank_pattern", json!({"key": 3, "dense": 2}));
    let validation = validate(&name);
    assert_eq!(validation.findings.len(), 4, "{validation}");
    assert!(validate("nowhere/to be found").findings[0].contains("no such folder"));
}

#[test]
fn an_inspection_tells_norms_ranks_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let name = Variant::all()[2].1.write(folder.path(), |_| ());
    let inspection = inspect(&name).unwrap();
    let [query, value, words] = &inspection.layers[..] else { panic!("{inspection}") };
    assert_eq!((query.r, value.r, words.r), (3, 2, 3));
    let root = 3.0_f32.sqrt();
    assert_eq!((query.scaling, value.scaling), (5.0 / root, 5.0 / 2.0_f32.sqrt()));
    assert!((words.scaling - 7.0 / root).abs() < 1e-6);
    assert_eq!((query.shape, query.rank, query.bytes), ([9, 7], 3, 4 * 3 * (9 + 7)));
    let formed = &crate::products(folder.path())["query"];
    assert!((query.norm - crate::norm(formed)).abs() < 1e-9 * query.norm);
    assert!(query.effective_rank > 1.0 && query.effective_rank <= 3.0);
    assert_eq!(inspection.bytes, 4 * inspection.elements);
    assert_eq!(inspection.elements, 3 * 16 + 2 * 16 + 3 * 18);
    assert!(inspection.to_string().contains("use_rslora: true"), "{inspection}");
}

#[test]
fn a_difference_is_of_products_and_not_of_factors() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = Variant::plain(3, 1);
    let one = adapter.write(&folder.path().join("one"), |_| ());
    assert!(diff(&one, &one).unwrap().is_same_function());
    // Twice A and half of B: the same product, in other factors.
    let halves = adapter.write(&folder.path().join("halves"), |tensors| {
        for (key, by) in [("query.lora_A.weight", 2.0), ("query.lora_B.weight", 0.5)] {
            let values = tensors.get_mut(&format!("{PREFIX}{key}")).unwrap().make_mut::<f32>();
            values.iter_mut().for_each(|value| *value *= by);
        }
    });
    let same = diff(&one, &halves).unwrap();
    assert!(
        same.settings.is_empty()
            && same.layers.iter().all(|layer| layer.distance.unwrap() < 1e-12 * layer.norm[0])
    );
    let other = Variant { settings: json!({"r": 3, "lora_alpha": 10}), ..Variant::plain(3, 1) };
    let twice = diff(&one, &other.write(&folder.path().join("other"), |_| ())).unwrap();
    assert_eq!(twice.settings.iter().map(|changed| changed.key.as_str()).collect::<Vec<_>>(), ["lora_alpha"]);
    for layer in &twice.layers {
        let [norm, _] = layer.norm;
        assert!(
            (layer.distance.unwrap() - norm).abs() < 1e-6 * norm
                && (layer.cosine.unwrap() - 1.0).abs() < 1e-9
        );
    }
    assert!(twice.to_string().contains("they do not do the same"), "{twice}");
}
