//! `lowrank train`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

use clap::Args;
use lowrank::Error;
use lowrank::text::decimals;
use lowrank::train::{self, RunFile, RunFileBuilder, RunOptions, Summary};
use serde::Serialize;

use crate::arguments::Global;
use crate::downloads::Downloads;
use crate::failure::{Failure, Result};
use crate::interrupt::stop_flag;
use crate::output::Output;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Examples:
  lowrank train run.toml
  lowrank train run.toml --set train.learning_rate=1e-3 --overwrite
  lowrank train --model roberta-base --task sst2 --train train.tsv \\
      --validation dev.tsv --output runs/sst2 --rank 8 --learning-rate 5e-4";

/// Train a LoRA adapter and a head, or a whole model
///
/// The run is described by a run file, by options, or by both: an option overrides the run file. A run file with several
/// [[adapters]] trains them at once on one model, each into a folder of its own. Paths in a run file
/// and in --set are relative to the run file, paths in other options to the working folder.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Run file
    #[arg(value_name = "RUN.toml")]
    run: Option<PathBuf>,
    /// Override any key of the run file, as in train.max_steps=100
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the last checkpoint in the output folder
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace a run that the output folder holds
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What to train on")]
struct Places {
    /// Base model: a folder in Hugging Face layout, or a Hub id
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// sst2, cola, rte, mrpc, stsb, qnli, qqp, mnli, text-classification,
    /// token-classification, squad, squad_v2, cifar10, mnist, image-folder, text,
    /// prompt-completion, messages, text2text, summarization or translation
    #[arg(long, value_name = "T")]
    task: Option<String>,
    /// Training data
    #[arg(long, value_name = "FILE")]
    train: Option<String>,
    /// Validation data
    #[arg(long, value_name = "FILE")]
    validation: Option<String>,
    /// Folder for the adapter, its metrics and checkpoints
    #[arg(long, value_name = "O")]
    output: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "How (see the run file's keys for the rest)")]
struct Settings {
    /// lora, or full
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Rank of the adapter
    #[arg(long, value_name = "R")]
    rank: Option<String>,
    /// Numerator of the adapter's scaling
    #[arg(long, value_name = "X")]
    lora_alpha: Option<String>,
    /// Dropout before the adapter
    #[arg(long, value_name = "P")]
    lora_dropout: Option<String>,
    /// Names with commas between, a regular expression, or all-linear
    #[arg(long, value_name = "NAMES")]
    target_modules: Option<String>,
    /// Parameters of a mixture, as mlp.experts.gate_up_proj,mlp.experts.down_proj
    #[arg(long, value_name = "NAMES")]
    target_parameters: Option<String>,
    /// Passes over the training data
    #[arg(long, value_name = "N")]
    epochs: Option<String>,
    /// Optimiser steps, in the place of --epochs
    #[arg(long, value_name = "N")]
    max_steps: Option<String>,
    /// Examples in a batch
    #[arg(long, value_name = "B")]
    batch_size: Option<String>,
    /// Batches in an optimiser step
    #[arg(long, value_name = "N")]
    gradient_accumulation: Option<String>,
    /// Learning rate after the warm-up
    #[arg(long, value_name = "X")]
    learning_rate: Option<String>,
    /// linear, cosine or constant
    #[arg(long, value_name = "KIND")]
    lr_schedule: Option<String>,
    /// Share of the run in which the learning rate rises
    #[arg(long, value_name = "X")]
    warmup_ratio: Option<String>,
    /// Longest example in tokens
    #[arg(long, value_name = "N")]
    max_length: Option<String>,
    /// Read the first N training rows only
    #[arg(long, value_name = "N")]
    limit: Option<String>,
    /// What every random number comes from
    #[arg(long, value_name = "N")]
    seed: Option<String>,
}

impl Settings {
    /// Each option with the run file's key that it sets.
    fn keys(&self) -> [(&'static str, &Option<String>); 16] {
        [
            ("method", &self.method),
            ("lora.r", &self.rank),
            ("lora.lora_alpha", &self.lora_alpha),
            ("lora.lora_dropout", &self.lora_dropout),
            ("lora.target_modules", &self.target_modules),
            ("lora.target_parameters", &self.target_parameters),
            ("train.epochs", &self.epochs),
            ("train.max_steps", &self.max_steps),
            ("train.batch_size", &self.batch_size),
            ("train.gradient_accumulation", &self.gradient_accumulation),
            ("train.learning_rate", &self.learning_rate),
            ("train.lr_schedule", &self.lr_schedule),
            ("train.warmup_ratio", &self.warmup_ratio),
            ("data.max_length", &self.max_length),
            ("data.limit", &self.limit),
            ("train.seed", &self.seed),
        ]
    }
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let runs = run_files(&arguments, global)?;
    let output = Output::new(global.json);
    let stop = stop_flag()?;
    let _downloads = Downloads::show(Some(Arc::clone(&stop)));
    let options = RunOptions { resume: arguments.resume, overwrite: arguments.overwrite };
    let summaries = train::run_together(&runs, options, &mut Progress::new(output), &stop);
    match (summaries, &runs[..]) {
        (Ok(summaries), [(name, run)]) if name.is_empty() => {
            summaries.iter().try_for_each(|summary| output.result(report(run, summary), summary))
        }
        (Ok(summaries), _) => {
            let reports = runs.iter().zip(&summaries);
            let text: Vec<String> =
                reports.map(|((name, run), summary)| format!("{name}: {}", report(run, summary))).collect();
            let names = runs.iter().map(|(name, _)| name.as_str());
            let by_name: BTreeMap<&str, &Summary> = names.zip(&summaries).collect();
            output.result(text.join("\n"), &Together { adapters: by_name })
        }
        (Err(error @ Error::Interrupted { step: 1.. }), _) => {
            Err(Failure::interrupted(format!("{error}; go on with: {}", resume_command(std::env::args()))))
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// What `--json` says of several adapters.
#[derive(Serialize)]
struct Together<'a> {
    adapters: BTreeMap<&'a str, &'a Summary>,
}

/// The summary in a few lines.
fn report(run: &RunFile, summary: &Summary) -> String {
    let mut scores: Vec<String> =
        summary.eval.iter().map(|(name, value)| format!("{name} {}", decimals(*value, 4))).collect();
    if scores.is_empty() {
        scores.push(format!("training loss {:.4}", summary.train_loss));
    }
    format!(
        "{} after step {} of {}\n{:.0} examples/s, {:.0} tokens/s, {:.1} s in all, {:.0} MB at most\n{}",
        scores.join("  "),
        summary.best_step,
        summary.steps,
        summary.examples_per_second,
        summary.tokens_per_second,
        summary.total_seconds,
        summary.peak_rss_bytes as f64 / 1e6,
        run.output.display(),
    )
}

/// The runs of the run file, one or one for each of its adapters, with everything that overrides it.
fn run_files(arguments: &Arguments, global: Global) -> Result<Vec<(String, RunFile)>> {
    let Places { model, task, train, validation, output } = &arguments.places;
    let mut builder = match &arguments.run {
        Some(path) => RunFileBuilder::read(path)?,
        None if model.is_none() && arguments.set.is_empty() => {
            let needed =
                "a run file is needed, or --model, --task, --train and --output; see lowrank train --help";
            return Err(Failure::usage(needed));
        }
        None => RunFileBuilder::new(),
    };
    let beside_a_file = arguments.run.is_some();
    let paths = [
        ("model", model.as_ref().map(|model| folder_or_id(model, beside_a_file))),
        ("data.train", train.as_ref().map(|path| from_here(path, beside_a_file))),
        ("data.validation", validation.as_ref().map(|path| from_here(path, beside_a_file))),
        ("output", output.as_ref().map(|path| from_here(path, beside_a_file))),
        ("task", task.clone()),
    ];
    for (key, value) in paths.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        builder.set_text(key, value)?;
    }
    for (key, value) in
        arguments.settings.keys().into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)))
    {
        builder.set(&format!("{key}={value}"))?;
    }
    if let Some(dtype) = global.dtype {
        builder.set_text("train.dtype", dtype.word())?;
    }
    if global.load_in.is_some() {
        builder.set_text("load_in", global.load_in().name())?;
    }
    for assignment in &arguments.set {
        builder.set(assignment)?;
    }
    Ok(builder.build_all()?)
}

/// A path of the working folder, as a run file elsewhere has to write it.
fn from_here(path: &str, beside_a_file: bool) -> String {
    let full = beside_a_file.then(|| absolute(path).ok()).flatten();
    full.map_or_else(|| path.to_owned(), |full| full.to_string_lossy().into_owned())
}

fn folder_or_id(model: &str, beside_a_file: bool) -> String {
    from_here(model, beside_a_file && Path::new(model).is_dir())
}

/// The command that goes on with this run.
fn resume_command(arguments: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = arguments
        .filter(|word| word != "--overwrite" && word != "--resume")
        .map(|word| quoted(&word))
        .collect();
    words.push("--resume".to_owned());
    words.join(" ")
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_go_on_with_can_be_pasted() {
        let words = ["lowrank", "train", "my run.toml", "--overwrite", "--set", "lora.target_modules=.*q"];
        let command = resume_command(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(command, "lowrank train 'my run.toml' --set 'lora.target_modules=.*q' --resume");
    }
}
