//! `lowrank predict`.

use std::path::PathBuf;

use clap::Args;
use lowrank::Error;
use lowrank::hub::write_atomically;
use lowrank::train::Ask;
use serde_json::json;

use crate::arguments::{Global, ModelArguments, TaskArguments, ask_options};
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::{Output, write_line};
use crate::place;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Example:
  lowrank predict --model roberta-base --adapter runs/sst2 --task sst2 \\
      --data SST-2/test.tsv --out answers.jsonl";

/// The place that means standard output.
const STDOUT: &str = "-";

/// Answer for every example of a file; labels are not needed
///
/// Writes a line of JSON for each: the line in the file or the image, the label and its probability (or the score), and
/// the logits; for a question its id, the answer, its probability and the best answers; for a text of words their tags;
/// or the text that the model writes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "lowrank predict --model M --task T --data FILE --out FILE [OPTIONS]")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    task: TaskArguments,
    /// File for the answers, in JSON lines; -: standard output, without a result of its own
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let output = Output::new(global.json);
    place::check("--out", &arguments.out, &arguments.task.data)?;
    let options = ask_options(&arguments.model, &arguments.task, global)?;
    let _downloads = Downloads::show(None);
    let predictions = Ask::load(&options)?.predict(&options, &mut Progress::new(output))?;
    let lines: serde_json::Result<Vec<String>> = predictions.iter().map(serde_json::to_string).collect();
    let lines = lines.map_err(|error| Error::file(&arguments.out, error.to_string()))?;
    let (count, place) = (lines.len(), arguments.out.display().to_string());
    if place == STDOUT {
        return lines.iter().try_for_each(write_line);
    }
    write_atomically(&arguments.out, |file| lines.iter().try_for_each(|line| writeln!(file, "{line}")))?;
    output.result(format_args!("{count} answers in {place}"), &json!({ "examples": count, "out": place }))
}
