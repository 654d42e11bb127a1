//! `lowrank adapter diff`.

use clap::Args;
use lowrank::adapter::tools;

use crate::arguments::Global;
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;

const EXAMPLES: &str = "\
Example:
  lowrank adapter diff runs/sst2 runs/sst2-again";

/// Show how two adapters differ: settings, what they add to each layer, heads
///
/// Products are compared, not factors: two pairs with other factors may add the same to a weight.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// PEFT adapter: a folder, or a Hub id
    #[arg(value_name = "A")]
    first: String,
    /// Another one
    #[arg(value_name = "B")]
    second: String,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let _downloads = Downloads::show(None);
    let diff = tools::diff(&arguments.first, &arguments.second)?;
    Output::new(global.json).result(&diff, &diff)
}
