//! `lowrank adapter extract`.

use std::path::PathBuf;

use clap::Args;
use lowrank::adapter::Targets;
use lowrank::train::{self, ExtractOptions};

use super::RankArguments;
use crate::arguments::Global;
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  lowrank adapter extract --model roberta-base --tuned runs/sst2-full --rank 16 \\
      --out sst2-r16
  lowrank adapter extract --model gpt2 --tuned my-gpt2 --energy 0.9 --out my-lora";

/// Write the adapter that makes one model of another, as nearly as it can
///
/// What changed in each linear layer is approximated. A head, norms, embeddings and biases that changed are written whole;
/// what else changed is named.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = "lowrank adapter extract --model M --tuned N --rank R --out DIR")]
pub struct Arguments {
    /// Base model: a folder in Hugging Face layout, or a Hub id
    #[arg(long, value_name = "M")]
    model: String,
    /// What full training made of it
    #[arg(long, value_name = "M")]
    tuned: String,
    #[command(flatten)]
    rank: RankArguments,
    /// Names with commas between, a regular expression, or all-linear
    /// [default: all-linear, or none beside --target-parameters]
    #[arg(long, value_name = "NAMES")]
    target_modules: Option<String>,
    /// Parameters of a mixture, as mlp.experts.gate_up_proj,mlp.experts.down_proj
    /// [default: all of its experts, or none beside --target-modules]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    target_parameters: Vec<String>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let _downloads = Downloads::show(None);
    let report = train::extract(&ExtractOptions {
        base: &arguments.model,
        tuned: &arguments.tuned,
        choice: arguments.rank.choice(),
        target_modules: arguments.target_modules.as_deref().map(Targets::from_words),
        target_parameters: &arguments.target_parameters,
        out: &arguments.out,
    })?;
    Output::new(global.json).result(&report, &report)
}
