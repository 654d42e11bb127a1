//! One file per command.

pub mod adapter;
pub mod bench;
pub mod compare;
pub mod data;
pub mod demo;
pub mod eval;
pub mod forward;
pub mod generate;
pub mod merge;
pub mod params;
pub mod predict;
pub mod quantize;
pub mod rank;
pub mod train;

use std::io::{Write, stderr};

use lowrank::Tier;

use crate::arguments::{Cli, Command, Global};
use crate::failure::{Failure, Result};

/// Does what the command line says.
pub fn run(cli: Cli) -> Result {
    let Cli { command, global } = cli;
    prepare(global)?;
    match command {
        Command::Train(arguments) => train::run(*arguments, global),
        Command::Eval(arguments) => eval::run(arguments, global),
        Command::Predict(arguments) => predict::run(arguments, global),
        Command::Generate(arguments) => generate::run(*arguments, global),
        Command::Forward(arguments) => forward::run(arguments, global),
        Command::Merge(arguments) => merge::run(arguments, global),
        Command::Params(arguments) => params::run(arguments, global),
        Command::Compare(arguments) => compare::run(arguments, global),
        Command::Quantize(arguments) => quantize::run(arguments, global),
        Command::Rank(arguments) => rank::run(*arguments, global),
        Command::Adapter(command) => adapter::run(*command, global),
        Command::Data(command) => data::run(command, global),
        Command::Bench(command) => bench::run(command, global),
        Command::Demo(arguments) => demo::run(arguments, global),
    }
}

/// Looks at `LOWRANK_CPU` before anything is computed, and starts the threads.
fn prepare(global: Global) -> Result {
    Tier::from_env().map_err(|error| Failure::usage(error.to_string()))?;
    let mut threads = global.threads.map_or(0, usize::from);
    // More than there are processors for wait for one another in every product.
    let most = std::thread::available_parallelism().map_or(threads, usize::from);
    if threads > most {
        // There is nobody left to tell when standard error is closed.
        let _ = writeln!(
            stderr(),
            "{threads} threads are more than this machine runs at once; {most} are started"
        );
        threads = most;
    }
    lowrank::init_threads(threads).map_err(|error| Failure::failed(error.to_string()))
}
