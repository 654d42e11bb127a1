//! `lowrank adapter validate`.

use clap::Args;
use lowrank::Compute;
use lowrank::adapter::tools;
use lowrank::models::LoadIn;
use lowrank::train::{AdaptedModel, LoadOptions};

use crate::arguments::Global;
use crate::downloads::Downloads;
use crate::failure::{Failure, Result};
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  lowrank adapter validate runs/sst2
  lowrank adapter validate runs/sst2 --model roberta-base";

/// Check that an adapter is what its configuration says
///
/// Every pair is complete and of the rank that it should have, every value is finite, and whatever the configuration names
/// is there and nothing else. All that is wrong is listed, and the exit code is then 1.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// PEFT adapter: a folder, or a Hub id
    #[arg(value_name = "A")]
    adapter: String,
    /// Check that it can be put on this model, too: a folder in Hugging Face
    /// layout, or a Hub id
    #[arg(long, value_name = "M")]
    model: Option<String>,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let _downloads = Downloads::show(None);
    let mut validation = tools::validate(&arguments.adapter);
    if let Some(model) = &arguments.model {
        let options =
            LoadOptions { compute: Some(Compute::F32), load_in: LoadIn::Mapped, ..LoadOptions::default() };
        let loaded = AdaptedModel::load(model, Some(&arguments.adapter), options);
        match loaded {
            Ok(_) => validation.settle(),
            Err(error) => validation.add(format!("on {model}: {error}")),
        }
    }
    Output::new(global.json).result(&validation, &validation)?;
    match validation.findings.len() {
        0 => Ok(()),
        1 => Err(Failure::failed(format!("{}: 1 finding", arguments.adapter))),
        count => Err(Failure::failed(format!("{}: {count} findings", arguments.adapter))),
    }
}
