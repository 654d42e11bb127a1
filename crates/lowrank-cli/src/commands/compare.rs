//! `lowrank compare`.

use std::path::{Path, PathBuf, absolute};
use std::process::{Command, Stdio};

use clap::Args;
use lowrank::Error;
use lowrank::train::{Compared, Comparison, RunFileBuilder, Summary};

use crate::arguments::Global;
use crate::failure::{Failure, INTERRUPTED, Result};
use crate::interrupt::stop_flag;
use crate::output::Output;

const EXAMPLES: &str = "\
Example:
  lowrank compare run.toml --set train.max_steps=100";

/// Train an adapter and the whole model on the same data, and show both side by side
///
/// Each is a run in a folder of its own below the output folder, in a process of its own, so that its memory is
/// measured alone.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Run file
    #[arg(value_name = "RUN.toml")]
    run: PathBuf,
    /// Override any key of the run file, as in train.max_steps=100
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the last checkpoints in the output folder
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace the runs that the output folder holds
    #[arg(long)]
    overwrite: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    // The run is read here, too, so that a mistake in it is told before anything is trained.
    let mut builder = RunFileBuilder::read(&arguments.run)?;
    for assignment in &arguments.set {
        builder.set(assignment)?;
    }
    let run = builder.build()?;
    let output = Output::new(global.json);
    // A Ctrl-C reaches the runs as well, which leave a checkpoint; this program waits for them.
    let _stop = stop_flag()?;
    let mut runs = Vec::new();
    for method in ["lora", "full"] {
        let folder = absolute(run.output.join(method)).map_err(Error::io(&run.output))?;
        output.say(format_args!("{method}: {}", folder.display()))?;
        runs.push(Compared::of(&train(&arguments, global, method, &folder)?, &folder)?);
    }
    let comparison = Comparison { runs };
    output.result(&comparison, &comparison)
}

/// One run, by this program itself.
fn train(arguments: &Arguments, global: Global, method: &str, folder: &Path) -> Result<Summary> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("this program cannot be found again: {error}")))?;
    let mut command = Command::new(program);
    command.arg("train").arg(&arguments.run).arg("--json").arg("--method").arg(method);
    command.arg("--output").arg(folder);
    arguments.set.iter().for_each(|assignment| {
        command.arg("--set").arg(assignment);
    });
    if method == "full" {
        command.args(["--set", "init_adapter="]);
    }
    for (flag, given) in [("--resume", arguments.resume), ("--overwrite", arguments.overwrite)] {
        if given {
            command.arg(flag);
        }
    }
    if let Some(threads) = global.threads {
        command.arg("--threads").arg(threads.to_string());
    }
    if let Some(dtype) = global.dtype {
        command.args(["--dtype", dtype.word()]);
    }
    let result = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::failed(format!("the {method} run cannot be started: {error}")))?;
    if result.status.code() == Some(i32::from(INTERRUPTED)) {
        return Err(Failure::interrupted(format!("the {method} run was stopped; --resume goes on")));
    }
    if !result.status.success() {
        return Err(Failure::failed(format!("the {method} run failed; it says why above")));
    }
    let text = String::from_utf8_lossy(&result.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default())
        .map_err(|error| Failure::failed(format!("the {method} run's summary cannot be read: {error}")))
}
