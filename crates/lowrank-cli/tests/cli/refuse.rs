//! What the binary says to what it cannot do: one sentence, and the right exit code.

use std::fs;

use super::workshop::Workshop;

/// Runs what must fail, and checks that it says so in one line without leaving a result.
fn refused(workshop: &Workshop, arguments: &[&str], code: i32, expected: &str) {
    let ran = workshop.run(arguments);
    assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && last.contains(expected), "{arguments:?}: {}", ran.stderr);
    assert_eq!(ran.stderr.matches("error: ").count(), 1, "{}", ran.stderr);
    assert!(!workshop.path("out/adapter_model.safetensors").exists());
}

#[test]
fn what_is_asked_for_wrongly_is_bad_usage() {
    let workshop = Workshop::new();
    for (setting, expected) in [
        ("train.lerning_rate=1", "did you mean train.learning_rate?"),
        ("train.batch_size=0", "train.batch_size: it is 0; it must be at least 1"),
        ("data.random_crop=5000", "data.random_crop: it is 5000; around a picture are at most 4096 pixels"),
        ("train.lr_schedule=poly", "is not one of linear, cosine, constant"),
        ("lora.target_modules=[\"quary\"]", "did you mean query?"),
        ("lora.r=0", "rank is at least 1"),
        ("lora.r=1000", "is beyond"),
        ("task=sst", "did you mean sst2"),
        ("task=squad_v3", "did you mean squad_v2"),
        ("train.keep_best=bleu", "metric"),
        ("lora.rank_pattern.query=many", "lora.rank_pattern.\"query\": it is the string \"many\""),
        ("lora.rank_pattern=16", "a table such as {\"layer.0.*query\" = 16}"),
        ("train.learning_rate_pattern=16", "a table such as {\"layer.0.*query\" = 1e-4}"),
    ] {
        refused(&workshop, &["train", "run.toml", "--set", setting], 2, expected);
    }
    refused(&workshop, &["train"], 2, "a run file is needed");
    refused(&workshop, &["train", "--model", "model"], 2, "task: it is missing");
    refused(&workshop, &["params", "--model", "model", "--target-modules", "quary"], 2, "did you mean query");
    workshop.write("wrong.toml", "model = \"m\"\nmax_lenght = 3\n");
    refused(
        &workshop,
        &["train", "wrong.toml"],
        2,
        "wrong.toml: unknown key \"max_lenght\"; did you mean data.max_length",
    );
}

#[test]
fn arguments_that_do_not_exist_are_bad_usage() {
    let workshop = Workshop::new();
    for arguments in [&["trian"][..], &["train", "--overwrit"], &["demo", "--threads", "0"], &["params"], &[]]
    {
        assert_eq!(workshop.run(arguments).code, 2, "{arguments:?}");
    }
    let ran = workshop.run(&["train", "run.toml", "--resume", "--overwrite"]);
    assert_eq!(ran.code, 2);
    let mut command = workshop.command(&["demo"]);
    let output = command.env("LOWRANK_CPU", "abacus").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn files_that_cannot_be_used_are_failures_that_name_the_file() {
    let workshop = Workshop::new();
    refused(&workshop, &["train", "absent.toml"], 1, "absent.toml: No such file");

    let bad = |name: &str, text: &[u8], expected: &str| {
        fs::write(workshop.path(name), text).unwrap();
        let set = format!("data.train={name}");
        refused(&workshop, &["train", "run.toml", "--overwrite", "--set", &set], 1, expected);
    };
    bad("label.tsv", b"sentence\tlabel\na film\t1\na plot\t7\n", "label.tsv:3: ");
    bad("empty.tsv", b"", "empty.tsv");
    bad("narrow.tsv", b"sentence\na film\n", "narrow.tsv");
    bad("bytes.tsv", b"sentence\tlabel\na \xff film\t1\n", "bytes.tsv:2: ");

    let weights = workshop.read("model/model.safetensors");
    fs::write(workshop.path("model/model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    refused(&workshop, &["train", "run.toml", "--overwrite"], 1, "model.safetensors");
    fs::remove_file(workshop.path("model/model.safetensors")).unwrap();
    refused(&workshop, &["train", "run.toml", "--overwrite"], 1, "no model.safetensors");
}

#[test]
fn a_path_of_the_wrong_kind_is_told_with_what_is_expected() {
    let workshop = Workshop::new();
    let forward = ["forward", "--model", "model", "--inputs", "model", "--outputs", "o.safetensors"];
    refused(&workshop, &forward, 1, "model: it is a folder, where a file of tensors is needed");
    refused(&workshop, &["train", "model"], 1, "model: it is a folder, where a file is needed");
    refused(&workshop, &["train", "run.toml/x"], 1, "is a file, where a folder is needed");
    let below_a_file = ["quantize", "--model", "model", "--out", "run.toml/x"];
    refused(&workshop, &below_a_file, 1, "is a file, where a folder is needed");
    let arguments = ["params", "--model", "run.toml"];
    refused(&workshop, &arguments, 1, "run.toml: it is a file; the folder that holds it is needed");
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_at_its_step() {
    let workshop = Workshop::new();
    let arguments =
        ["train", "run.toml", "--set", "train.learning_rate=1e38", "--set", "train.warmup_ratio=0"];
    refused(&workshop, &arguments, 1, "is not finite");
}

#[test]
fn a_model_without_a_head_has_nothing_to_answer() {
    let workshop = Workshop::new();
    let model = workshop.path("model");
    let bare = super::workshop::golden("models/bert-bare-bf16-sharded");
    fs::remove_file(model.join("model.safetensors")).unwrap();
    for entry in fs::read_dir(bare).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let arguments = ["eval", "--model", "model", "--task", "sst2", "--data", "dev.tsv"];
    refused(&workshop, &arguments, 1, "name an adapter, or train one");
}
