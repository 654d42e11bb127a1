//! `lowrank eval`, `predict` and `forward`.

use std::fs;

use serde_json::Value;

use super::workshop::{Workshop, golden};

#[test]
fn eval_gives_the_metrics_that_the_run_ended_with() {
    let workshop = Workshop::new();
    let summary = workshop.succeed(&["train", "run.toml", "--json", "--dtype", "f32"]).json();
    let arguments = ["eval", "--model", "model", "--adapter", "out", "--task", "sst2", "--data", "dev.tsv"];
    let scores = workshop.succeed(&[&arguments[..], &["--json", "--dtype", "f32"]].concat()).json();
    assert_eq!(scores["accuracy"], summary["eval"]["accuracy"]);
    let loss = |scores: &Value| scores["loss"].as_f64().unwrap();
    assert!((loss(&scores) - loss(&summary["eval"])).abs() < 1e-9);
}

#[test]
fn predict_answers_every_line_and_needs_no_labels() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml"]);
    workshop.write("test.tsv", "index\tsentence\n0\tthe film was good\n1\tthe film was bad\n");
    let arguments = [
        "predict",
        "--model",
        "model",
        "--adapter",
        "out",
        "--task",
        "sst2",
        "--data",
        "test.tsv",
        "--out",
        "a.jsonl",
    ];
    workshop.succeed(&arguments);
    let text = String::from_utf8(workshop.read("a.jsonl")).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.iter().map(|answer| answer["line"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 3]);
    for answer in &answers {
        assert!(["negative", "positive"].contains(&answer["label"].as_str().unwrap()));
        assert!((0.5..=1.0).contains(&answer["probability"].as_f64().unwrap()));
    }
}

#[test]
fn labels_of_ones_own_come_back_by_name() {
    let workshop = Workshop::new();
    let rows = ["the film was good,fresh", "the plot was bad,rotten", "the actor was dull,rotten"];
    workshop.write(
        "mine.csv",
        &format!("text,label\n{}\n", rows.join("\n").repeat(4).replace("rottenthe", "rotten\nthe")),
    );
    let train = "train --model model --task text-classification --train mine.csv --output out --epochs 1";
    workshop.succeed(&train.split(' ').collect::<Vec<_>>());
    // One label only: the names must come from the run, not from this file.
    workshop.write("one.csv", "text,label\nthe plot was bad,rotten\n");
    let predict = "predict --model model --adapter out --task text-classification --data one.csv --out a.jsonl --columns text=text";
    workshop.succeed(&predict.split(' ').collect::<Vec<_>>());
    let answer: Value = serde_json::from_slice(&workshop.read("a.jsonl")).unwrap();
    assert!(["fresh", "rotten"].contains(&answer["label"].as_str().unwrap()), "{answer}");
}

#[test]
fn labels_that_nobody_noted_are_numbered_or_named_on_the_command_line() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml"]);
    std::fs::remove_file(workshop.path("out/summary.json")).unwrap();
    workshop.write("one.jsonl", "{\"text\":\"the plot was bad\"}\n");
    let label = |more: &[&str]| {
        let predict =
            "predict --model model --adapter out --task text-classification --data one.jsonl --out a.jsonl";
        workshop.succeed(&[&predict.split(' ').collect::<Vec<_>>(), more].concat());
        let answer: Value = serde_json::from_slice(&workshop.read("a.jsonl")).unwrap();
        answer["label"].as_str().unwrap().to_owned()
    };
    let numbered = label(&[]);
    let place = ["LABEL_0", "LABEL_1"].iter().position(|name| *name == numbered).unwrap();
    assert_eq!(label(&["--labels", "bad,good"]), ["bad", "good"][place]);

    workshop.write(
        "two.csv",
        "text,label\nthe plot was bad,bad\nthe film was good,fine\nthe film was good,good\n",
    );
    let eval = "eval --model model --adapter out --task text-classification --data two.csv";
    let output = workshop.run(&eval.split(' ').collect::<Vec<_>>());
    assert!(output.code == 1 && output.stderr.contains("3 labels (bad, fine, good)"), "{}", output.stderr);
    workshop.write("two.csv", "text,label\nthe plot was bad,bad\nthe film was good,good\n");
    workshop.succeed(&[&eval.split(' ').collect::<Vec<_>>()[..], &["--labels", "bad,good"]].concat());
    let sst2 = "eval --model model --adapter out --task sst2 --data dev.tsv --labels bad,good";
    let output = workshop.run(&sst2.split(' ').collect::<Vec<_>>());
    assert!(output.code == 2 && output.stderr.contains("negative, positive"), "{}", output.stderr);
}

#[test]
fn an_adapter_is_not_asked_about_another_task_than_its_own() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml"]);
    let arguments = |task: &str| format!("eval --model model --adapter out --task {task} --data {task}.tsv");
    workshop.write("cola.tsv", "gj04\t1\t\tthe film was good\n");
    let output = workshop.run(&arguments("cola").split(' ').collect::<Vec<_>>());
    let wanted = "its labels are negative, positive, and those of cola are unacceptable, acceptable";
    assert!(output.code == 1 && output.stderr.contains(wanted), "{}", output.stderr);
    workshop.write("stsb.tsv", "sentence1\tsentence2\tscore\na\tb\t1.5\n");
    let output = workshop.run(&arguments("stsb").split(' ').collect::<Vec<_>>());
    assert!(output.stderr.contains("stsb is of one number"), "{}", output.stderr);
    // Without the run's note nobody can know; PEFT writes none.
    std::fs::remove_file(workshop.path("out/summary.json")).unwrap();
    workshop.succeed(&arguments("cola").split(' ').collect::<Vec<_>>());
}

#[test]
fn answers_go_to_a_place_that_is_known_before_the_work() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml"]);
    let predict = |out: &str| {
        let arguments = format!("predict --model model --adapter out --task sst2 --data dev.tsv --out {out}");
        workshop.run(&arguments.split(' ').collect::<Vec<_>>())
    };
    let data = workshop.read("dev.tsv");
    let output = predict("./dev.tsv");
    assert!(output.code == 2 && output.stderr.contains("the file that is read"), "{}", output.stderr);
    assert_eq!(workshop.read("dev.tsv"), data);
    let output = predict("nowhere/a.jsonl");
    assert!(output.code == 1 && output.stderr.contains("no folder nowhere"), "{}", output.stderr);
    let output = predict("-");
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output.stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "{}",
        output.stdout
    );
    assert!(output.stdout.lines().count() > 1);
}

#[cfg(unix)]
#[test]
fn answers_on_standard_output_are_added_to_the_file_that_it_leads_to() {
    let workshop = Workshop::new();
    workshop.succeed(&["train", "run.toml"]);
    workshop.write("all.txt", "before\n");
    let arguments = "predict --model model --adapter out --task sst2 --data dev.tsv --out /dev/stdout";
    let mut command = workshop.command(&arguments.split(' ').collect::<Vec<_>>());
    command.stdout(fs::OpenOptions::new().append(true).open(workshop.path("all.txt")).unwrap());
    assert!(command.status().unwrap().success());
    let text = String::from_utf8(workshop.read("all.txt")).unwrap();
    assert!(text.starts_with("before\n{") && text.contains("answers in"), "{text}");
}

#[test]
fn forward_writes_logits_loss_and_the_gradient_of_every_adapter_tensor() {
    let workshop = Workshop::new();
    let case = golden("cases/bert_query_value");
    let text = |name: &str| case.join(name).to_string_lossy().into_owned();
    let facts: Value = serde_json::from_str(&fs::read_to_string(case.join("case.json")).unwrap()).unwrap();
    let model = golden("models").join(facts["model"].as_str().unwrap()).to_string_lossy().into_owned();
    let (adapter, inputs) = (text("adapter"), text("inputs.safetensors"));
    let arguments = [
        "forward",
        "--model",
        &model,
        "--adapter",
        &adapter,
        "--inputs",
        &inputs,
        "--outputs",
        "o.safetensors",
    ];
    workshop.succeed(&[&arguments[..], &["--gradients"]].concat());
    let names = |path: &std::path::Path| {
        let file = lowrank::hub::Checkpoint::open_file(path).unwrap();
        file.names().map(str::to_owned).collect::<Vec<_>>()
    };
    let written = names(&workshop.path("o.safetensors"));
    assert!(written.contains(&"logits".to_owned()) && written.contains(&"loss".to_owned()));
    for key in names(&case.join("adapter/adapter_model.safetensors")) {
        assert!(written.contains(&format!("grad.{key}")), "{key} in {written:?}");
    }
}
