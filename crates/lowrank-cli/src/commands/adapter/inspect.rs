//! `lowrank adapter inspect`.

use clap::Args;
use lowrank::adapter::tools;

use crate::arguments::Global;
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;

const EXAMPLES: &str = "\
Example:
  lowrank adapter inspect runs/sst2";

/// Show an adapter's configuration, layers, norms, ranks and bytes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// PEFT adapter: a folder, or a Hub id
    #[arg(value_name = "A")]
    adapter: String,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let _downloads = Downloads::show(None);
    let inspection = tools::inspect(&arguments.adapter)?;
    Output::new(global.json).result(&inspection, &inspection)
}
