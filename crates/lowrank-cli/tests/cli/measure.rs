//! `lowrank params`, `data preview` and `bench train`.

use std::process::Stdio;

use super::workshop::{Ran, Workshop};

/// RoBERTa's configuration: what the counts of the documentation are made of.
const ROBERTA: &str = r#"{
    "model_type": "roberta", "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1
}"#;

#[test]
fn params_prints_pefts_line_from_a_configuration_alone() {
    let workshop = Workshop::new();
    workshop.write("config.json", ROBERTA);
    let arguments = ["params", "--config", "config.json", "--target-modules", "query,value", "--rank", "8"];
    let ran = workshop.succeed(&arguments);
    assert_eq!(ran.stdout, "trainable params: 887,042 || all params: 125,534,212 || trainable%: 0.7066\n");
    let ran = workshop.succeed(&[&arguments[..], &["--json", "--tree"]].concat());
    assert_eq!(ran.json()["trainable_parameters"], 887_042);
    assert_eq!(ran.stdout.lines().count(), 1, "the tree is not in the way");
}

#[test]
fn no_more_threads_are_started_than_the_machine_runs_at_once() {
    let workshop = Workshop::new();
    let ran = workshop.succeed(&["train", "run.toml", "--json", "--threads", "60000"]);
    assert!(ran.stderr.contains("60000 threads are more than this machine runs at once"), "{}", ran.stderr);
    let most = std::thread::available_parallelism().unwrap().get();
    assert_eq!(ran.json()["threads"], most);
}

#[test]
fn params_shows_the_tree_before_and_after_injection() {
    let workshop = Workshop::new();
    workshop.write("config.json", ROBERTA);
    let ran = workshop.succeed(&["params", "--config", "config.json", "--tree"]);
    let (before, after) = ran.stdout.split_once("after:").unwrap();
    assert!(before.contains("(0-11): 12 x BertLayer") && !before.contains("lora_A"), "{before}");
    assert!(after.contains("(query): Linear(weight [768, 768], bias [768])  adapted"), "{after}");
    assert!(after.contains("(lora_A): Linear(weight [8, 768])  trained"), "{after}");
    assert!(after.contains("(key): Linear(weight [768, 768], bias [768])  frozen"), "{after}");
}

#[test]
fn params_counts_an_adapter_folder() {
    let workshop = Workshop::new();
    let summary = workshop.succeed(&["train", "run.toml", "--json"]).json();
    let counted = workshop.succeed(&["params", "--model", "model", "--adapter", "out", "--json"]).json();
    assert_eq!(counted["trainable_parameters"], summary["trainable_parameters"]);
    assert_eq!(counted["all_parameters"], summary["all_parameters"]);
}

#[test]
fn preview_shows_examples_as_the_model_sees_them() {
    let workshop = Workshop::new();
    let ran = workshop.succeed(&["data", "preview", "run.toml", "--examples", "1"]);
    assert!(ran.stdout.contains("[CLS] the film was good [SEP]"), "{}", ran.stdout);
    assert!(ran.stdout.contains("train: 40 examples"), "{}", ran.stdout);
    let preview = ["data", "preview", "run.toml", "--set", "data.max_length=5", "--json"];
    let json = workshop.succeed(&preview).json();
    assert_eq!(json["examples"][0]["ids"].as_array().unwrap().len(), 5);
    assert_eq!(json["examples"][0]["truncated"], true);
    assert_eq!(
        (&json["train"]["labels"]["positive"], &json["train"]["labels"]["negative"]),
        (&14.into(), &26.into())
    );
    assert_eq!(json["train"]["max_length"], 5);
}

#[test]
fn what_is_asked_of_a_configuration_needs_no_weights() {
    let workshop = Workshop::new();
    std::fs::remove_file(workshop.path("model/model.safetensors")).unwrap();
    workshop.succeed(&["data", "preview", "run.toml"]);
    workshop.succeed(&["params", "--model", "model"]);
    // The same from the cache of the Hub.
    let copy = workshop.path("hub/hub/models--owner--tiny");
    std::fs::create_dir_all(copy.join("refs")).unwrap();
    std::fs::create_dir_all(copy.join("snapshots")).unwrap();
    std::fs::write(copy.join("refs/main"), "c0ffee00").unwrap();
    std::fs::rename(workshop.path("model"), copy.join("snapshots/c0ffee00")).unwrap();
    workshop.succeed(&["data", "preview", "run.toml", "--set", "model=owner/tiny"]);
    workshop.succeed(&["params", "--model", "owner/tiny"]);
    let ran = workshop.run(&["eval", "--model", "owner/tiny", "--task", "sst2", "--data", "dev.tsv"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("not in the cache"), "{}", ran.stderr);
}

#[test]
fn bench_prints_the_documented_numbers() {
    let workshop = Workshop::new();
    workshop.write("lengths.txt", "5\n9\n12\n");
    let arguments =
        ["bench", "train", "--config", "model/config.json", "--lengths", "lengths.txt", "--batch", "4"];
    let report =
        workshop.succeed(&[&arguments[..], &["--steps", "3", "--rank", "2", "--json"]].concat()).json();
    for key in ["step_seconds_median", "examples_per_second", "tokens_per_second", "peak_rss_bytes"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key} in {report}");
    }
    assert!(report["trainable_parameters"].as_u64() < report["all_parameters"].as_u64());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let workshop = Workshop::new();
    workshop.write("config.json", ROBERTA);
    let mut child = workshop
        .command(&["params", "--config", "config.json", "--tree"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

/// flan-T5-xxl's sizes.
const FLAN_T5_XXL: &str = r#"{
    "model_type": "t5", "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
    "num_decoder_layers": 24, "num_heads": 64, "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1
}"#;

#[test]
fn eleven_billion_parameters_are_counted_without_allocating_them() {
    let workshop = Workshop::new();
    workshop.write("config.json", FLAN_T5_XXL);
    let arguments = ["params", "--config", "config.json", "--target-modules", "q,v", "--rank", "16"];
    let line = "trainable params: 18,874,368 || all params: 11,154,206,720 || trainable%: 0.1692\n";
    assert_eq!(workshop.succeed(&arguments).stdout, line);
}

#[test]
fn bench_trains_with_frozen_weights_in_8_bits() {
    let workshop = Workshop::new();
    let small = FLAN_T5_XXL
        .replace("4096", "64")
        .replace("10240", "96")
        .replace(": 24", ": 1")
        .replace("64, \"relative", "2, \"relative");
    workshop.write("config.json", &small.replace("\"num_heads\": 64", "\"num_heads\": 2"));
    let arguments =
        ["bench", "train", "--config", "config.json", "--load-in", "int8", "--steps", "1", "--batch", "1"];
    let json =
        workshop.succeed(&[&arguments[..], &["--seq", "9", "--target-seq", "3", "--json"]].concat()).json();
    assert!(json["step_seconds_median"].as_f64().unwrap() > 0.0);
    assert!(json["peak_rss_bytes"].as_u64().unwrap() > 0);
}
