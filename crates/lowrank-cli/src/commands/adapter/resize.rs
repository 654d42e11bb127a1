//! `lowrank adapter resize`.

use std::path::PathBuf;

use clap::Args;
use lowrank::adapter::tools;

use super::RankArguments;
use crate::arguments::Global;
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  lowrank adapter resize runs/sst2 --rank 4 --out sst2-r4
  lowrank adapter resize runs/sst2 --energy 0.99 --out sst2-small";

/// Write an adapter of another rank, and show what each layer loses
///
/// A smaller rank keeps the best approximation of what the adapter adds to each weight. A larger one changes nothing yet,
/// but leaves room to train on.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "lowrank adapter resize A (--rank R | --energy X) --out DIR")]
pub struct Arguments {
    /// PEFT adapter: a folder, or a Hub id
    #[arg(value_name = "A")]
    adapter: String,
    #[command(flatten)]
    rank: RankArguments,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let _downloads = Downloads::show(None);
    let report = tools::resize(&arguments.adapter, arguments.rank.choice(), &arguments.out)?;
    Output::new(global.json).result(&report, &report)
}
