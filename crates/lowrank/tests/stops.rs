//! How runs end: with the best state, for want of improvement, at a number that is not finite, on a full disk.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/runs.rs"]
mod runs;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use common::read_tensors;
use lowrank::Error;
use lowrank::data::{Reader, Scores};
use lowrank::hub::{Tensors, write_tensors};
use lowrank::models::read_config;
use lowrank::tensor::Tensor;
use lowrank::train::{
    AdaptedModel, LoadOptions, RunData, RunFile, RunOptions, Silent, Summary, evaluate, run,
};
use lowrank_kernels::Compute;
use runs::{Notes, Room, STEPS_PER_EPOCH};

const FRESH: RunOptions = RunOptions { resume: false, overwrite: false };
const STEPS: usize = 3 * STEPS_PER_EPOCH;

fn run_noting(room: &Room, output: &str, settings: &[&str]) -> (Summary, Notes) {
    let mut notes = Notes::default();
    let run = run(&room.run_file(output, settings), FRESH, &mut notes, &AtomicBool::new(false));
    (run.unwrap(), notes)
}

/// What the adapter in a run's output scores, loaded anew.
fn score(room: &Room, output: &str) -> Scores {
    let run = room.run_file(output, &[]);
    let data = RunData::open(&run, &read_config(Path::new(&run.model_source())).unwrap()).unwrap();
    let adapter = room.path(output);
    let options = LoadOptions { compute: Some(Compute::F32), ..LoadOptions::default() };
    let adapted = AdaptedModel::load(&run.model_source(), adapter.to_str(), options).unwrap();
    let reader = Reader::new(adapted.folder(), adapted.model().info(), run.data.max_length);
    let path = run.data.validation.as_ref().unwrap();
    let dataset = data.task.dataset(std::slice::from_ref(path), 0, true, &reader).unwrap();
    evaluate(&adapted, adapted.first_adapter(), &*dataset, data.task.info(), &mut |_| Ok(())).unwrap()
}

/// The first step has no learning rate, the others far too much: the adapter to start from stays the best.
const WORSENING: [&str; 6] = [
    "init_adapter=start",
    "train.eval_every=1",
    "train.warmup_steps=1",
    "train.lr_schedule=constant",
    "train.learning_rate=3",
    "train.keep_best=loss",
];

fn worsening<'a>(more: &[&'a str]) -> Vec<&'a str> {
    WORSENING.into_iter().chain(more.iter().copied()).collect()
}

fn room_with_a_start() -> Room {
    let room = Room::new();
    room.run("start", &[], FRESH).unwrap();
    room
}

#[test]
fn the_best_state_is_kept_not_the_last() {
    let room = room_with_a_start();
    let (summary, notes) = run_noting(&room, "best", &WORSENING);
    let losses: Vec<f64> = notes.scores.iter().map(|(_, scores)| scores["loss"]).collect();
    assert_eq!(losses.len(), STEPS);
    assert!(losses[1..].iter().all(|loss| *loss > losses[0]), "it gets worse: {losses:?}");
    assert_eq!((summary.best_step, summary.eval["loss"]), (1, losses[0]));
    assert_eq!(room.adapter("best"), room.adapter("start"));
    assert_eq!(score(&room, "best")["loss"], losses[0], "the saved adapter is the best one");

    let (summary, _) = run_noting(&room, "last", &worsening(&["train.keep_best=last"]));
    assert_eq!((summary.best_step, summary.eval["loss"]), (STEPS, losses[STEPS - 1]));
    assert_eq!(score(&room, "last")["loss"], losses[STEPS - 1]);
}

#[test]
fn a_run_stops_after_as_many_evaluations_without_improvement_as_patience_allows() {
    let room = room_with_a_start();
    for patience in [1, 3] {
        let output = format!("patience-{patience}");
        let (summary, notes) =
            run_noting(&room, &output, &worsening(&[&format!("train.patience={patience}")]));
        assert!(summary.stopped_early);
        assert_eq!((summary.best_step, summary.steps), (1, 1 + patience));
        assert_eq!(notes.steps.len(), summary.steps);
        assert_eq!(room.adapter(&output), room.adapter("start"));
    }
}

#[test]
fn a_run_that_was_stopped_when_its_patience_ended_is_finished_by_resuming() {
    let room = room_with_a_start();
    let settings = worsening(&["train.patience=2"]);
    let whole = room.run("whole", &settings, FRESH).unwrap();
    room.run_until("out", &settings, whole.steps, FRESH).unwrap_err();
    let resumed = room.run("out", &settings, RunOptions { resume: true, overwrite: false }).unwrap();
    assert_eq!((resumed.steps, resumed.best_step, resumed.eval), (whole.steps, whole.best_step, whole.eval));
    assert!(resumed.stopped_early);
    assert_eq!(room.adapter("out"), room.adapter("whole"));
}

#[test]
fn patience_ends_a_run_that_keeps_the_last_state_and_needs_something_to_measure() {
    let room = room_with_a_start();
    let settings = worsening(&["train.patience=2", "train.keep_best=last"]);
    let (summary, _) = run_noting(&room, "last", &settings);
    assert!(summary.stopped_early && summary.steps < STEPS, "{summary:?}");
    assert_eq!(summary.best_step, summary.steps);
    assert_ne!(room.adapter("last"), room.adapter("start"));
    let text = room.run("none", &["train.patience=2", "data.validation="], FRESH).unwrap_err().to_string();
    assert!(text.contains("train.patience") && text.contains("data.validation"), "{text}");
}

#[test]
fn what_is_said_of_lora_must_agree_with_the_adapter_to_start_from() {
    let room = room_with_a_start();
    let begin = |setting: &str| {
        let text = format!(
            "model = 'base'\ntask = 'sst2'\noutput = 'again'\ninit_adapter = 'start'\n[data]\ntrain = 'train.tsv'\n\
             [train]\nmax_steps = 1\n[lora]\n{setting}\n"
        );
        let run_file = RunFile::from_toml(&text, room.path("")).unwrap();
        run(&run_file, RunOptions { resume: false, overwrite: true }, &mut Silent, &AtomicBool::new(false))
    };
    for agreed in ["", "r = 3", "lora_dropout = 0.2", "target_modules = 'all-linear'", "bias = 'none'"] {
        begin(agreed).unwrap();
    }
    for (other, key) in [
        ("r = 4", "lora.r: it is 4, but init_adapter has 3"),
        ("lora_alpha = 3", "lora.lora_alpha"),
        ("lora_dropout = 0.1", "lora.lora_dropout"),
        ("bias = 'all'", "lora.bias"),
        ("target_modules = ['query']", "lora: its targets"),
        ("modules_to_save = ['LayerNorm']", "lora: its targets"),
        ("train_layer_norms = true", "lora: its targets"),
    ] {
        let text = begin(other).unwrap_err().to_string();
        assert!(text.contains(key), "{other}: {text}");
    }
    let text = room.run_file_error("again", &["method=full", "init_adapter=start"]);
    assert!(text.contains("init_adapter"), "{text}");
    // PEFT names both names that a head may have, whatever the model has.
    let path = room.path("start/adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(config["modules_to_save"], serde_json::json!(["classifier"]));
    config["modules_to_save"] = serde_json::json!(["classifier", "score"]);
    fs::write(&path, config.to_string()).unwrap();
    begin("").unwrap();
}

fn single_sentence(error: &Error) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.is_empty(), "{text:?}");
    text
}

#[test]
fn a_learning_rate_that_blows_up_stops_the_run_and_keeps_the_last_checkpoint() {
    let room = Room::new();
    let settings = ["train.learning_rate=1e30", "train.save_every=1", "train.max_grad_norm=0"];
    let error = room.run("out", &settings, FRESH).unwrap_err();
    let Error::NotFinite { step, tensor, .. } = &error else { panic!("{error}") };
    assert_eq!(*step, 3, "the first step warms up, the second moves");
    assert!(tensor.starts_with("the output of "), "{tensor}");
    let text = single_sentence(&error);
    assert!(text.contains("the checkpoint of step 2 is kept"), "{text}");
    let folder = room.path("out");
    assert!(folder.join("checkpoints/step-00000002/state.safetensors").is_file());
    assert!(!folder.join("adapter_model.safetensors").exists() && !folder.join("summary.json").exists());
    assert_eq!(room.metrics("out").len(), 2);
}

#[test]
fn a_validation_loss_that_is_not_finite_stops_the_run_and_is_not_taken_for_the_best() {
    let room = Room::new();
    let settings = ["train.learning_rate=1e30", "train.eval_every=1", "train.save_every=1"];
    let error = room.run("out", &settings, FRESH).unwrap_err();
    assert!(matches!(&error, Error::NotFinite { step: 2, .. }), "{error}");
    let text = single_sentence(&error);
    assert!(text.contains("validation") && text.contains("the checkpoint of step 1 is kept"), "{text}");
}

#[test]
fn an_infinite_weight_of_the_base_is_named_at_the_first_step() {
    let room = Room::new();
    let path = room.path("base").join("model.safetensors");
    let mut tensors = Tensors::new();
    for (name, mut values) in read_tensors(&path) {
        let shape = lowrank::hub::Checkpoint::open_file(&path).unwrap().get(&name).unwrap().shape.to_vec();
        if name == "bert.encoder.layer.1.output.dense.weight" {
            values[7] = f32::INFINITY;
        }
        let flat = Tensor::from_slice([values.len()], &values);
        tensors.insert(name, flat.reshape(lowrank::tensor::Shape::from_slice(&shape).unwrap()));
    }
    write_tensors(&path, &tensors).unwrap();
    let error = room.run("out", &[], FRESH).unwrap_err();
    let text = single_sentence(&error);
    assert!(text.starts_with("step 1: the output of bert.encoder.layer.1.output.dense "), "{text}");
    assert!(text.contains("no checkpoint was written yet"), "{text}");
    assert!(!room.path("out").join("adapter_model.safetensors").exists());
}

const CHILD: &str = "LOWRANK_TEST_FULL_DISK";

/// The part that runs under a limit on the size of a file.
fn child() -> bool {
    let Some(path) = std::env::var_os(CHILD) else { return false };
    let run_file = lowrank::train::RunFile::read(path).unwrap();
    match run(&run_file, FRESH, &mut Silent, &AtomicBool::new(false)) {
        Ok(_) => println!("\nFINISHED"),
        Err(error) => println!("\nERROR {error:?} {error}"),
    }
    true
}

/// Runs `test` of this file again in a process that may write `blocks` of 512 bytes (1024 with some shells) to a file:
/// what it writes then fails as on a full disk.
fn limited(test: &str, blocks: usize, room: &Room, settings: &[&str]) -> String {
    let run_file = room.path("limited.toml");
    fs::write(&run_file, room.run_file("out", settings).to_toml()).unwrap();
    let exe = std::env::current_exe().unwrap();
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" --exact {test} --nocapture");
    let output = Command::new("sh").arg("-c").arg(script).arg(exe).env(CHILD, run_file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("ERROR Io"), "{text} {}", String::from_utf8_lossy(&output.stderr));
    text.lines().find(|line| line.starts_with("ERROR")).unwrap().to_owned()
}

fn all_files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => all_files(&path),
            false => vec![path.to_string_lossy().into_owned()],
        })
        .collect()
}

#[cfg(unix)]
#[test]
fn a_checkpoint_that_does_not_fit_on_the_disk_leaves_nothing_half_written() {
    if child() {
        return;
    }
    let room = Room::new();
    let error =
        limited("a_checkpoint_that_does_not_fit_on_the_disk_leaves_nothing_half_written", 16, &room, &[]);
    assert!(error.contains("state.safetensors: File too large"), "{error}");
    let mut files = all_files(&room.path("out"));
    files.sort();
    let names: Vec<_> = files.iter().map(|path| path.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["metrics.jsonl", "run.toml"]);
    assert_eq!(room.metrics("out").len(), STEPS_PER_EPOCH + 1);
    // With room again, the run goes on.
    room.run("out", &[], RunOptions { resume: true, overwrite: false }).unwrap();
    room.run("whole", &[], FRESH).unwrap();
    assert_eq!(room.adapter("out"), room.adapter("whole"));
}

#[cfg(unix)]
#[test]
fn a_log_that_does_not_fit_on_the_disk_ends_with_a_whole_line() {
    if child() {
        return;
    }
    let room = Room::new();
    let settings = ["train.save_every=1000", "train.epochs=40"];
    let error = limited("a_log_that_does_not_fit_on_the_disk_ends_with_a_whole_line", 5, &room, &settings);
    assert!(error.contains("metrics.jsonl: File too large"), "{error}");
    let text = fs::read_to_string(room.path("out").join("metrics.jsonl")).unwrap();
    assert!(text.ends_with('\n'), "{text:?}");
    assert!(room.metrics("out").len() > 2, "every line is JSON");
}
