//! `lowrank forward`.

use std::path::PathBuf;

use clap::Args;
use lowrank::Compute;
use lowrank::adapter::AdapterFile;
use lowrank::hub::{self, RepositoryKind, write_tensors};
use lowrank::train::{self, AdaptedModel, LoadOptions, Observer};
use serde_json::json;

use crate::arguments::{Global, ModelArguments};
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;
use crate::place;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Example:
  lowrank forward --model roberta-base --adapter runs/sst2 --gradients \\
      --inputs in.safetensors --outputs out.safetensors";

/// Run a model on tensors: the bridge to Python, without a tokeniser
///
/// Reads input_ids, attention_mask, token_type_ids and labels, named and shaped as in Transformers (int64 or float32),
/// and writes logits, and loss where there are labels, as f32. The model is in evaluation mode and computes in f32
/// unless --dtype says otherwise.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Safetensors file to read
    #[arg(long, value_name = "IN")]
    inputs: PathBuf,
    /// Safetensors file to write
    #[arg(long, value_name = "OUT")]
    outputs: PathBuf,
    /// Also write grad.KEY for every tensor KEY of the adapter file
    #[arg(long, requires = "adapter")]
    gradients: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let ModelArguments { model, adapter } = &arguments.model;
    place::check("--outputs", &arguments.outputs, &arguments.inputs)?;
    let compute = if global.dtype.is_none() { Some(Compute::F32) } else { global.compute() };
    let _downloads = Downloads::show(None);
    let output = Output::new(global.json);
    let options = LoadOptions { compute, load_in: global.load_in(), ..LoadOptions::default() };
    let mut adapted = AdaptedModel::load(model, adapter.as_deref(), options)?;
    adapted.notes().iter().for_each(|note| Progress::new(output).note(note));
    let file = match adapter {
        Some(name) if arguments.gradients => {
            Some(AdapterFile::open(&hub::resolve(name, RepositoryKind::Adapter)?.path)?)
        }
        _ => None,
    };
    let adapter = adapted.first_adapter();
    let tensors = train::forward(&mut adapted, &arguments.inputs, adapter, file.as_ref())?;
    write_tensors(&arguments.outputs, &tensors)?;
    let (count, place) = (tensors.len(), arguments.outputs.display().to_string());
    output.result(format_args!("{count} tensors in {place}"), &json!({ "tensors": count, "outputs": place }))
}
