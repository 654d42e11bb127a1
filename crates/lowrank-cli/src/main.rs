//! The command line of lowrank: arguments, progress, printing. What is done is in the library.
#![forbid(unsafe_code)]

mod arguments;
mod commands;
mod counted;
mod downloads;
mod failure;
mod interrupt;
mod output;
mod place;
mod progress;

use std::process::ExitCode;

use arguments::Cli;
use clap::Parser;

fn main() -> ExitCode {
    // Bad usage ends here, with exit code 2; so does a call for help, with 0.
    let cli = Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
