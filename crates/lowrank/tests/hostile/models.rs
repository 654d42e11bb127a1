//! Model folders.

use std::fs;

use lowrank::data::Columns;
use lowrank::hub::{StoredDtype, TensorToWrite, Tensors, write_safetensors, write_tensors};
use lowrank::tensor::{DType, Tensor};
use lowrank::train::{AdaptedModel, Ask, AskOptions, LoadOptions, read_batch};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{bert_config, write_model};
use crate::{assert_refused, change};

fn model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &bert_config(1), 2);
    load(&folder).unwrap();
    folder
}

fn load(folder: &TempDir) -> lowrank::Result<AdaptedModel> {
    AdaptedModel::load(folder.path().to_str().unwrap(), None, LoadOptions::default())
}

const QUERY: &str = "bert.encoder.layer.0.attention.self.query.weight";

#[test]
fn inputs_without_a_token() {
    let folder = model();
    let adapted = load(&folder).unwrap();
    let path = folder.path().join("inputs.safetensors");
    for shape in [[0, 4], [2, 0]] {
        write_tensors(&path, &Tensors::from([("input_ids".to_owned(), Tensor::zeros(shape, DType::F32))]))
            .unwrap();
        assert_refused(read_batch(&path, adapted.model().info()), &["input_ids", "it holds no token"]);
    }
}

#[test]
fn a_folder_without_weights_or_configuration() {
    let folder = model();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert_refused(load(&folder), &["no model.safetensors", folder.path().to_str().unwrap()]);
    fs::write(folder.path().join("pytorch_model.bin"), "pickle").unwrap();
    assert_refused(load(&folder), &["only pytorch_model.bin", "safetensors"]);
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_refused(load(&folder), &["config.json"]);
    let nowhere = folder.path().join("nowhere");
    let result = AdaptedModel::load(nowhere.to_str().unwrap(), None, LoadOptions::default());
    assert_refused(result, &["nowhere"]);
}

#[test]
fn a_missing_tensor_is_named_with_the_nearest_that_is_there() {
    let folder = model();
    change(&folder.path().join("model.safetensors"), |tensors| {
        let query = tensors.remove(QUERY).unwrap();
        tensors.insert(QUERY.replace("query", "quary"), query);
    });
    assert_refused(
        load(&folder),
        &[QUERY, "missing", "query".replace('e', "a").as_str(), "model.safetensors"],
    );
}

#[test]
fn a_model_without_a_pooler_has_no_head() {
    let folder = model();
    change(&folder.path().join("model.safetensors"), |tensors| {
        tensors.remove("bert.pooler.dense.bias").unwrap();
    });
    assert_refused(load(&folder), &["bert.pooler.dense.bias", "missing"]);
    change(&folder.path().join("model.safetensors"), |tensors| {
        tensors.remove("bert.pooler.dense.weight").unwrap();
    });
    let adapted = load(&folder).unwrap();
    let head = ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"];
    let missing = &adapted.report().missing_head;
    assert!(head.iter().all(|name| missing.iter().any(|other| other == name)), "{missing:?}");
    let options = AskOptions {
        style: lowrank::models::HeadStyle::Default,
        stride: None,
        source_prefix: None,
        packing: None,
        null_threshold: 0.0,
        load_in: lowrank::models::LoadIn::Auto,
        model: folder.path().to_str().unwrap(),
        adapter: None,
        task: "sst2",
        data: folder.path(),
        labels: Vec::new(),
        columns: Columns::default(),
        max_length: None,
        limit: 0,
        compute: None,
    };
    assert_refused(Ask::load(&options), &["no head", "bert.pooler.dense.weight"]);
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let folder = model();
    change(&folder.path().join("model.safetensors"), |tensors| {
        tensors.insert(QUERY.into(), Tensor::zeros([33, 32], DType::F32));
    });
    assert_refused(load(&folder), &[QUERY, "[33, 32]", "33"]);
    change(&folder.path().join("model.safetensors"), |tensors| {
        tensors.insert(QUERY.into(), Tensor::zeros([33 * 33], DType::F32));
    });
    assert_refused(load(&folder), &[QUERY, "[1089]"]);
}

#[test]
fn a_tensor_that_nothing_accounts_for_is_named() {
    for key in [
        "bert.encoder.layer.1.attention.self.query.weight",
        "bert.embeddings.extra",
        "bert.encoder.layer.0.attention.self.query.weight_scale",
        "adapter.weight",
        "classifier2.weight",
    ] {
        let folder = model();
        change(&folder.path().join("model.safetensors"), |tensors| {
            tensors.insert(key.into(), Tensor::zeros([3, 5], DType::F32));
        });
        assert_refused(
            load(&folder),
            &[key, "no part of BertForSequenceClassification", "model.safetensors"],
        );
    }
}

#[test]
fn a_key_with_a_line_break_does_not_break_the_sentence() {
    let folder = model();
    change(&folder.path().join("model.safetensors"), |tensors| {
        tensors.insert("evil\nkey\u{1b}[31m".into(), Tensor::zeros([3, 5], DType::F32));
    });
    assert_refused(load(&folder), &["evil\\nkey\\u{1b}[31m"]);
}

#[test]
fn a_tensor_of_a_type_that_is_no_weight_is_named() {
    let folder = model();
    let path = folder.path().join("model.safetensors");
    let bytes = vec![0; 33 * 33 * 8];
    let shape = [33, 33];
    // The tensors before it in the model must be there.
    let mut others = lowrank::hub::Tensors::new();
    change(&path, |tensors| {
        tensors.remove(QUERY);
        others = tensors.clone();
    });
    let shapes: Vec<_> = others.values().map(Tensor::shape).collect();
    let mut views: Vec<TensorToWrite<'_>> = others
        .iter()
        .zip(&shapes)
        .map(|((name, t), shape)| TensorToWrite {
            name,
            dtype: StoredDtype::F32,
            shape: shape.dims(),
            bytes: t.bytes(),
        })
        .collect();
    views.push(TensorToWrite { name: QUERY, dtype: StoredDtype::I64, shape: &shape, bytes: &bytes });
    write_safetensors(&path, &views, &[]).unwrap();
    assert_refused(load(&folder), &[QUERY, "I64", "f32, bf16 and f16"]);
}

/// Every value that makes no model: of the wrong type, out of range, or larger than any memory.
#[test]
fn a_configuration_that_makes_no_model_is_refused_with_its_key() {
    for (key, values) in [
        ("model_type", vec![json!(null), json!(3), json!("gpt_neo"), json!(["bert"])]),
        ("vocab_size", vec![json!("84"), json!(0), json!(-84), json!(84.5), json!(null), json!(1_u64 << 40)]),
        ("hidden_size", vec![json!([33]), json!(34), json!(true)]),
        ("num_hidden_layers", vec![json!({}), json!(0), json!(1 << 24), json!(i64::MAX)]),
        ("num_attention_heads", vec![json!("3"), json!(0), json!(2)]),
        ("intermediate_size", vec![json!(null), json!(u64::MAX)]),
        ("hidden_act", vec![json!(1), json!("swish9")]),
        ("hidden_dropout_prob", vec![json!("0.1"), json!(1.0), json!(-0.1)]),
        ("attention_probs_dropout_prob", vec![json!([0.1]), json!(2)]),
        ("max_position_embeddings", vec![json!("70"), json!(0)]),
        ("type_vocab_size", vec![json!(0.5)]),
        ("layer_norm_eps", vec![json!("1e-12")]),
        ("pad_token_id", vec![json!("0"), json!(-1), json!(1_u64 << 33)]),
        ("initializer_range", vec![json!("wide")]),
        ("position_embedding_type", vec![json!("relative_key"), json!(1)]),
        ("is_decoder", vec![json!(true), json!("yes")]),
        ("id2label", vec![json!(["a", "b"]), json!({"zero": "a"}), json!({"0": "a", "2": "b"})]),
        ("num_labels", vec![json!("2"), json!(0)]),
        ("problem_type", vec![json!(1)]),
    ] {
        for value in values {
            let folder = model();
            let mut config = bert_config(1);
            config[key] = value.clone();
            fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            assert_refused(load(&folder), &["config.json", key]);
        }
    }
    // More heads than attention has numbers for.
    let folder = model();
    let mut config = bert_config(1);
    (config["hidden_size"], config["num_attention_heads"]) = (json!(8192), json!(4096));
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    assert_refused(load(&folder), &["config.json", "num_attention_heads"]);
    for text in ["", "{", "[]", "null", "{\"model_type\": \"bert\"}", "\u{0}"] {
        let folder = model();
        fs::write(folder.path().join("config.json"), text).unwrap();
        assert_refused(load(&folder), &["config.json"]);
    }
}

#[test]
fn sizes_that_the_weights_do_not_have_are_an_error_of_the_weights() {
    for (key, value) in
        [("vocab_size", 16_777_216), ("intermediate_size", 16_000_000), ("num_hidden_layers", 4096)]
    {
        let folder = model();
        let mut config: Value = bert_config(1);
        config[key] = json!(value);
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        assert_refused(load(&folder), &["model.safetensors", "tensor bert."]);
    }
}
