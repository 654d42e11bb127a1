//! `lowrank data`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use lowrank::train::{self, RunFileBuilder};

use crate::arguments::Global;
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Examples:
  lowrank data preview run.toml
  lowrank data preview run.toml --examples 20 --set data.max_length=64";

/// Look at data
#[derive(Debug, Subcommand)]
pub enum Command {
    Preview(Preview),
}

/// Show a run's examples as the model sees them, and their statistics
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Preview {
    /// Run file
    #[arg(value_name = "RUN.toml")]
    run: PathBuf,
    /// Override any key of the run file, as in data.max_length=64
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Examples to show
    #[arg(long, value_name = "N", default_value_t = 3)]
    examples: usize,
}

/// Runs the command.
pub fn run(command: Command, global: Global) -> Result {
    let Command::Preview(arguments) = command;
    let output = Output::new(global.json);
    let mut builder = RunFileBuilder::read(&arguments.run)?;
    for assignment in &arguments.set {
        builder.set(assignment)?;
    }
    let _downloads = Downloads::show(None);
    let preview = train::preview(&builder.build()?, arguments.examples, &mut Progress::new(output))?;
    if std::io::stdout().is_terminal() {
        return output.result(preview.coloured(), &preview);
    }
    output.result(&preview, &preview)
}
