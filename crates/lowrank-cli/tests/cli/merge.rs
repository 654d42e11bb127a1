//! `lowrank merge`.

use super::workshop::Workshop;

#[test]
fn a_merged_folder_is_a_model_like_any_other() {
    let workshop = Workshop::new();
    let trained = workshop.succeed(&["train", "run.toml", "--json", "--dtype", "f32"]).json();
    let merge = ["merge", "--model", "model", "--adapter", "out", "--out", "merged"];
    let ran = workshop.succeed(&[&merge[..], &["--json"]].concat());
    let report = ran.json();
    assert_eq!((&report["merged"], &report["replaced"]), (&4.into(), &2.into()), "{report}");
    assert!(report["largest_difference"].as_f64() < report["tolerance"].as_f64(), "{report}");
    let eval =
        ["eval", "--model", "merged", "--task", "sst2", "--data", "dev.tsv", "--json", "--dtype", "f32"];
    let (merged, trained) = (workshop.succeed(&eval).json(), &trained["eval"]);
    assert_eq!(merged["accuracy"], trained["accuracy"]);
    let off = merged["loss"].as_f64().unwrap() - trained["loss"].as_f64().unwrap();
    assert!(off.abs() < 1e-5, "{merged} and {trained}");
    let config = String::from_utf8(workshop.read("merged/config.json")).unwrap();
    assert!(config.contains("\"negative\"") && config.contains("BertForSequenceClassification"), "{config}");

    let ran = workshop.run(&merge);
    assert!(ran.code == 1 && ran.stderr.contains("merged: this folder is not empty"), "{}", ran.stderr);
    let ran = workshop.run(&["merge", "--model", "model", "--out", "other"]);
    assert!(ran.code == 2 && ran.stderr.contains("--adapter"), "{}", ran.stderr);
    let ran = workshop.run(&["merge", "--model", "model", "--adapter", "nothing", "--out", "other"]);
    assert!(ran.code != 0 && ran.stderr.contains("nothing"), "{}", ran.stderr);
    assert!(!workshop.path("other").exists());
}

#[test]
fn an_adapter_that_does_not_go_with_the_model_is_named_with_the_code_for_it() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml"]);
    let config: serde_json::Value =
        serde_json::from_slice(&workshop.read("out/adapter_config.json")).unwrap();
    let more = "model='model'\ntask='sst2'\noutput='more'\ninit_adapter='out'\ndata.train='train.tsv'\n";
    workshop.write("more.toml", more);
    let unsuitable = |key: &str, value: serde_json::Value| {
        let mut config = config.clone();
        config[key] = value;
        workshop.write("out/adapter_config.json", &config.to_string());
        for command in [
            &["merge", "--model", "model", "--adapter", "out", "--out", "merged"][..],
            &["eval", "--model", "model", "--adapter", "out", "--task", "sst2", "--data", "dev.tsv"],
            &["train", "more.toml"],
        ] {
            let ran = workshop.run(command);
            assert!(ran.code == 2 && ran.stderr.starts_with("error: "), "{}: {}", ran.code, ran.stderr);
            assert!(ran.stderr.contains("out: ") || ran.stderr.contains("out/"), "{}", ran.stderr);
        }
    };
    // Another rank than the tensors have, a layer that the model lacks, and a name that is nearly one.
    unsuitable("r", 4.into());
    unsuitable("target_modules", serde_json::json!(["query", "q_proj"]));
    unsuitable("target_modules", serde_json::json!(["qeury"]));

    let broken = &workshop.read("out/adapter_model.safetensors")[..100];
    std::fs::write(workshop.path("out/adapter_model.safetensors"), broken).unwrap();
    let ran = workshop.run(&["merge", "--model", "model", "--adapter", "out", "--out", "merged"]);
    assert!(ran.code == 1 && ran.stderr.contains("out/adapter_model.safetensors"), "{}", ran.stderr);
}

#[test]
fn a_merged_model_is_asked_as_its_adapter_was_trained() {
    for (model, task, settings, kept) in [
        ("t5", "summarization", &["source_prefix=\"w5 w6 \"", "max_length=11"][..], "\"w5 w6 \""),
        ("llama", "text", &["packing=false", "max_length=9"], "\"packing\": false"),
    ] {
        let workshop = super::language::workshop(model, task);
        let settings: Vec<String> = settings.iter().map(|setting| format!("data.{setting}")).collect();
        let mut train = vec!["train", "language.toml", "--json", "--dtype", "f32"];
        settings.iter().for_each(|setting| train.extend(["--set", setting]));
        let trained = workshop.succeed(&train).json();
        workshop.succeed(&["merge", "--model", "writer", "--adapter", "told", "--out", "merged"]);
        let note = String::from_utf8(workshop.read("merged/summary.json")).unwrap();
        assert!(note.contains(kept), "{note}");
        let eval = ["eval", "--model", "merged", "--task", task, "--data", "few.jsonl", "--json"];
        let merged = workshop.succeed(&[&eval[..], &["--dtype", "f32"]].concat()).json();
        let off = merged["loss"].as_f64().unwrap() - trained["eval"]["loss"].as_f64().unwrap();
        assert!(off.abs() < 1e-5, "{merged} and {trained}");

        // The note makes no run of it, which another run might put itself in the place of.
        let ran = workshop.run(&["train", "language.toml", "--set", "output=merged", "--overwrite"]);
        assert!(ran.code == 1 && ran.stderr.contains("no run of this program"), "{}", ran.stderr);
    }
}
