//! `lowrank merge`.

use std::path::PathBuf;

use clap::Args;
use lowrank::train::{self, MergeOptions};

use crate::arguments::Global;
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  lowrank merge --model roberta-base --adapter runs/sst2 --out roberta-sst2
  lowrank merge --model M --adapter style --adapter domain --out merged";

/// Write a model folder with adapters merged into its weights
///
/// The weights are written one after the other, in the types, names and files of the base model, so that a model may be
/// larger than memory. Before the folder is there, base model and adapters are compared with it on random inputs: where
/// their outputs differ by more than rounding to the stored type explains, nothing is written.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "lowrank merge --model M --adapter A [--adapter B …] --out DIR")]
pub struct Arguments {
    /// Base model: a folder in Hugging Face layout, or a Hub id
    #[arg(long, value_name = "M")]
    model: String,
    /// PEFT adapter folder, or a Hub id; several are added up
    #[arg(long, value_name = "A", required = true)]
    adapter: Vec<String>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Save weights that are in 8 bits as bf16: 8 bits do not hold the sum
    #[arg(long)]
    dequantize: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let _downloads = Downloads::show(None);
    let Arguments { model, adapter, out, dequantize } = &arguments;
    let options = MergeOptions { model, adapters: adapter, out, dequantize: *dequantize };
    let report = train::merge(&options)?;
    Output::new(global.json).result(&report, &report)
}
