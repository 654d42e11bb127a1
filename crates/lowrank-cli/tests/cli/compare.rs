//! `lowrank compare`.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::workshop::{Ran, Workshop};

#[test]
fn an_adapter_and_the_whole_model_are_trained_on_the_same_data_and_shown_side_by_side() {
    let workshop = Workshop::new();
    let ran = workshop.succeed(&["compare", "run.toml", "--json"]);
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    let runs = &ran.json()["runs"];
    assert_eq!((&runs[0]["method"], &runs[1]["method"]), (&"lora".into(), &"full".into()));
    let number = |run: usize, key: &str| runs[run][key].as_f64().unwrap();
    for key in ["trainable_parameters", "bytes_on_disk"] {
        assert!(number(0, key) < number(1, key), "{key}: {runs}");
    }
    for run in 0..2 {
        assert!(number(run, "step_seconds") > 0.0 && number(run, "peak_rss_bytes") > 0.0, "{runs}");
        assert!(runs[run]["eval"]["accuracy"].is_number(), "{runs}");
    }
    assert!(workshop.path("out/lora/adapter_model.safetensors").exists());
    assert!(workshop.path("out/full/model.safetensors").exists());
    let again = workshop.succeed(&["compare", "run.toml", "--resume"]);
    assert!(again.stdout.contains("trainable parameters"), "{}", again.stdout);
}

#[test]
fn a_mistake_in_the_run_is_told_before_anything_is_trained() {
    let workshop = Workshop::new();
    let ran = workshop.run(&["compare", "run.toml", "--set", "train.epoch=2"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("train.epochs"), "{}", ran.stderr);
    assert!(!workshop.path("out").exists());
}

#[test]
fn what_is_set_decides_neither_which_methods_are_compared_nor_that_each_has_a_folder() {
    let workshop = Workshop::new();
    let set = ["--set", "method=lora", "--set", "output=other", "--set", "train.max_steps=1"];
    let ran = workshop.succeed(&[&["compare", "run.toml", "--json"][..], &set].concat()).json();
    assert_eq!((&ran["runs"][0]["method"], &ran["runs"][1]["method"]), (&"lora".into(), &"full".into()));
    assert!(workshop.path("other/lora/adapter_model.safetensors").exists());
    assert!(workshop.path("other/full/model.safetensors").exists());
}

#[test]
fn what_one_of_the_runs_cannot_do_is_told_before_the_other_is_trained() {
    let workshop = Workshop::new();
    let ran = workshop.run(&["compare", "run.toml", "--load-in", "int8"]);
    assert!(ran.code == 2 && ran.stderr.contains("weights in 8 bits cannot be trained"), "{}", ran.stderr);
    assert!(!workshop.path("out").exists());
    // What only the run itself finds out is its own kind of failure.
    let ran = workshop.run(&["compare", "run.toml", "--set", "train.keep_best=bleu"]);
    assert!(ran.code == 2 && ran.stderr.contains("the lora run is refused"), "{}", ran.stderr);
}

#[cfg(unix)]
#[test]
fn a_comparison_that_is_to_end_trains_no_second_model() {
    let workshop = Workshop::new();
    let arguments = ["compare", "run.toml", "--set", "train.max_steps=600"];
    let child = workshop.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (metrics, begun) = (workshop.path("out/lora/metrics.jsonl"), Instant::now());
    while !fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() > 1) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no step was taken");
        std::thread::sleep(Duration::from_millis(1));
    }
    // To this process alone: what it waits for comes to its end.
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert!(ran.code == 130 && ran.stderr.contains("interrupted after the lora run"), "{}", ran.stderr);
    assert!(workshop.path("out/lora/summary.json").exists() && !workshop.path("out/full").exists());
}
