//! `lowrank bench`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use lowrank::Error;
use lowrank::models::{ModelConfig, Operands};
use lowrank::train::{self, BenchOptions};

use crate::arguments::{Global, LoraArguments};
use crate::commands::params::lora_config;
use crate::failure::Result;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  lowrank bench train --config config.json --target-modules query,value \\
      --rank 8 --batch 16 --seq 128 --dtype bf16
  lowrank bench train --config config.json --lengths lengths.txt --json";

/// Measure speed and memory
#[derive(Debug, Subcommand)]
pub enum Command {
    Train(Train),
}

/// Measure training steps of a model with random weights and random tokens
///
/// Two steps warm up and are not measured.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Train {
    /// Configuration file of a model in Hugging Face format
    #[arg(long, value_name = "CONFIG.json")]
    config: PathBuf,
    #[command(flatten)]
    lora: LoraArguments,
    /// Sequences in a step
    #[arg(long, value_name = "B", default_value_t = 16)]
    batch: usize,
    /// Length of every sequence, in tokens [default: 128]
    #[arg(long, value_name = "N", conflicts_with = "lengths")]
    seq: Option<usize>,
    /// File with a length on each line, taken in order and again from the first
    #[arg(long, value_name = "FILE")]
    lengths: Option<PathBuf>,
    /// Tokens that an encoder-decoder writes for each sequence
    #[arg(long, value_name = "N", default_value_t = 16)]
    target_seq: usize,
    /// What the products with frozen weights are made of
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = ComputeWord::Auto)]
    compute: ComputeWord,
    /// Keep a layer's inputs alone, and run it again for its gradients
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Steps to measure
    #[arg(long, value_name = "N", default_value_t = 10)]
    steps: usize,
}

/// What products with frozen weights can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ComputeWord {
    /// Numbers of --dtype
    Auto,
    /// Weights in 8 bits
    Int8,
}

/// Runs the command.
pub fn run(command: Command, global: Global) -> Result {
    let Command::Train(arguments) = command;
    let lengths = match &arguments.lengths {
        Some(path) => read_lengths(path)?,
        None => vec![arguments.seq.unwrap_or(128)],
    };
    let report = train::bench(&BenchOptions {
        config: ModelConfig::read(&arguments.config)?,
        lora: lora_config(&arguments.lora),
        batch_size: arguments.batch,
        lengths,
        target: arguments.target_seq,
        steps: arguments.steps,
        load_in: global.load_in(),
        compute: global.compute(),
        operands: match arguments.compute {
            ComputeWord::Auto => Operands::Rows,
            ComputeWord::Int8 => Operands::Int8,
        },
        gradient_checkpointing: arguments.gradient_checkpointing,
    })?;
    Output::new(global.json).result(&report, &report)
}

fn read_lengths(path: &Path) -> Result<Vec<usize>> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let mut lengths = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let length = line.trim().parse();
        let reason = || format!("{line:?} is not a length; each line holds one whole number");
        lengths.push(length.map_err(|_| Error::row(path, number + 1, reason()))?);
    }
    Ok(lengths)
}
