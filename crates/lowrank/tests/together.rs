//! Adapters that are trained at once over one base model.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/runs.rs"]
mod runs;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use lowrank::Error;
use lowrank::hub::Checkpoint;
use lowrank::train::{RunFile, RunFileBuilder, RunOptions, Silent, Summary, run_together};
use runs::{At, Room};

const FRESH: RunOptions = RunOptions { resume: false, overwrite: false };
const RESUME: RunOptions = RunOptions { resume: true, overwrite: false };

const OVERWRITE: RunOptions = RunOptions { resume: false, overwrite: true };

const BASE: &str = "model = 'base'\ntask = 'sst2'\noutput = 'OUTPUT'\n\
    [data]\ntrain = 'train.tsv'\nvalidation = 'dev.tsv'\n\
    [lora]\nr = 3\nlora_dropout = 0.2\ntarget_modules = 'all-linear'\n\
    [train]\nepochs = 3\nbatch_size = 3\ngradient_accumulation = 3\nlearning_rate = 2e-2\ndtype = 'f32'\n";

/// What each adapter has of its own: its name, and settings as they are written above it and for a run of its own.
const ADAPTERS: [(&str, &[&str]); 3] = [
    ("small", &["lora.r=2"]),
    (
        "wide",
        &["lora.r=5", "lora.use_dora=true", "lora.target_modules=[\"query\"]", "train.learning_rate=1e-3"],
    ),
    ("short", &["data.limit=9", "train.epochs=2", "lora.init_lora_weights=\"pissa\"", "train.eval_every=1"]),
];

fn builder(room: &Room, output: &str) -> RunFileBuilder {
    let mut text = BASE.replace("OUTPUT", output);
    for (name, settings) in ADAPTERS {
        text.push_str(&format!("[[adapters]]\nname = '{name}'\n"));
        settings.iter().for_each(|setting| text.push_str(&format!("{}\n", setting.replacen('=', " = ", 1))));
    }
    RunFileBuilder::from_toml(&text, room.path("")).unwrap()
}

fn together(room: &Room, output: &str) -> Vec<(String, RunFile)> {
    builder(room, output).build_all().unwrap()
}

fn train(room: &Room, output: &str, options: RunOptions) -> lowrank::Result<Vec<Summary>> {
    run_together(&together(room, output), options, &mut Silent, &AtomicBool::new(false))
}

/// Checks that each adapter is what a run of its own makes.
fn assert_as_alone(room: &Room, output: &str) {
    for (name, settings) in ADAPTERS {
        let alone = format!("alone-{name}");
        if !room.path(&alone).exists() {
            room.run(&alone, settings, FRESH).unwrap();
        }
        let own = format!("{output}/{name}");
        assert_eq!(room.adapter(&own), room.adapter(&alone), "{name}");
        assert_eq!(room.metrics(&own), room.metrics(&alone), "{name}");
        let file = Checkpoint::open_adapter(room.path(&own)).unwrap();
        let moved = file.names().filter(|key| key.ends_with("lora_B.weight"));
        assert!(moved.count() > 1, "{name}");
    }
}

#[test]
fn each_adapter_is_to_the_bit_what_it_is_alone() {
    let room = Room::new();
    let summaries = train(&room, "all", FRESH).unwrap();
    assert_eq!(summaries.iter().map(|summary| summary.steps).collect::<Vec<_>>(), [9, 9, 2]);
    assert_as_alone(&room, "all");
    let error = train(&room, "all", FRESH).unwrap_err().to_string();
    assert!(error.contains("finished run"), "{error}");
    assert_eq!(train(&room, "all", RESUME).unwrap(), summaries, "they are finished");
}

#[test]
fn stopped_in_any_turn_all_go_on_to_the_same_bytes() {
    let room = Room::new();
    for (step, turn) in [(1, 0), (2, 1), (4, 0), (7, 1)] {
        let output = format!("broken-{step}-{turn}");
        let (runs, stop) = (together(&room, &output), AtomicBool::new(false));
        let mut turns = 0;
        let mut observer = At {
            step,
            then: |_| {
                if turns == turn {
                    stop.store(true, Ordering::Relaxed);
                }
                turns += 1;
            },
        };
        let error = run_together(&runs, FRESH, &mut observer, &stop).unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error}");
        assert!(!room.path(&output).join("small/adapter_model.safetensors").exists());
        train(&room, &output, RESUME).unwrap();
        assert_as_alone(&room, &output);
    }
}

#[test]
fn what_adapters_cannot_have_of_their_own_is_refused() {
    let room = Room::new();
    let error = |adapters: &str| {
        let text = format!("{}{adapters}", BASE.replace("OUTPUT", "all"));
        let builder = RunFileBuilder::from_toml(&text, room.path(""));
        builder.and_then(|builder| builder.build_all().map(drop)).unwrap_err().to_string()
    };
    for (adapters, parts) in [
        ("[[adapters]]\nlora.r = 2\n", &["adapters", "has a name"][..]),
        ("[[adapters]]\nname = 'a'\n[[adapters]]\nname = 'a'\n", &["adapters", "two have the name \"a\""]),
        ("[[adapters]]\nname = 'a'\n[[adapters]]\nname = 'A'\n", &["adapters", "two have the name \"A\""]),
        ("[[adapters]]\nname = '../a'\n", &["name", "names a folder"]),
        ("[[adapters]]\nname = 'a'\nmodel = 'other'\n", &["adapters.a.model", "the same for all"]),
        ("[[adapters]]\nname = 'a'\ntrain.seed = 3\n", &["adapters.a.train.seed", "the same for all"]),
        ("[[adapters]]\nname = 'a'\nlora.rr = 3\n", &["a: ", "lora.rr"]),
        ("[[adapters]]\nname = 'a'\nlora.r = 0\n", &["adapters.a.lora.r", "at least 1"]),
        ("[adapters]\nname = 'a'\n", &["adapters", "[[adapters]]"]),
        ("[[adapter]]\nname = 'a'\n", &["unknown key \"adapter\"; did you mean adapters?"]),
        (
            "[[adapters]]\nname = 'a'\n[[adapters.adapters]]\nname = 'b'\n",
            &["adapters.a.adapters", "has none"],
        ),
    ] {
        let text = error(adapters);
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in {text}");
    }
    // An empty list is not the one run without a name.
    let none = RunFileBuilder::from_toml(&format!("adapters = []\n{BASE}"), room.path(""));
    let none = none.map(drop).unwrap_err().to_string();
    assert!(none.contains("adapters: there is none"), "{none}");
    for key in ["adapters", "adapters.small.lora.r"] {
        let error = builder(&room, "all").set(&format!("{key}=3")).map(drop).unwrap_err().to_string();
        assert!(error.starts_with(key) && error.contains("set in all"), "{error}");
    }
    let alone = builder(&room, "all").build().unwrap_err().to_string();
    assert!(alone.contains("lowrank train"), "{alone}");

    let mut full = builder(&room, "all");
    full.set("method=full").unwrap();
    let runs = full.build_all().unwrap();
    let error = run_together(&runs, FRESH, &mut Silent, &AtomicBool::new(false)).unwrap_err().to_string();
    assert!(error.contains("method"), "{error}");
    assert!(fs::read_dir(room.path("all")).is_err(), "nothing was made");
}

/// Entries that an adapter has of its own stand before those of all.
#[test]
fn tables_of_patterns_and_columns_are_joined() {
    let room = Room::new();
    let text = BASE.replace("r = 3", "r = 3\nrank_pattern = {value = 5, key = 4}");
    let text = text.replace("OUTPUT", "all") + "[[adapters]]\nname = 'a'\nlora.rank_pattern.value = 2\n";
    let runs = RunFileBuilder::from_toml(&text, room.path("")).unwrap().build_all().unwrap();
    assert_eq!(runs[0].1.lora.rank_pattern, [("value".to_owned(), 2), ("key".to_owned(), 4)]);
}

#[test]
fn several_do_not_stand_in_the_folder_of_one() {
    let room = Room::new();
    room.run("all", &["train.max_steps=1"], FRESH).unwrap();
    let error = train(&room, "all", FRESH).unwrap_err().to_string();
    assert!(error.contains("the adapter of one run"), "{error}");
}

/// What overrides the run file overrides what an adapter has of its own.
#[test]
fn an_override_is_of_all_adapters() {
    let room = Room::new();
    let mut builder = builder(&room, "all");
    builder.set("lora.r=1").unwrap();
    builder.set("lora.rank_pattern.value=4").unwrap();
    for (_, run) in builder.build_all().unwrap() {
        assert_eq!(run.lora.r, 1);
        assert_eq!(run.lora.rank_pattern[0], ("value".to_owned(), 4));
    }
    builder.set("lora.r=0").unwrap();
    let error = builder.build_all().unwrap_err().to_string();
    assert!(error.starts_with("lora.r: ") && !error.contains("adapters"), "{error}");
}

#[test]
fn an_older_result_goes_only_when_all_runs_can_begin() {
    let room = Room::new();
    train(&room, "all", FRESH).unwrap();
    let before = room.adapter("all/small");
    // What is found only with the model, too.
    let mut runs = together(&room, "all");
    let indices = vec![1_000_000];
    runs[2].1.lora.trainable_token_indices = Some(lowrank::adapter::TokenIndices::OfInput(indices));
    let error = run_together(&runs, OVERWRITE, &mut Silent, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().starts_with("short: trainable_token_indices"), "{error}");
    assert_eq!(room.adapter("all/small"), before);
    let mut elsewhere = vec![together(&room, "elsewhere")[0].clone(), runs[2].clone()];
    elsewhere[1].1.output = room.path("elsewhere/short");
    run_together(&elsewhere, FRESH, &mut Silent, &AtomicBool::new(false)).unwrap_err();
    assert!(!room.path("elsewhere").exists(), "nothing is left of a run that did not begin");
    let mut runs = together(&room, "all");
    runs[2].1.data.train = room.path("nowhere.tsv");
    let run =
        |runs: &[(String, RunFile)]| run_together(runs, OVERWRITE, &mut Silent, &AtomicBool::new(false));
    let error = run(&runs).unwrap_err().to_string();
    assert!(error.contains("nowhere.tsv"), "{error}");
    assert_eq!(room.adapter("all/small"), before);
    let mut runs = together(&room, "all");
    runs[2].1.init_adapter = Some(room.path("all/small").to_string_lossy().into_owned());
    let error = run(&runs).unwrap_err().to_string();
    assert!(error.contains("init_adapter"), "{error}");
    assert_eq!(room.adapter("all/small"), before);
}

/// What happens to the others afterwards does not matter to it.
#[test]
fn a_run_that_is_over_is_written_at_once() {
    let room = Room::new();
    let (runs, stop) = (together(&room, "all"), AtomicBool::new(false));
    let mut observer = At { step: 4, then: |_| stop.store(true, Ordering::Relaxed) };
    run_together(&runs, FRESH, &mut observer, &stop).unwrap_err();
    room.run("alone-short", ADAPTERS[2].1, FRESH).unwrap();
    assert_eq!(room.adapter("all/short"), room.adapter("alone-short"));
    assert!(!room.path("all/small/adapter_model.safetensors").exists());
}

/// The warm-up begins at 0: after one step nothing has moved.
#[test]
fn a_run_that_changed_nothing_says_so() {
    let room = Room::new();
    let settings = ["train.max_steps=1", "train.warmup_steps=5"];
    let mut notes = runs::Notes::default();
    let run = [(String::new(), room.run_file("idle", &settings))];
    run_together(&run, FRESH, &mut notes, &AtomicBool::new(false)).unwrap();
    assert!(notes.notes.iter().any(|note| note.contains("changes nothing")), "{:?}", notes.notes);
    let mut notes = runs::Notes::default();
    let run = [(String::new(), room.run_file("moved", &["train.max_steps=2"]))];
    run_together(&run, FRESH, &mut notes, &AtomicBool::new(false)).unwrap();
    assert!(!notes.notes.iter().any(|note| note.contains("changes nothing")), "{:?}", notes.notes);
}
