//! The original write-up's head, and what it trains beside the adapter.

use std::collections::BTreeMap;
use std::path::Path;

use lowrank::hub::{Checkpoint, to_tensor};

use super::workshop::{Workshop, golden};

fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let file = Checkpoint::open_file(path).unwrap();
    let value = |name: &str| to_tensor(name, &file.get(name).unwrap()).unwrap().to_f32_vec();
    file.names().map(|name| (name.to_owned(), value(name))).collect()
}

const EVAL: [&str; 11] =
    ["eval", "--model", "model", "--adapter", "out", "--task", "sst2", "--data", "dev.tsv", "--dtype", "f32"];

#[test]
fn the_write_ups_head_is_known_again_by_eval_predict_and_forward() {
    for model in ["models/bert", "models/distilbert"] {
        let workshop = Workshop::of(model);
        let head = ["--set", "head=norm-dropout-linear", "--set", "head_dropout=0.2"];
        let train = [&["train", "run.toml", "--json", "--dtype", "f32"], &head[..]].concat();
        let summary = workshop.succeed(&train).json();
        let saved = tensors(&workshop.path("out/adapter_model.safetensors"));
        for name in ["norm.weight", "norm.bias", "linear.weight", "linear.bias"] {
            assert!(saved.contains_key(&format!("base_model.model.classifier.{name}")), "{name} in {model}");
        }
        let scores = workshop.succeed(&[&EVAL[..], &["--json"]].concat()).json();
        assert_eq!(scores["accuracy"], summary["eval"]["accuracy"]);
        let loss = |scores: &serde_json::Value| scores["loss"].as_f64().unwrap();
        assert!((loss(&scores) - loss(&summary["eval"])).abs() < 1e-6, "{model}");

        let predict = "predict --model model --adapter out --task sst2 --data dev.tsv --out a.jsonl";
        workshop.succeed(&predict.split(' ').collect::<Vec<_>>());
        let inputs = golden("cases/bert_query_value/inputs.safetensors").to_string_lossy().into_owned();
        let forward = "forward --model model --adapter out --gradients --outputs o.safetensors --inputs";
        if model == "models/bert" {
            workshop.succeed(&[&forward.split(' ').collect::<Vec<_>>()[..], &[inputs.as_str()]].concat());
            let outputs = tensors(&workshop.path("o.safetensors"));
            let gradient = &outputs["grad.base_model.model.classifier.norm.weight"];
            assert!(gradient.iter().any(|value| *value != 0.0));
        }
    }
}

#[test]
fn the_write_ups_head_is_known_again_in_a_model_that_was_trained_whole() {
    let workshop = Workshop::new();
    let head = ["--set", "head=norm-dropout-linear", "--method", "full"];
    let summary = workshop.succeed(&[&["train", "run.toml", "--json", "--dtype", "f32"], &head[..]].concat());
    let eval = "eval --model out --task sst2 --data dev.tsv --dtype f32 --json";
    let scores = workshop.succeed(&eval.split(' ').collect::<Vec<_>>()).json();
    let loss = |scores: &serde_json::Value| scores["loss"].as_f64().unwrap();
    assert!((loss(&scores) - loss(&summary.json()["eval"])).abs() < 1e-6, "{scores}");
}

#[test]
fn what_the_write_ups_flags_train_is_what_is_saved() {
    for model in ["models/bert", "models/roberta", "models/distilbert"] {
        let workshop = Workshop::of(model);
        let flags = ["train_biases", "train_layer_norms", "train_embeddings"];
        let mut train = vec!["train".to_owned(), "run.toml".to_owned(), "--json".to_owned()];
        for flag in flags {
            train.extend(["--set".to_owned(), format!("lora.{flag}=true")]);
        }
        train.extend(["--dtype".to_owned(), "f32".to_owned()]);
        let summary = workshop.succeed(&train.iter().map(String::as_str).collect::<Vec<_>>()).json();
        let before = tensors(&workshop.path("model/model.safetensors"));
        let after = tensors(&workshop.path("out/adapter_model.safetensors"));
        let after: BTreeMap<String, &Vec<f32>> = after
            .iter()
            .map(|(key, value)| {
                (key.trim_start_matches("base_model.model.").replace(".base_layer", ""), value)
            })
            .collect();
        let norm = |name: &str| name.contains("LayerNorm") || name.contains("layer_norm");
        for (name, value) in &before {
            let head = name.starts_with("classifier") || name.starts_with("pre_classifier");
            let wanted = head || norm(name) || name.ends_with(".bias") || name.contains("_embeddings.");
            assert_eq!(after.contains_key(name), wanted, "{name} of {model}");
            // Rows of a table that no text has stay as they are, and so do keys' biases nearly.
            if let Some(trained) = after.get(name).filter(|_| norm(name) || name.contains("word_emb")) {
                assert_ne!(*trained, value, "{name} of {model} was trained");
            }
        }
        let elements = after.values().map(|value| value.len()).sum::<usize>();
        assert_eq!(summary["trainable_parameters"], elements, "{model}");
        let scores = workshop.succeed(&[&EVAL[..], &["--json"]].concat()).json();
        assert_eq!(scores["accuracy"], summary["eval"]["accuracy"], "{model}");
    }
}
