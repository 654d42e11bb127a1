//! `lowrank compare`.

use std::path::{Path, PathBuf, absolute};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use clap::Args;
use lowrank::Error;
use lowrank::models::Operands;
use lowrank::train::{Compared, Comparison, RunFile, RunFileBuilder, Summary};
use serde_json::Value;

use crate::arguments::Global;
use crate::failure::{Failure, INTERRUPTED, Result, USAGE};
use crate::interrupt::stop_flag;
use crate::output::Output;

/// What is compared.
const METHODS: [&str; 2] = ["lora", "full"];

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
    // Both runs are read here, too, so that a mistake in either is told before anything is trained.
    let output_folder = read(&arguments, global, &[])?.output;
    let runs = METHODS
        .map(|method| {
            let folder = absolute(output_folder.join(method)).map_err(Error::io(&output_folder))?;
            let mut forced = forced(method, &folder);
            // Whole numbers are for weights that stay as they are.
            if method == "full" && read(&arguments, global, &[])?.train.operands == Operands::Int8 {
                forced.push("train.compute=auto".to_owned());
            }
            read(&arguments, global, &forced)?;
            Ok((method, folder, forced))
        })
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let output = Output::new(global.json);
    // A Ctrl-C reaches the runs as well, which leave a checkpoint; this program waits for them.
    let stop = stop_flag()?;
    let mut compared = Vec::new();
    for (method, folder, forced) in runs {
        output.say(format_args!("{method}: {}", folder.display()))?;
        compared.push(Compared::of(&train(&arguments, global, method, &forced)?, &folder)?);
        // A run that was nearly through comes to its end all the same.
        if stop.load(Ordering::Relaxed) && compared.len() < METHODS.len() {
            let message = format!("interrupted after the {method} run; --resume goes on");
            return Err(Failure::interrupted(message));
        }
    }
    let comparison = Comparison { runs: compared };
    output.result(&comparison, &comparison)
}

/// What a run of this comparison is, whatever else is set.
fn forced(method: &str, folder: &Path) -> Vec<String> {
    // Quoted, or a folder whose name is a number would be one.
    let folder = Value::from(folder.to_string_lossy()).to_string();
    let mut settings = vec![format!("method={method}"), format!("output={folder}")];
    if method == "full" {
        settings.push("init_adapter=".to_owned());
    }
    settings
}

/// The run file with everything that overrides it, as `lowrank train` reads it.
fn read(arguments: &Arguments, global: Global, forced: &[String]) -> Result<RunFile> {
    let mut builder = RunFileBuilder::read(&arguments.run)?;
    if let Some(dtype) = global.dtype {
        builder.set_text("train.dtype", dtype.word())?;
    }
    if global.load_in.is_some() {
        builder.set_text("load_in", global.load_in().name())?;
    }
    for assignment in arguments.set.iter().chain(forced) {
        builder.set(assignment)?;
    }
    Ok(builder.build()?)
}

/// One run, by this program itself.
fn train(arguments: &Arguments, global: Global, method: &str, forced: &[String]) -> Result<Summary> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("this program cannot be found again: {error}")))?;
    let mut command = Command::new(program);
    command.arg("train").arg(&arguments.run).arg("--json");
    arguments.set.iter().chain(forced).for_each(|assignment| {
        command.arg("--set").arg(assignment);
    });
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
    if global.load_in.is_some() {
        command.args(["--load-in", global.load_in().name()]);
    }
    let result = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::failed(format!("the {method} run cannot be started: {error}")))?;
    match result.status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(0) => {}
        Some(INTERRUPTED) => {
            return Err(Failure::interrupted(format!("the {method} run was stopped; --resume goes on")));
        }
        Some(USAGE) => return Err(Failure::usage(format!("the {method} run is refused; it says why above"))),
        _ => return Err(Failure::failed(format!("the {method} run failed; it says why above"))),
    }
    let text = String::from_utf8_lossy(&result.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default())
        .map_err(|error| Failure::failed(format!("the {method} run's summary cannot be read: {error}")))
}
