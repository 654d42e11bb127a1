//! Model folders with adapters merged into them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Case, attach_perturbed, difference};
use lowrank::adapter::{self, AdapterFile, LoraConfig, Targets};
use lowrank::hub::{Checkpoint, StoredDtype};
use lowrank::tape::AdapterId;
use lowrank::train::{
    AdaptedModel, LoadOptions, MergeOptions, MergeReport, QuantizeOptions, forward, merge, quantize,
};
use lowrank_kernels::Compute;

fn merged(model: &str, adapters: &[String], out: &Path) -> lowrank::Result<MergeReport> {
    merge(&MergeOptions { model, adapters, out, dequantize: false })
}

/// What `lowrank forward` makes of a case's inputs, without gradients.
fn outputs(case: &Case, model: &str, adapter: Option<&str>) -> Vec<(String, Vec<f32>)> {
    let mut adapted = AdaptedModel::load(model, adapter, case.options(Compute::F32)).unwrap();
    let id = adapted.first_adapter();
    let outputs = forward(&mut adapted, &case.inputs(), id, None).unwrap();
    outputs.into_iter().map(|(name, tensor)| (name, tensor.to_f32_vec())).collect()
}

/// Every architecture, every kind of adapter: what the adapter gives is what the folder gives.
#[test]
fn a_merged_folder_answers_as_the_model_under_its_adapter() {
    let (mut count, mut refused) = (0, Vec::new());
    for case in Case::all() {
        let Some(folder) = case.adapter() else { continue };
        let out = tempfile::tempdir().unwrap();
        let report = match merged(&case.model(), std::slice::from_ref(&folder), out.path()) {
            Ok(report) => report,
            Err(error) => {
                assert!(
                    error.to_string().contains("Transformers gives them one value"),
                    "{}: {error}",
                    case.name
                );
                refused.push(case.name.clone());
                continue;
            }
        };
        assert!(report.largest_change > report.largest_difference, "{}: {report}", case.name);
        assert!(report.merged > 0, "{}", case.name);
        let checkpoint = Checkpoint::open(case.model()).unwrap();
        let is_f32 = checkpoint
            .names()
            .all(|key| !matches!(checkpoint.get(key).unwrap().dtype, StoredDtype::BF16 | StoredDtype::F16));
        let after = outputs(&case, out.path().to_str().unwrap(), None);
        for ((name, before), (_, after)) in outputs(&case, &case.model(), Some(&folder)).iter().zip(&after) {
            let (off, scale) = difference(after, before);
            let allowed = if is_f32 { 2e-5 } else { 2e-2 };
            assert!(off <= allowed * scale.max(1.0), "{}: {name} is off by {off:e} of {scale}", case.name);
        }
        count += 1;
    }
    assert!(count > 60, "{count} cases; refused: {refused:?}");
    assert!(refused.iter().all(|name| name.starts_with("t5") || name.starts_with("flan")), "{refused:?}");
}

/// Tensors that no adapter changes keep their bytes, files their names and types.
#[test]
fn what_is_not_merged_is_as_it_was() {
    let case = Case::named("bert_bare_bf16_sharded");
    let (out, folder) = (tempfile::tempdir().unwrap(), case.adapter().unwrap());
    let report = merged(&case.model(), &[folder], out.path()).unwrap();
    let (before, after) = (Checkpoint::open(case.model()).unwrap(), Checkpoint::open(out.path()).unwrap());
    let mut changed = 0;
    for key in before.names() {
        let (before, after) = (before.get(key).unwrap(), after.get(key).unwrap());
        assert_eq!((before.dtype, before.shape), (after.dtype, after.shape), "{key}");
        assert_eq!(before.file.file_name(), after.file.file_name(), "{key}");
        changed += usize::from(before.bytes != after.bytes);
    }
    assert_eq!(changed, report.merged);
    let new: Vec<&str> = after.names().filter(|key| before.get(key).is_none()).collect();
    assert_eq!(new, ["classifier.bias", "classifier.weight"]);
    let bytes: u64 = after.names().map(|key| after.get(key).unwrap().bytes.len() as u64).sum();
    assert_eq!(report.bytes, bytes);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(out.path().join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], bytes);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), after.names().len());
}

/// Two adapters, one after the other, are one that adds what both do.
#[test]
fn several_adapters_are_added_up() {
    let [a, b] = ["bert_switch_a", "bert_switch_b"].map(Case::named);
    let adapters = [a.adapter().unwrap(), b.adapter().unwrap()];
    let out = tempfile::tempdir().unwrap();
    // Both bring a head of their own.
    let error = merged(&a.model(), &adapters, out.path()).unwrap_err().to_string();
    assert!(error.contains("classifier.weight: one of them would be lost"), "{error}");
    let same_head = tempfile::tempdir().unwrap();
    let options = LoadOptions { compute: Some(Compute::F32), ..LoadOptions::default() };
    let mut adapted = AdaptedModel::load(&a.model(), Some(&adapters[0]), options).unwrap();
    let config = LoraConfig {
        r: 3,
        target_modules: Some(Targets::Names(vec!["key".into(), "query".into()])),
        ..LoraConfig::default()
    };
    adapter::detach(adapted.model_mut(), AdapterId(0));
    let plan = attach_perturbed(&mut adapted, &config);
    let info = adapted.model().info().clone();
    // The head of the first.
    let mut first = AdaptedModel::load(&a.model(), Some(&adapters[0]), options).unwrap();
    let mut head = Vec::new();
    adapter::for_each_leaf_mut(first.model_mut(), AdapterId(0), |name, leaf| {
        head.extend(name.starts_with("classifier").then(|| (name.to_owned(), leaf.value().to_f32_vec())));
    });
    adapter::for_each_leaf_mut(adapted.model_mut(), AdapterId(0), |name, leaf| {
        if let Some((_, values)) = head.iter().find(|(other, _)| other == name) {
            leaf.value_mut().copy_from_slice(values);
        }
    });
    adapter::save(adapted.model_mut(), &info, AdapterId(0), &plan, &config, "base", same_head.path())
        .unwrap();
    let second = same_head.path().to_str().unwrap().to_owned();
    let report = merged(&a.model(), &[adapters[0].clone(), second.clone()], out.path()).unwrap();
    assert_eq!(report.merged, 6, "query, value and key of two layers");
    // The first merged, then the second into that.
    let steps = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    merged(&a.model(), &adapters[..1], steps[0].path()).unwrap();
    merged(steps[0].path().to_str().unwrap(), &[second], steps[1].path()).unwrap();
    let at_once = outputs(&a, out.path().to_str().unwrap(), None);
    for ((name, one), (_, other)) in at_once.iter().zip(outputs(&a, steps[1].path().to_str().unwrap(), None))
    {
        let (off, scale) = difference(one, &other);
        assert!(off <= 2e-5 * scale.max(1.0), "{name} is off by {off:e}");
    }
}

/// What their magnitudes would be together is nowhere said.
#[test]
fn an_adapter_with_magnitudes_is_merged_alone_and_into_8_bits_too() {
    let [a, dora] = ["bert_switch_a", "bert_dora"].map(|name| Case::named(name).adapter().unwrap());
    let model = Case::named("bert_dora").model();
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [eight, out] = &folders;
    let error = merged(&model, &[a, dora.clone()], out.path()).unwrap_err().to_string();
    assert!(error.contains("use_dora") && error.contains("bert_dora"), "{error}");
    quantize(&QuantizeOptions { model: &model, out: eight.path(), check: false }).unwrap();
    let (model, adapters) = (eight.path().to_str().unwrap(), [dora]);
    merge(&MergeOptions { model, adapters: &adapters, out: out.path(), dequantize: true }).unwrap();
}

/// What it makes up for would be added to weights that lost nothing.
#[test]
fn an_adapter_that_began_by_loftq_goes_with_8_bits_alone() {
    let case = Case::named("bert_query_value");
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(Path::new(&case.adapter().unwrap()).join(name), folder.path().join(name)).unwrap();
    }
    let run = "load_in = \"int8\"\n[lora]\ninit_lora_weights = \"loftq\"\n";
    fs::write(folder.path().join("run.toml"), run).unwrap();
    let adapters = [folder.path().to_str().unwrap().to_owned()];
    let options = LoadOptions { compute: Some(Compute::F32), ..LoadOptions::default() };
    let loaded = AdaptedModel::load(&case.model(), Some(&adapters[0]), options).unwrap();
    assert!(loaded.notes().iter().any(|note| note.contains("--load-in int8")), "{:?}", loaded.notes());
    let [eight, out] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let error = merged(&case.model(), &adapters, out.path()).unwrap_err().to_string();
    assert!(error.contains("loftq") && error.contains(&adapters[0]), "{error}");
    quantize(&QuantizeOptions { model: &case.model(), out: eight.path(), check: false }).unwrap();
    let model = eight.path().to_str().unwrap();
    merge(&MergeOptions { model, adapters: &adapters, out: out.path(), dequantize: true }).unwrap();
}

#[test]
fn weights_in_8_bits_are_merged_as_dense_ones_where_that_is_asked_for() {
    let case = Case::named("llama_all_linear");
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [eight, out] = &folders;
    quantize(&QuantizeOptions { model: &case.model(), out: eight.path(), check: false }).unwrap();
    let model = eight.path().to_str().unwrap();
    let adapters = [case.adapter().unwrap()];
    let error = merged(model, &adapters, out.path()).unwrap_err().to_string();
    assert!(error.contains("8 bits") && error.contains("--dequantize"), "{error}");
    assert!(fs::read_dir(out.path()).unwrap().next().is_none(), "nothing is left");
    merge(&MergeOptions { model, adapters: &adapters, out: out.path(), dequantize: true }).unwrap();
    let after = Checkpoint::open(out.path()).unwrap();
    let base = Checkpoint::open(case.model()).unwrap();
    assert_eq!(after.names().collect::<Vec<_>>(), base.names().collect::<Vec<_>>());
    let config = fs::read_to_string(out.path().join("config.json")).unwrap();
    assert!(!config.contains("quantization_config"), "{config}");
}

#[test]
fn a_folder_that_is_not_empty_and_a_sum_that_is_not_finite_are_refused() {
    let case = Case::named("bert_query_value");
    let adapter = case.adapter().unwrap();
    let full = tempfile::tempdir().unwrap();
    fs::write(full.path().join("a"), "").unwrap();
    let error = merged(&case.model(), std::slice::from_ref(&adapter), full.path()).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");

    let broken = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(Path::new(&adapter).join(name), broken.path().join(name)).unwrap();
    }
    let file = broken.path().join("adapter_config.json");
    let text = fs::read_to_string(&file).unwrap().replace("\"lora_alpha\": 16", "\"lora_alpha\": 1e42");
    fs::write(&file, text).unwrap();
    AdapterFile::open(broken.path()).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("merged");
    let error = merged(&case.model(), &[broken.path().to_str().unwrap().to_owned()], &out).unwrap_err();
    assert!(error.to_string().contains("would not be finite"), "{error}");
    assert!(fs::read_dir(parent.path()).unwrap().next().is_none(), "nothing is left");
}
