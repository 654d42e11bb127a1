//! `lowrank quantize`.

use std::path::PathBuf;

use clap::Args;
use lowrank::train::{self, QuantizeOptions};

use crate::arguments::{Global, LoadInWord};
use crate::downloads::Downloads;
use crate::failure::{Failure, Result};
use crate::output::Output;

const EXAMPLES: &str = "\
Example:
  lowrank quantize --model google/flan-t5-xl --out flan-t5-xl-8 --check";

/// Write a model folder with its linear layers in 8 bits
///
/// Each row of a weight has a scale, and columns of unusual magnitude stay in bf16. The folder loads wherever lowrank
/// takes a model; adapters are trained on it as on any other.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Base model: a folder in Hugging Face layout, or a Hub id
    #[arg(long, value_name = "M")]
    model: String,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Compare the weights, and logits of random inputs, with the model in bf16
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    if global.load_in == Some(LoadInWord::Auto) {
        return Err(Failure::usage("--load-in auto: weights are written in 8 bits, int8; leave it out"));
    }
    let _downloads = Downloads::show(None);
    let Arguments { model, out, check } = &arguments;
    let report = train::quantize(&QuantizeOptions { model, out, check: *check })?;
    Output::new(global.json).result(&report, &report)
}
