//! `lowrank eval`.

use clap::Args;
use lowrank::text::decimals;
use lowrank::train::Ask;

use crate::arguments::{Global, ModelArguments, TaskArguments, ask_options};
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Example:
  lowrank eval --model roberta-base --adapter runs/sst2 --task sst2 \\
      --data SST-2/dev.tsv";

/// Measure a model on labelled examples
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    task: TaskArguments,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let output = Output::new(global.json);
    let options = ask_options(&arguments.model, &arguments.task, global)?;
    let _downloads = Downloads::show(None);
    let (scores, examples) = Ask::load(&options)?.evaluate(&options, &mut Progress::new(output))?;
    let lines: Vec<String> =
        scores.iter().map(|(name, value)| format!("{name} {}", decimals(*value, 4))).collect();
    output.say(format_args!("{examples} examples"))?;
    output.result(lines.join("\n"), &scores)
}
