//! `lowrank adapter convert`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lowrank::adapter::convert::{AdapterForm, ConvertOptions, convert};

use crate::arguments::Global;
use crate::downloads::Downloads;
use crate::failure::Result;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  lowrank adapter convert old-adapter --out adapter
  lowrank adapter convert mlx-adapters --model Qwen/Qwen3-0.6B --out adapter
  lowrank adapter convert runs/chat --to gguf --model Qwen/Qwen3-0.6B --out chat
  lowrank adapter convert lora.bin --lora-alpha 16 --model roberta-base \\
      --out adapter";

/// Read an adapter of another form and write it as PEFT's or llama.cpp's
///
/// Read are PEFT's folders, with adapter_model.safetensors or adapter_model.bin, mlx-lm's folders, and files of kohya's
/// scripts and of Microsoft's loralib. No file runs code. Every tensor is accounted for, or is an error with its name.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Adapter folder of PEFT or mlx-lm, Hub id, or file of kohya's or loralib
    #[arg(value_name = "IN")]
    input: String,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Form to write
    #[arg(long, value_enum, value_name = "FORM", default_value = "peft")]
    to: FormWord,
    /// Base model, of which the configuration is read alone: a folder, or a Hub id.
    /// What is read must fit it; kohya's files and gguf need it
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// loralib: the lora_alpha that the layers were made with
    #[arg(long, value_name = "X")]
    lora_alpha: Option<f64>,
    /// loralib: enable_lora of merged layers, as in true,false,true
    #[arg(long, value_name = "BOOL,…", value_delimiter = ',', hide_possible_values = true)]
    enable_lora: Vec<bool>,
}

/// What can be written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormWord {
    Peft,
    Gguf,
}

/// Runs the command.
pub fn run(arguments: &Arguments, global: Global) -> Result {
    let _downloads = Downloads::show(None);
    let report = convert(&ConvertOptions {
        input: &arguments.input,
        out: &arguments.out,
        to: match arguments.to {
            FormWord::Peft => AdapterForm::Peft,
            FormWord::Gguf => AdapterForm::Gguf,
        },
        model: arguments.model.as_deref(),
        lora_alpha: arguments.lora_alpha,
        enable_lora: &arguments.enable_lora,
    })?;
    Output::new(global.json).result(&report, &report)
}
