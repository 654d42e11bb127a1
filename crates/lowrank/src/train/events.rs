//! What a run tells its caller while it goes on.

use serde::Serialize;

use super::reading::Reading;
use super::trainer::Step;
use crate::adapter::ParameterCount;
use crate::data::Scores;

/// A listener to a run. Every method has a default that does nothing.
pub trait Observer {
    /// Of several adapters that are trained at once, what is told from here on is of this one.
    fn turn(&mut self, adapter: &str) {
        let _ = adapter;
    }

    /// Training begins.
    fn started(&mut self, start: &Start) {
        let _ = start;
    }

    /// A step was taken.
    fn step(&mut self, report: &StepReport) {
        let _ = report;
    }

    /// An evaluation goes on: so many examples of so many are done.
    fn evaluating(&mut self, done: usize, examples: usize) {
        let _ = (done, examples);
    }

    /// The model was evaluated after `step` steps.
    fn evaluated(&mut self, step: usize, scores: &Scores) {
        let _ = (step, scores);
    }

    /// Something worth a line: what was skipped, where a run goes on.
    fn note(&mut self, text: &str) {
        let _ = text;
    }
}

/// A listener that does nothing.
pub struct Silent;

impl Observer for Silent {}

/// What is known when training begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// The steps already taken, by a run that is resumed.
    pub first_step: usize,
    /// The steps of the whole run.
    pub total_steps: usize,
    /// How much is trained.
    pub parameters: ParameterCount,
    /// The training examples.
    pub examples: usize,
    /// Steps between printed lines where there is no terminal.
    pub log_every: usize,
}

/// A step that was taken.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: usize,
    /// The steps of the whole run.
    pub total_steps: usize,
    /// What it did.
    pub result: Step,
}

/// How a run ended: `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
pub struct Summary {
    /// The base model as the run file names it.
    pub model: String,
    /// The task.
    pub task: String,
    /// The names of the labels in the order of their ids; empty in regression.
    pub labels: Vec<String>,
    /// How the examples were read.
    #[serde(default)]
    pub data: Reading,
    /// `lora` or `full`.
    pub method: String,
    /// The optimiser steps taken.
    pub steps: usize,
    /// The passes over the training data, in part or whole.
    pub epochs: f64,
    /// Whether the run stopped for want of improvement.
    pub stopped_early: bool,
    /// The step whose state is the result.
    pub best_step: usize,
    /// The metrics of the result on the validation data; empty without any.
    pub eval: Scores,
    /// The mean loss of the last steps, at most a hundred.
    pub train_loss: f64,
    /// The parameters that were trained.
    pub trainable_parameters: u64,
    /// All parameters, counted as PEFT does.
    pub all_parameters: u64,
    /// Training examples in the data.
    pub examples: usize,
    /// Examples that were cut at `max_length`.
    pub truncated_examples: usize,
    /// Rows that could not be used.
    pub skipped_examples: usize,
    /// Tokens that were trained on.
    pub tokens: u64,
    /// Seconds of training, evaluations and checkpoints left out.
    pub train_seconds: f64,
    /// Seconds from the run's start to its end; of the last part only, where it was resumed.
    pub total_seconds: f64,
    /// Examples trained on in a second.
    pub examples_per_second: f64,
    /// Tokens trained on in a second.
    pub tokens_per_second: f64,
    /// The most memory that the process held.
    pub peak_rss_bytes: u64,
    /// The type of rows and operands.
    pub dtype: String,
    /// The CPU tier.
    pub cpu: String,
    /// The number of threads.
    pub threads: usize,
    /// The seed.
    pub seed: u64,
}
