//! `lowrank adapter`: tools on adapter folders.

mod combine;
mod convert;
mod diff;
mod extract;
mod inspect;
mod resize;
mod validate;

use clap::{Args, Subcommand};
use lowrank::adapter::tools::RankChoice;

use crate::arguments::Global;
use crate::failure::Result;

/// Look at adapters, compare, combine, resize, extract and convert them
#[derive(Debug, Subcommand)]
pub enum Command {
    Inspect(inspect::Arguments),
    Validate(validate::Arguments),
    Diff(diff::Arguments),
    Combine(combine::Arguments),
    Resize(resize::Arguments),
    Extract(extract::Arguments),
    Convert(convert::Arguments),
}

/// Runs the command.
pub fn run(command: Command, global: Global) -> Result {
    match command {
        Command::Inspect(arguments) => inspect::run(arguments, global),
        Command::Validate(arguments) => validate::run(arguments, global),
        Command::Diff(arguments) => diff::run(arguments, global),
        Command::Combine(arguments) => combine::run(arguments, global),
        Command::Resize(arguments) => resize::run(arguments, global),
        Command::Extract(arguments) => extract::run(arguments, global),
        Command::Convert(arguments) => convert::run(&arguments, global),
    }
}

/// The rank of each layer.
#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = false)]
struct RankArguments {
    /// Rank of every layer
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Smallest rank of each layer that keeps this part of the energy, the sum of
    /// the squared singular values
    #[arg(long, value_name = "X")]
    energy: Option<f64>,
}

impl RankArguments {
    fn choice(self) -> RankChoice {
        match (self.rank, self.energy) {
            (Some(rank), _) => RankChoice::Rank(rank),
            (None, energy) => RankChoice::Energy(energy.unwrap_or(1.0)),
        }
    }
}
