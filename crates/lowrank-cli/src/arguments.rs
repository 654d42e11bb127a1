//! Arguments that commands share.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lowrank::Compute;
use lowrank::data::Columns;
use lowrank::models::{HeadStyle, LoadIn};
use lowrank::train::AskOptions;

use crate::commands;
use crate::failure::{Failure, Result};

/// Fine-tune transformer models with LoRA, on the machine you have.
#[derive(Debug, Parser)]
#[command(name = "lowrank", version, term_width = 80, after_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

const EXAMPLES: &str = "\
Examples:
  lowrank demo
  lowrank train run.toml
  lowrank eval --model roberta-base --adapter runs/sst2 --task sst2 --data dev.tsv";

/// What every command takes.
#[derive(Clone, Copy, Debug, Args)]
pub struct Global {
    /// Worker threads [default: one per processor]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Type that is computed in; auto: bf16 where the machine multiplies it faster
    #[arg(long, global = true, value_enum, value_name = "TYPE")]
    pub dtype: Option<Dtype>,
    /// What frozen weights are loaded as; auto: the model's type if that fits in
    /// memory, else 8 bits, else in its file
    #[arg(long, global = true, value_enum, value_name = "TYPE")]
    pub load_in: Option<LoadInWord>,
    /// Print the result as one line of JSON, the last on standard output
    #[arg(long, global = true)]
    pub json: bool,
}

impl Global {
    /// What weights are loaded as.
    pub fn load_in(self) -> LoadIn {
        match self.load_in {
            None | Some(LoadInWord::Auto) => LoadIn::Auto,
            Some(LoadInWord::Int8) => LoadIn::Int8,
        }
    }

    /// The compute type that was asked for; none for the machine's own.
    pub fn compute(self) -> Option<Compute> {
        match self.dtype {
            None | Some(Dtype::Auto) => None,
            Some(Dtype::F32) => Some(Compute::F32),
            Some(Dtype::Bf16) => Some(Compute::Bf16),
        }
    }
}

/// What weights can be loaded as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadInWord {
    Auto,
    Int8,
}

/// A type that can be computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    Auto,
    F32,
    Bf16,
}

impl Dtype {
    /// The word of the command line and of run files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Train(Box<commands::train::Arguments>),
    Eval(commands::eval::Arguments),
    Predict(commands::predict::Arguments),
    Generate(Box<commands::generate::Arguments>),
    Forward(commands::forward::Arguments),
    Params(commands::params::Arguments),
    Merge(commands::merge::Arguments),
    Compare(commands::compare::Arguments),
    Quantize(commands::quantize::Arguments),
    Rank(Box<commands::rank::Arguments>),
    #[command(subcommand)]
    Adapter(Box<commands::adapter::Command>),
    #[command(subcommand)]
    Data(commands::data::Command),
    #[command(subcommand)]
    Bench(commands::bench::Command),
    Demo(commands::demo::Arguments),
}

/// A model, and an adapter on it.
#[derive(Clone, Debug, Args)]
pub struct ModelArguments {
    /// Base model: a folder in Hugging Face layout, or a Hub id
    #[arg(long, value_name = "M")]
    pub model: String,
    /// PEFT adapter: a folder, or a Hub id
    #[arg(long, value_name = "A")]
    pub adapter: Option<String>,
}

/// A task, and the file that its examples are in.
#[derive(Clone, Debug, Args)]
pub struct TaskArguments {
    /// As in a run file: sst2, text-classification, image-folder, text,
    /// prompt-completion, summarization, ...
    #[arg(long, value_name = "T")]
    pub task: String,
    /// The examples: the task's published files, jsonl, csv, tsv with a header,
    /// parquet, a text, a folder of images, or the id of a data set of the Hub
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Longest example in tokens; what is beyond is cut off, or becomes another
    /// window. Where the model writes: the longest answer
    /// [default: as the adapter's run; 128; squad: 384]
    #[arg(long, value_name = "N")]
    pub max_length: Option<usize>,
    /// Tokens that the windows of a context share
    /// [default: as the adapter's run; 128]
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// T5: what every source begins with, as in "summarize: "
    /// [default: as the adapter's run]
    #[arg(long, value_name = "TEXT")]
    pub source_prefix: Option<String>,
    /// text: whether documents are read in blocks of max-length tokens
    /// [default: as the adapter's run; true]
    #[arg(long, value_name = "true|false", hide_possible_values = true)]
    pub packing: Option<bool>,
    /// squad_v2: by how much "no answer" must be the better one to be said
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub null_threshold: f64,
    /// Read the first N rows or questions only; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub limit: usize,
    /// Names of the labels in the order of the head's outputs
    /// [default: those that the adapter's run noted, the model's or the task's]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Columns, as in text=review,label=stars [default: as the adapter's run]
    #[arg(long, value_name = "ROLE=NAME,…", value_delimiter = ',')]
    pub columns: Vec<String>,
}

/// A fresh adapter.
#[derive(Clone, Debug, Args)]
pub struct LoraArguments {
    /// Names with commas between, a regular expression, or all-linear
    /// [default: the architecture's usual ones]
    #[arg(long, value_name = "NAMES")]
    pub target_modules: Option<String>,
    /// Parameters of a mixture, as mlp.experts.gate_up_proj,mlp.experts.down_proj
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub target_parameters: Vec<String>,
    /// Rank of the adapter
    #[arg(long, value_name = "R")]
    pub rank: Option<usize>,
}

/// What to ask of whom.
pub fn ask_options<'a>(
    model: &'a ModelArguments,
    task: &'a TaskArguments,
    global: Global,
) -> Result<AskOptions<'a>> {
    Ok(AskOptions {
        model: &model.model,
        adapter: model.adapter.as_deref(),
        task: &task.task,
        data: &task.data,
        columns: columns(&task.columns)?,
        labels: task.labels.clone(),
        max_length: task.max_length,
        stride: task.stride,
        source_prefix: task.source_prefix.as_deref(),
        packing: task.packing,
        null_threshold: task.null_threshold,
        limit: task.limit,
        compute: global.compute(),
        style: HeadStyle::Default,
        load_in: global.load_in(),
    })
}

/// Reads `text=review`, `label=stars`.
fn columns(pairs: &[String]) -> Result<Columns> {
    let mut columns = Columns::default();
    for pair in pairs {
        let Some((role, name)) = pair.split_once('=') else {
            return Err(Failure::usage(format!("--columns: {pair:?} is not of the form text=review")));
        };
        columns.set(role.trim(), name)?;
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_and_fits_80_columns() {
        fn check(command: &mut clap::Command) {
            let help = command.render_long_help().to_string();
            assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
            if command.has_subcommands() {
                command.get_subcommands_mut().filter(|sub| sub.get_name() != "help").for_each(check);
            } else {
                assert!(help.contains("Example"), "{help}");
            }
        }
        let mut cli = Cli::command();
        cli.build();
        check(&mut cli);
    }

    #[test]
    fn columns_are_pairs_of_role_and_name() {
        let read = |pairs: &[&str]| columns(&pairs.iter().map(|pair| (*pair).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(&["text=review", "label=stars"]).unwrap().text.as_deref(), Some("review"));
        assert!(read(&["text"]).is_err() && read(&["txt=a"]).is_err());
    }
}
