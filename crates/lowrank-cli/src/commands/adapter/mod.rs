//! `lowrank adapter`.

mod convert;

use clap::Subcommand;

use crate::arguments::Global;
use crate::failure::Result;

/// Work on adapters
#[derive(Debug, Subcommand)]
pub enum Command {
    Convert(convert::Arguments),
}

/// Runs the command.
pub fn run(command: Command, global: Global) -> Result {
    match command {
        Command::Convert(arguments) => convert::run(&arguments, global),
    }
}
