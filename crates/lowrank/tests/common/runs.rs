//! Small runs: a model folder, two files of sentences, a run file.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use lowrank::Result;
use lowrank::data::Scores;
use lowrank::train::{Observer, RunFile, RunFileBuilder, RunOptions, Silent, StepReport, Summary, run};
use lowrank_kernels::random::Philox;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{bert_config, write_model};

/// Rows of the training file: three steps of an epoch, the last one smaller.
pub const EXAMPLES: usize = 23;
pub const STEPS_PER_EPOCH: usize = 3;

/// A folder with all that a run needs.
pub struct Room {
    folder: TempDir,
}

impl Room {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_model(&folder.path().join("base"), &bert_config(2), 2);
        fs::write(folder.path().join("train.tsv"), sentences(EXAMPLES, 1)).unwrap();
        fs::write(folder.path().join("dev.tsv"), sentences(11, 2)).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The run that fills the folder `output`; three epochs of three steps with all dropouts on.
    pub fn run_file(&self, output: &str, settings: &[&str]) -> RunFile {
        self.builder(output, settings).build().unwrap()
    }

    /// What is wrong with a run file.
    pub fn run_file_error(&self, output: &str, settings: &[&str]) -> String {
        self.builder(output, settings).build().unwrap_err().to_string()
    }

    fn builder(&self, output: &str, settings: &[&str]) -> RunFileBuilder {
        let text = format!(
            "model = 'base'\ntask = 'sst2'\noutput = '{output}'\n\
             [data]\ntrain = 'train.tsv'\nvalidation = 'dev.tsv'\n\
             [lora]\nr = 3\nlora_dropout = 0.2\ntarget_modules = 'all-linear'\n\
             [train]\nepochs = 3\nbatch_size = 3\ngradient_accumulation = 3\nlearning_rate = 2e-2\ndtype = 'f32'\n"
        );
        let mut builder = RunFileBuilder::from_toml(&text, self.folder.path()).unwrap();
        for setting in settings {
            builder.set(setting).unwrap();
        }
        builder
    }

    pub fn run(&self, output: &str, settings: &[&str], options: RunOptions) -> Result<Summary> {
        run(&self.run_file(output, settings), options, &mut Silent, &AtomicBool::new(false))
    }

    /// A run that is told to stop once it has taken this many steps.
    pub fn run_until(
        &self,
        output: &str,
        settings: &[&str],
        step: usize,
        options: RunOptions,
    ) -> Result<Summary> {
        let stop = AtomicBool::new(false);
        let mut observer = At { step, then: |_: usize| stop.store(true, Ordering::Relaxed) };
        run(&self.run_file(output, settings), options, &mut observer, &stop)
    }

    pub fn adapter(&self, output: &str) -> Vec<u8> {
        fs::read(self.path(output).join("adapter_model.safetensors")).unwrap()
    }

    /// The lines of `metrics.jsonl` without the time that a step took.
    pub fn metrics(&self, output: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(output).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|mut line| {
                if let Some(map) = line.as_object_mut() {
                    map.remove("seconds");
                }
                line
            })
            .collect()
    }
}

/// Calls a function after one step.
pub struct At<F> {
    pub step: usize,
    pub then: F,
}

impl<F: FnMut(usize)> Observer for At<F> {
    fn step(&mut self, report: &StepReport) {
        if report.step == self.step {
            (self.then)(report.step);
        }
    }
}

/// Notes what a run says.
#[derive(Default)]
pub struct Notes {
    pub steps: Vec<usize>,
    pub scores: Vec<(usize, Scores)>,
    pub notes: Vec<String>,
}

impl Observer for Notes {
    fn step(&mut self, report: &StepReport) {
        self.steps.push(report.step);
    }

    fn evaluated(&mut self, step: usize, scores: &Scores) {
        self.scores.push((step, scores.clone()));
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

/// Random sentences of known words in SST-2's form; which of two words comes decides most labels.
fn sentences(count: usize, seed: u64) -> String {
    let words = ["hello", "world", "the", "a", "movie", "film", "it", "s", "well", "pace"];
    let random = &mut Philox::new(41, seed);
    let mut text = String::from("sentence\tlabel\n");
    for _ in 0..count {
        let label = random.below(2);
        let mut sentence = vec![if label == 1 { "not" } else { "bad" }];
        for _ in 0..1 + random.below(12) {
            sentence.push(words[random.below(words.len() as u64) as usize]);
        }
        random.shuffle(&mut sentence);
        text.push_str(&format!("{}\t{label}\n", sentence.join(" ")));
    }
    text
}

/// Copies a folder as a killed process would leave it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let place = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy_folder(&entry, &place);
        } else {
            fs::copy(&entry, &place).unwrap();
        }
    }
}
