//! `lowrank params`.

use std::path::PathBuf;

use clap::Args;
use lowrank::adapter::{self, AdapterFile, LoraConfig, ParameterCount, Targets, Tree};
use lowrank::hub::{self, RepositoryKind};
use lowrank::models::{self, HeadSpec, ModelConfig};
use serde_json::json;

use crate::arguments::{Global, LoraArguments};
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  lowrank params --model roberta-base --target-modules query,value --rank 8
  lowrank params --config config.json --target-modules all-linear --tree
  lowrank params --model roberta-base --adapter runs/sst2";

/// Count what an adapter trains, and show where it goes
///
/// Shapes are enough: no weights are read.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// PEFT adapter to count: a folder, or a Hub id
    #[arg(long, value_name = "A", conflicts_with_all = ["target_modules", "target_parameters", "rank"])]
    adapter: Option<String>,
    #[command(flatten)]
    lora: LoraArguments,
    /// Width of the head [default: the adapter's, or the configuration's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    num_labels: Option<u32>,
    /// Print the module tree before and after injection
    #[arg(long)]
    tree: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Base model: a folder in Hugging Face layout, or a Hub id
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// Configuration file of a model; its weights are not needed
    #[arg(long, value_name = "CONFIG.json")]
    config: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: Arguments, global: Global) -> Result {
    let output = Output::new(global.json);
    let _downloads = Downloads::show(None);
    let config = match (&arguments.source.config, &arguments.source.model) {
        (Some(path), _) => ModelConfig::read(path)?,
        (None, model) => {
            let name = model.as_deref().unwrap_or_default();
            models::read_config(&hub::resolve(name, RepositoryKind::Configuration)?.path)?
        }
    };
    let file = match &arguments.adapter {
        Some(name) => Some(AdapterFile::open(&hub::resolve(name, RepositoryKind::Adapter)?.path)?),
        None => None,
    };
    let own_labels = file.as_ref().and_then(AdapterFile::num_labels).unwrap_or(config.labels.len());
    let num_labels = arguments.num_labels.map_or(own_labels, |labels| labels as usize);
    let of_adapter = file.as_ref().and_then(AdapterFile::head);
    let kind = of_adapter.or(config.head).unwrap_or(config.usual_head());
    let style = file.as_ref().and_then(AdapterFile::head_style).unwrap_or_default();
    let model = models::from_config(&config, HeadSpec { style, ..HeadSpec::new(kind, num_labels) })?;
    let plan = match &file {
        Some(file) => file.plan(&*model, model.info())?,
        None => adapter::plan(&*model, model.info(), &lora_config(&arguments.lora))?,
    };
    if arguments.tree {
        output.say(format_args!("before:\n{}", Tree::of_base(&*model)))?;
        output.say(format_args!("after:\n{}", Tree::with_adapter(&*model, &plan)))?;
    }
    let count = ParameterCount::with_adapter(&*model, &plan);
    let ParameterCount { trainable, all } = count;
    output.result(count, &json!({ "trainable_parameters": trainable, "all_parameters": all }))
}

/// The adapter that the options describe; what they leave open is PEFT's default.
pub fn lora_config(arguments: &LoraArguments) -> LoraConfig {
    let default = LoraConfig::default();
    LoraConfig {
        r: arguments.rank.unwrap_or(default.r),
        target_modules: arguments.target_modules.as_deref().map(Targets::from_words),
        target_parameters: arguments.target_parameters.clone(),
        ..default
    }
}
