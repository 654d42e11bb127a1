//! A run can be stopped or killed at any step and goes on to the same bits.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/runs.rs"]
mod runs;

use std::fs;
use std::sync::atomic::AtomicBool;

use common::{bert_config, write_model};
use lowrank::Error;
use lowrank::train::{RunOptions, run};
use runs::{At, Notes, Room, STEPS_PER_EPOCH, copy_folder};

const FRESH: RunOptions = RunOptions { resume: false, overwrite: false };
const RESUME: RunOptions = RunOptions { resume: true, overwrite: false };
const OVERWRITE: RunOptions = RunOptions { resume: false, overwrite: true };
const STEPS: usize = 3 * STEPS_PER_EPOCH;

#[test]
fn a_run_stopped_after_any_step_goes_on_to_the_bytes_of_the_unbroken_run() {
    let room = Room::new();
    let settings = ["train.eval_every=2", "train.keep_best=loss"];
    let whole = room.run("whole", &settings, FRESH).unwrap();
    assert_eq!(whole.steps, STEPS);
    for step in [1, 2, 3, 5, 6, 8] {
        let output = format!("broken-{step}");
        let error = room.run_until(&output, &settings, step, FRESH).unwrap_err();
        assert!(matches!(error, Error::Interrupted { step: at } if at == step), "{error}");
        assert!(!room.path(&output).join("adapter_model.safetensors").exists());
        let resumed = room.run(&output, &settings, RESUME).unwrap();
        assert_eq!(room.adapter(&output), room.adapter("whole"), "after step {step}");
        assert_eq!(room.metrics(&output), room.metrics("whole"), "after step {step}");
        assert_eq!(resumed.eval, whole.eval, "after step {step}");
        assert_eq!((resumed.steps, resumed.best_step), (whole.steps, whole.best_step));
        assert_eq!((resumed.tokens, resumed.train_loss), (whole.tokens, whole.train_loss));
    }
}

#[test]
fn a_run_stopped_again_and_again_goes_on_to_the_same_bytes() {
    let room = Room::new();
    room.run("whole", &[], FRESH).unwrap();
    room.run_until("broken", &[], 1, FRESH).unwrap_err();
    for step in [2, 4, 7] {
        room.run_until("broken", &[], step, RESUME).unwrap_err();
    }
    room.run("broken", &[], RESUME).unwrap();
    assert_eq!(room.adapter("broken"), room.adapter("whole"));
    assert_eq!(room.metrics("broken"), room.metrics("whole"));
}

/// What a killed process leaves is its folder as it was: after some step, not at a checkpoint.
#[test]
fn a_run_killed_in_the_middle_of_an_epoch_goes_on_to_the_same_bytes() {
    let room = Room::new();
    for (name, settings) in
        [("each", &["train.save_every=1"][..]), ("two", &["train.save_every=2"]), ("epoch", &[])]
    {
        for step in [2, 4, 8] {
            let (whole, killed) = (format!("whole-{name}-{step}"), format!("killed-{name}-{step}"));
            let (from, to) = (room.path(&whole), room.path(&killed));
            let mut observer = At {
                step,
                then: |_| {
                    copy_folder(&from, &to);
                    // It was writing when it died.
                    fs::create_dir_all(to.join("checkpoints/.step-00000099.partial")).unwrap();
                    fs::write(to.join("checkpoints/.step-00000099.partial/state.json"), "{\"st").unwrap();
                    fs::write(to.join(".adapter_model.safetensors.4194305-0.tmp"), "half").unwrap();
                },
            };
            run(&room.run_file(&whole, settings), FRESH, &mut observer, &AtomicBool::new(false)).unwrap();
            let mut notes = Notes::default();
            run(&room.run_file(&killed, settings), RESUME, &mut notes, &AtomicBool::new(false)).unwrap();
            let first = match settings {
                ["train.save_every=1"] => step,
                ["train.save_every=2"] => step - 1,
                _ => (step - 1) / STEPS_PER_EPOCH * STEPS_PER_EPOCH + 1,
            };
            assert_eq!(notes.steps, (first..=STEPS).collect::<Vec<_>>(), "{killed}");
            assert_eq!(room.adapter(&killed), room.adapter(&whole), "{killed}");
            assert_eq!(room.metrics(&killed), room.metrics(&whole), "{killed}");
            let litter = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name());
            assert!(litter.into_iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{killed}");
        }
    }
}

#[test]
fn a_resumed_run_without_a_checkpoint_begins_afresh() {
    let room = Room::new();
    room.run("whole", &[], FRESH).unwrap();
    room.run("never", &[], RESUME).unwrap();
    assert_eq!(room.metrics("never"), room.metrics("whole"));
    fs::create_dir_all(room.path("early")).unwrap();
    fs::write(room.path("early").join("metrics.jsonl"), "{\"step\":1}\n{\"st").unwrap();
    room.run("early", &[], RESUME).unwrap();
    assert_eq!(room.metrics("early"), room.metrics("whole"), "the log is cut back to nothing");
    assert_eq!(room.adapter("early"), room.adapter("whole"));
}

#[test]
fn a_finished_run_is_refused_and_when_resumed_only_says_so() {
    let room = Room::new();
    let summary = room.run("out", &[], FRESH).unwrap();
    let adapter = room.adapter("out");
    let error = room.run("out", &[], FRESH).unwrap_err().to_string();
    assert!(error.contains("finished run") && error.contains("--overwrite"), "{error}");
    let mut notes = Notes::default();
    let again = run(&room.run_file("out", &[]), RESUME, &mut notes, &AtomicBool::new(false)).unwrap();
    assert_eq!(again, summary);
    assert!(notes.steps.is_empty() && notes.notes[0].contains("finished already"), "{:?}", notes.notes);
    assert_eq!(room.adapter("out"), adapter);
}

#[test]
fn an_unfinished_run_is_refused_without_a_word_of_what_to_do() {
    let room = Room::new();
    room.run_until("out", &[], 4, FRESH).unwrap_err();
    let error = room.run("out", &[], FRESH).unwrap_err().to_string();
    assert!(error.contains("--resume") && error.contains("--overwrite"), "{error}");
}

#[test]
fn overwriting_removes_the_old_run_and_nothing_else() {
    let room = Room::new();
    room.run("whole", &["train.seed=7"], FRESH).unwrap();
    room.run("out", &[], FRESH).unwrap();
    for name in ["notes.md", "model.bin", "checkpoints/mine.txt"] {
        fs::write(room.path("out").join(name), "mine").unwrap();
    }
    room.run("out", &["train.seed=7"], OVERWRITE).unwrap();
    assert_eq!(room.adapter("out"), room.adapter("whole"));
    assert_eq!(room.metrics("out"), room.metrics("whole"));
    for name in ["notes.md", "model.bin", "checkpoints/mine.txt"] {
        assert_eq!(fs::read_to_string(room.path("out").join(name)).unwrap_or_default(), "mine", "{name}");
    }
}

#[test]
fn a_run_that_cannot_begin_leaves_the_old_one_alone() {
    let room = Room::new();
    room.run("out", &[], FRESH).unwrap();
    let adapter = room.adapter("out");
    for setting in ["data.train=no.tsv", "model=no-model", "lora.r=34", "lora.target_modules=[\"qury\"]"] {
        room.run("out", &[setting], OVERWRITE).unwrap_err();
        assert_eq!(room.adapter("out"), adapter, "{setting}");
        assert!(room.path("out").join("summary.json").exists(), "{setting}");
    }
}

#[test]
fn a_run_file_with_other_settings_does_not_resume() {
    let room = Room::new();
    room.run_until("out", &[], 4, FRESH).unwrap_err();
    fs::write(room.path("more.tsv"), "sentence\tlabel\nthe movie\t1\nthe film\t0\n").unwrap();
    for (setting, key) in [
        ("train.seed=7", "train.seed"),
        ("train.learning_rate=1e-2", "train.learning_rate"),
        ("train.batch_size=4", "train.batch_size"),
        ("train.epochs=4", "train.epochs"),
        ("train.dtype=bf16", "train.dtype"),
        ("train.keep_best=last", "train.keep_best"),
        ("lora.r=4", "lora.r"),
        ("lora.lora_alpha=9", "lora.lora_alpha"),
        ("data.limit=20", "data.limit"),
        ("data.train=more.tsv", "training data"),
    ] {
        let error = room.run("out", &[setting], RESUME).unwrap_err().to_string();
        assert!(error.contains(&format!(": {key} was ")), "{setting}: {error}");
        assert!(error.contains("cannot be resumed") && !error.contains('\n'), "{error}");
    }
    for (setting, step) in
        [("train.save_every=2", 5), ("train.log_every=3", 6), ("train.save_total_limit=5", 7)]
    {
        let result = room.run_until("out", &[setting], step, RESUME);
        assert!(
            matches!(result, Err(Error::Interrupted { step: at }) if at == step),
            "{setting} does not decide the result"
        );
    }
}

#[test]
fn a_run_resumes_where_it_was_moved_but_not_on_another_model_or_validation_data() {
    let room = Room::new();
    room.run_until("out", &[], 4, FRESH).unwrap_err();
    room.run("whole", &[], FRESH).unwrap();
    let moved = Room::new();
    for name in ["base", "out"] {
        copy_folder(&room.path(name), &moved.path(name));
    }
    moved.run("out", &[], RESUME).unwrap();
    assert_eq!(moved.adapter("out"), room.adapter("whole"));

    let dev = fs::read_to_string(room.path("dev.tsv")).unwrap();
    fs::write(room.path("dev.tsv"), format!("{dev}the movie\t1\n")).unwrap();
    let error = room.run("out", &[], RESUME).unwrap_err().to_string();
    assert!(error.contains("validation data was"), "{error}");
    fs::write(room.path("dev.tsv"), dev).unwrap();
    write_model(&room.path("base"), &bert_config(2), 3);
    let error = room.run("out", &[], RESUME).unwrap_err().to_string();
    assert!(error.contains("weights at the start was"), "{error}");
}

#[test]
fn two_runs_do_not_fill_one_folder_at_a_time() {
    let room = Room::new();
    let mut errors = Vec::new();
    let run_file = room.run_file("out", &[]);
    let mut observer = At {
        step: 2,
        then: |_| {
            for options in [FRESH, RESUME, OVERWRITE] {
                errors.push(room.run("out", &[], options).unwrap_err().to_string());
            }
        },
    };
    run(&run_file, FRESH, &mut observer, &AtomicBool::new(false)).unwrap();
    assert!(
        errors.len() == 3 && errors.iter().all(|text| text.contains("another run is filling it")),
        "{errors:?}"
    );
    room.run("whole", &[], FRESH).unwrap();
    assert_eq!(room.adapter("out"), room.adapter("whole"));
    assert_eq!(room.metrics("out"), room.metrics("whole"));
}

#[test]
fn a_finished_run_is_not_resumed_with_other_settings() {
    let room = Room::new();
    room.run("out", &[], FRESH).unwrap();
    let error = room.run("out", &["lora.r=4"], RESUME).unwrap_err().to_string();
    assert!(error.contains("lora.r was 3 and is 4") && error.contains("--overwrite"), "{error}");
}

#[test]
fn the_state_after_the_last_step_is_kept_in_case_the_result_cannot_be_written() {
    let room = Room::new();
    let whole = room.run("out", &["train.save_every=1000"], FRESH).unwrap();
    let adapter = room.adapter("out");
    for name in ["summary.json", "adapter_model.safetensors", "adapter_config.json"] {
        fs::remove_file(room.path("out").join(name)).unwrap();
    }
    let mut notes = Notes::default();
    let run_file = room.run_file("out", &["train.save_every=1000"]);
    let again = run(&run_file, RESUME, &mut notes, &AtomicBool::new(false)).unwrap();
    assert!(notes.steps.is_empty() && notes.scores.is_empty());
    assert_eq!((again.eval, again.best_step, room.adapter("out")), (whole.eval, whole.best_step, adapter));
}

#[test]
fn a_run_replaces_neither_what_it_starts_from_nor_what_no_run_made() {
    let room = Room::new();
    room.run("start", &[], FRESH).unwrap();
    let error = |output: &str, settings: &[&str], options| {
        let before = fs::read(room.path(output).join("config.json")).ok();
        let error = room.run(output, settings, options).unwrap_err().to_string();
        assert_eq!(before, fs::read(room.path(output).join("config.json")).ok());
        error
    };
    for options in [FRESH, OVERWRITE, RESUME] {
        let text = error("base", &[], options);
        assert!(text.contains("output: it is the folder of model"), "{text}");
        let text = error("start", &["init_adapter=start"], options);
        assert!(text.contains("output: it is the folder of init_adapter"), "{text}");
        let text = error("base", &["model=start"], options);
        assert!(text.contains("holds model.safetensors, but no run"), "{text}");
    }
    fs::remove_file(room.path("start").join("run.toml")).unwrap();
    for name in ["summary.json", "metrics.jsonl"] {
        fs::remove_file(room.path("start").join(name)).unwrap();
    }
    fs::remove_dir_all(room.path("start").join("checkpoints")).unwrap();
    let text = error("start", &[], OVERWRITE);
    assert!(text.contains("holds adapter_model.safetensors, but no run"), "{text}");
}

#[test]
fn overwriting_a_whole_models_run_removes_all_of_the_model() {
    let room = Room::new();
    room.run("out", &["method=full"], FRESH).unwrap();
    assert!(room.path("out").join("tokenizer.json").exists() || room.path("out").join("vocab.txt").exists());
    room.run("out", &[], OVERWRITE).unwrap();
    for name in ["model.safetensors", "config.json", "tokenizer.json", "vocab.txt"] {
        assert!(!room.path("out").join(name).exists(), "{name}");
    }
}

/// The directions of the inputs are found again, to the bit, and the ranks with them.
#[test]
fn a_run_that_began_by_its_data_goes_on_to_the_same_bytes() {
    let room = Room::new();
    let settings = ["lora.init_lora_weights=eva", "lora.r=2", "lora.lora_alpha=3"];
    let mut notes = Notes::default();
    run(&room.run_file("whole", &settings), FRESH, &mut notes, &AtomicBool::new(false)).unwrap();
    assert!(notes.notes.iter().any(|note| note.starts_with("eva: ")), "{:?}", notes.notes);
    room.run_until("broken", &settings, 4, FRESH).unwrap_err();
    room.run("broken", &settings, RESUME).unwrap();
    assert_eq!(room.adapter("broken"), room.adapter("whole"));
    assert_eq!(room.metrics("broken"), room.metrics("whole"));
    // What is saved is plain: ranks by name, and the scaling that was asked for in each layer.
    let config = lowrank::adapter::read_config(&room.path("whole")).unwrap();
    assert!(matches!(config.init_lora_weights, lowrank::adapter::Init::Default));
    let ranks: Vec<usize> = config.rank_pattern.iter().map(|(_, r)| *r).collect();
    assert!(ranks.len() > 2 && ranks.iter().all(|r| (1..=4).contains(r)), "{ranks:?}");
    for (pattern, _) in &config.rank_pattern {
        let layer = config.layer(pattern).unwrap();
        assert!((layer.scaling - 1.5).abs() < 1e-6, "{layer:?}");
    }
    let error = room.run("patterned", &[settings[0], "lora.rank_pattern.query=3"], FRESH).unwrap_err();
    assert!(error.to_string().contains("rank_pattern"), "{error}");
}

#[test]
fn a_run_whose_layers_are_run_again_has_the_same_bytes() {
    let room = Room::new();
    room.run("kept", &[], FRESH).unwrap();
    let again = "train.gradient_checkpointing=true";
    room.run("again", &[again], FRESH).unwrap();
    assert_eq!(room.adapter("again"), room.adapter("kept"));
    assert_eq!(room.metrics("again"), room.metrics("kept"));
    // It decides no bit: a run may go on with it.
    room.run_until("broken", &[], 4, FRESH).unwrap_err();
    room.run("broken", &[again], RESUME).unwrap();
    assert_eq!(room.adapter("broken"), room.adapter("kept"));
}

#[test]
fn a_run_in_whole_numbers_goes_on_to_its_bytes_and_not_in_another_type() {
    let room = Room::new();
    let int8 = "train.compute=int8";
    room.run("plain", &[], FRESH).unwrap();
    room.run("whole", &[int8], FRESH).unwrap();
    assert_ne!(room.adapter("whole"), room.adapter("plain"), "products are rounded");
    room.run_until("broken", &[int8], 4, FRESH).unwrap_err();
    let error = room.run("broken", &[], RESUME).unwrap_err().to_string();
    assert!(error.contains("train.compute"), "{error}");
    room.run("broken", &[int8], RESUME).unwrap();
    assert_eq!(room.adapter("broken"), room.adapter("whole"));
    let error = room.run("whole", &[], RESUME).unwrap_err().to_string();
    assert!(error.contains("train.compute"), "a finished run: {error}");
}
