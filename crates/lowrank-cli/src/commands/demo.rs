//! `lowrank demo`.

use std::path::PathBuf;

use clap::Args;
use lowrank::demo;

use crate::arguments::Global;
use crate::failure::Result;
use crate::interrupt::stop_flag;
use crate::output::Output;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Example:
  lowrank demo";

/// Train two adapters for one small base model, and switch between them
///
/// Needs no network and no files: it makes a language, a base model by full training on one task, and LoRA adapters
/// for two other tasks, all with the code of `lowrank train`. Takes less than a minute on two cores.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Keep the data, models and runs in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let output = Output::new(global.json);
    let options = demo::Options { folder: arguments.keep, compute: global.compute() };
    let report = demo::run(&options, &mut Progress::new(output), &*stop_flag()?)?;
    output.result(&report, &report)
}
