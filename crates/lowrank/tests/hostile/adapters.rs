//! Adapter folders.

use std::fs;

use lowrank::hub::{Checkpoint, to_tensor};
use lowrank::tape::AdapterId;
use lowrank::tensor::{DType, Tensor};
use lowrank::train::{AdaptedModel, LoadOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Case, load as load_case};
use crate::{assert_refused, change};

const A: &str = "base_model.model.bert.encoder.layer.1.attention.self.value.lora_A.weight";
const B: &str = "base_model.model.bert.encoder.layer.1.attention.self.value.lora_B.weight";

/// A copy of a golden adapter for the golden BERT.
fn adapter(case: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let source = Case::named(case).folder.join("adapter").join(name);
        fs::copy(source, folder.path().join(name)).unwrap();
    }
    AdaptedModel::load(&Case::named(case).model(), folder.path().to_str(), LoadOptions::default()).unwrap();
    folder
}

fn load(folder: &TempDir) -> lowrank::Result<AdaptedModel> {
    let model = Case::named("bert_query_value").model();
    AdaptedModel::load(&model, folder.path().to_str(), LoadOptions::default())
}

fn set(folder: &TempDir, key: &str, value: Value) {
    let path = folder.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_tensor_that_is_missing_unknown_or_misshaped_is_named() {
    type Change = fn(&mut lowrank::hub::Tensors);
    let changes: [(Change, &[&str]); 7] = [
        (|tensors| drop(tensors.remove(A)), &[A, "missing"]),
        (|tensors| drop(tensors.remove(B)), &[B, "missing"]),
        (|tensors| drop(tensors.remove("base_model.model.classifier.bias")), &["classifier.bias", "missing"]),
        (|t| drop(t.insert(A.into(), Tensor::zeros([8, 23], DType::F32))), &[A, "[8, 23]", "[8, 36]"]),
        (|t| drop(t.insert(B.into(), Tensor::zeros([8, 36], DType::F32))), &[B, "[8, 36]", "[36, 8]"]),
        (
            |t| drop(t.insert(A.replace("value", "key"), Tensor::zeros([8, 36], DType::F32))),
            &["self.key.lora_A.weight", "binds to nothing"],
        ),
        (
            |t| drop(t.insert(A.replace("lora_A", "lora_magnitude_vector"), Tensor::zeros([36], DType::F32))),
            &["lora_magnitude_vector", "binds to nothing"],
        ),
    ];
    for (apply, parts) in changes {
        let folder = adapter("bert_query_value");
        change(&folder.path().join("adapter_model.safetensors"), apply);
        assert_refused(load(&folder), parts);
        assert_refused(load(&folder), &["adapter_model.safetensors"]);
    }
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    let folder = adapter("bert_query_value");
    let key = "base_model.model.classifier.weight";
    change(&folder.path().join("adapter_model.safetensors"), |tensors| {
        tensors.get_mut(key).unwrap().make_mut::<f32>()[1] = f32::NAN;
    });
    assert_refused(load(&folder), &["adapter_model.safetensors", key, "not finite"]);
}

/// The copies that PEFT writes are ignored, but not what they say of shapes.
#[test]
fn a_misshaped_copy_of_a_saved_module_is_named() {
    let folder = adapter("bert_save_everything");
    let key = Case::named("bert_save_everything").facts["ignored"][0].as_str().unwrap().to_owned();
    change(&folder.path().join("adapter_model.safetensors"), |tensors| {
        let old = tensors.insert(key.clone(), Tensor::zeros([2, 25, 1], DType::F32));
        assert!(old.is_some(), "PEFT writes it");
    });
    assert_refused(load(&folder), &[&key, "[2, 25, 1]", "where the model has"]);
}

#[test]
fn a_rank_that_is_not_the_tensors_names_the_tensor() {
    for r in [1_u64, 7, 9, 1 << 16] {
        let folder = adapter("bert_query_value");
        set(&folder, "r", json!(r));
        assert_refused(load(&folder), &["lora_A.weight", "[8, 36]"]);
    }
}

#[test]
fn a_variant_that_computes_something_else_is_refused_with_its_key() {
    for (key, value) in [
        ("use_qalora", json!(true)),
        ("ensure_weight_tying", json!(true)),
        ("layer_replication", json!([[0, 1]])),
        ("alora_invocation_tokens", json!([1])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("corda")),
        ("peft_type", json!("IA3")),
        ("peft_type", json!(7)),
    ] {
        let folder = adapter("bert_query_value");
        set(&folder, key, value);
        assert_refused(load(&folder), &["adapter_config.json", key]);
    }
}

#[test]
fn a_pattern_or_number_that_the_tensors_contradict_is_refused_with_the_tensor() {
    for (key, value, parts) in [
        ("rank_pattern", json!({"query": 4}), ["0.attention.self.query.lora_A.weight", "[8, 36]"]),
        ("lora_bias", json!(true), ["0.attention.self.query.lora_B.bias", "missing"]),
        ("use_dora", json!(true), ["0.attention.self.query.lora_magnitude_vector", "missing"]),
        (
            "trainable_token_indices",
            json!([3]),
            ["word_embeddings.token_adapter.trainable_tokens_delta", "missing"],
        ),
        (
            "layers_to_transform",
            json!([0]),
            ["layer.1.attention.self.query.lora_A.weight", "binds to nothing"],
        ),
        ("layers_to_transform", json!(1), ["layer.0.attention.self.query.lora_A.weight", "binds to nothing"]),
    ] {
        let folder = adapter("bert_query_value");
        set(&folder, key, value);
        assert_refused(load(&folder), &parts);
    }
}

/// A setting of a later PEFT may change what is computed; one that is off does not.
#[test]
fn a_setting_that_peft_has_not_is_refused_with_its_key_and_value_unless_it_is_off() {
    for value in [json!(true), json!(2), json!(0.5), json!("rows"), json!([1]), json!({"a": null})] {
        let folder = adapter("bert_query_value");
        set(&folder, "use_hyperlora", value.clone());
        assert_refused(
            load(&folder),
            &["adapter_config.json", "use_hyperlora", &value.to_string(), "does not have"],
        );
    }
    let folder = adapter("bert_query_value");
    set(&folder, "a\nb", json!("c\nd"));
    assert_refused(load(&folder), &[r"a\nb", r"c\nd"]);
    for value in [json!(null), json!(false), json!(0), json!(0.0), json!(""), json!([]), json!({})] {
        let folder = adapter("bert_query_value");
        set(&folder, "use_hyperlora", value);
        load(&folder).unwrap();
    }
}

#[test]
fn a_setting_that_changes_no_arithmetic_passes() {
    for (key, value) in [
        ("runtime_config", json!({"ephemeral_gpu_offload": true})),
        ("auto_mapping", json!({"base_model_class": "BertModel", "parent_library": "transformers"})),
        ("revision", json!("main")),
        ("peft_version", json!("0.99.0")),
        ("inference_mode", json!(false)),
        ("task_type", json!("FEATURE_EXTRACTION")),
        ("base_model_name_or_path", json!("someone/else")),
        ("megatron_core", json!("other.core")),
        ("qalora_group_size", json!(32)),
        ("fan_in_fan_out", json!(true)),
        ("eva_config", json!({"rho": 2.0})),
    ] {
        let folder = adapter("bert_query_value");
        set(&folder, key, value);
        load(&folder).unwrap();
    }
}

#[test]
fn a_configuration_of_the_wrong_type_is_refused_with_its_key() {
    for (key, value) in [
        ("r", json!(0)),
        ("r", json!(1u64 << 62)),
        ("r", json!("8")),
        ("r", json!(8.5)),
        ("r", json!(-8)),
        ("r", json!(null)),
        ("rank_pattern", json!(["query"])),
        ("rank_pattern", json!({"query": 1.5})),
        ("rank_pattern", json!({"query": 0})),
        ("alpha_pattern", json!({"query": "a"})),
        ("alpha_pattern", json!({"query": -1})),
        ("layers_to_transform", json!("0")),
        ("layers_to_transform", json!([-1])),
        ("layers_pattern", json!(1)),
        ("lora_alpha", json!("16")),
        ("lora_alpha", json!(-1)),
        ("lora_dropout", json!("0.1")),
        ("lora_dropout", json!(1)),
        ("use_rslora", json!("true")),
        ("use_rslora", json!(1)),
        ("bias", json!("some")),
        ("bias", json!(true)),
        ("target_modules", json!(3)),
        ("target_modules", json!([3])),
        ("target_modules", json!("(query")),
        ("modules_to_save", json!("classifier")),
        ("exclude_modules", json!({"a": 1})),
    ] {
        let folder = adapter("bert_query_value");
        set(&folder, key, value);
        assert_refused(load(&folder), &[key]);
    }
    for text in ["", "[]", "{\"r\": 8", "\u{feff}{}", "{}"] {
        let folder = adapter("bert_query_value");
        fs::write(folder.path().join("adapter_config.json"), text).unwrap();
        assert_refused(load(&folder), &["adapter_config.json"]);
    }
}

#[test]
fn a_target_that_matches_nothing_is_named_with_the_nearest() {
    let folder = adapter("bert_query_value");
    set(&folder, "target_modules", json!(["qurey", "value"]));
    assert_refused(load(&folder), &["qurey", "did you mean", "query"]);
    set(&folder, "target_modules", json!(["LayerNorm"]));
    assert_refused(load(&folder), &["target_modules", "LayerNorm", "no linear layer"]);
    set(&folder, "target_modules", json!("query"));
    assert_refused(
        load(&folder),
        &["target_modules", "matches no linear layer or embedding in full", "bert.encoder.layer.0"],
    );
}

/// Its pooler was random when the adapter was made, and is another now.
#[test]
fn an_adapter_without_the_pooler_that_the_model_lacks() {
    let folder = adapter("bert_mlm");
    set(&folder, "modules_to_save", json!(["classifier"]));
    change(&folder.path().join("adapter_model.safetensors"), |tensors| {
        tensors.retain(|name, _| !name.contains("pooler"));
    });
    let model = Case::named("bert_mlm").model();
    let loaded = AdaptedModel::load(&model, folder.path().to_str(), LoadOptions::default());
    assert_refused(loaded, &["bert.pooler.dense.weight", "missing from the adapter"]);
}

/// PEFT asks nothing of `exclude_modules`, so neither does a file.
#[test]
fn a_file_that_excludes_what_the_model_has_not_loads() {
    let folder = adapter("bert_query_value");
    set(&folder, "exclude_modules", json!(["lm_head"]));
    load(&folder).unwrap();
}

#[test]
fn a_folder_without_its_files() {
    let folder = adapter("bert_query_value");
    fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
    assert_refused(load(&folder), &["adapter_model.safetensors", "adapter_model.bin"]);
    fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    assert_refused(load(&folder), &["adapter_config.json"]);
}

#[test]
fn a_failed_adapter_leaves_the_model_as_it_was() {
    let (mut adapted, batch) = load_case(&Case::named("bert_query_value"), lowrank_kernels::Compute::F32);
    let before = adapted.logits(&batch, Some(AdapterId(0))).unwrap();
    let folder = adapter("bert_save_everything");
    change(&folder.path().join("adapter_model.safetensors"), |tensors| {
        tensors.insert("zzz".into(), Tensor::zeros([1], DType::F32));
    });
    assert_refused(adapted.attach(folder.path().to_str().unwrap()), &["zzz"]);
    assert_eq!(adapted.adapters().len(), 1);
    assert_eq!(adapted.logits(&batch, Some(AdapterId(1))).unwrap(), adapted.logits(&batch, None).unwrap());
    assert_eq!(adapted.logits(&batch, Some(AdapterId(0))).unwrap(), before);
}

/// PEFT makes adapters of any rank, so its files of any rank are loaded.
#[test]
fn a_file_of_a_rank_beyond_the_layer_loads() {
    let folder = adapter("bert_query_value");
    let (rank, old) = (40, 8);
    change(&folder.path().join("adapter_model.safetensors"), |tensors| {
        for (name, tensor) in tensors.iter_mut().filter(|(name, _)| name.contains("lora_")) {
            let values = tensor.to_f32_vec();
            *tensor = if name.contains("lora_A") {
                let mut wide = values;
                wide.resize(rank * 36, 0.5);
                Tensor::from_slice([rank, 36], &wide)
            } else {
                let rows = values.chunks(old).map(|row| [row, &vec![0.0; rank - old]].concat());
                Tensor::from_slice([36, rank], &rows.collect::<Vec<_>>().concat())
            };
        }
    });
    set(&folder, "r", json!(rank));
    set(&folder, "lora_alpha", json!(80));
    let wide = load(&folder).unwrap();
    let (narrow, batch) = load_case(&Case::named("bert_query_value"), wide.compute());
    let (wide, narrow) = (wide.logits(&batch, Some(AdapterId(0))), narrow.logits(&batch, Some(AdapterId(0))));
    let off = wide.unwrap().into_iter().zip(narrow.unwrap()).map(|(a, b)| (a - b).abs());
    assert!(off.into_iter().all(|off| off < 1e-5), "alpha / r is 2 in both");
    let file = Checkpoint::open_adapter(folder.path()).unwrap();
    assert_eq!(to_tensor(A, &file.get(A).unwrap()).unwrap().shape().dims(), [rank, 36]);
}
