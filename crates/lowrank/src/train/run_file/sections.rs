//! From values to the sections of a run.

use std::path::{Path, PathBuf};

use lowrank_kernels::Compute;
use toml::Value;

use super::values::{Values, describe, number, wrong};
use super::{DataSection, EvalEvery, KeepBest, Method, RunFile, Source, TrainSection, Warmup, lora};
use crate::data::Columns;
use crate::data::tasks::{self, is_hub_id};
use crate::models::{HeadStyle, LoadIn, Operands};
use crate::nearest::nearest;
use crate::train::schedule::ScheduleKind;
use crate::{Error, Result};

pub(super) fn read(values: &Values, source: Source) -> Result<RunFile> {
    let init_adapter = values.text("init_adapter")?;
    Ok(RunFile {
        model: values.required("model")?.to_owned(),
        task: values.required("task")?.to_owned(),
        output: source.folder.join(values.required("output")?),
        init_adapter: (!init_adapter.is_empty()).then(|| init_adapter.to_owned()),
        method: values.choice("method", &Method::NAMES)?,
        load_in: values.choice("load_in", &LoadIn::NAMES)?,
        head: head(values)?,
        data: data(values, &source.folder)?,
        lora: lora::read(values)?,
        lora_given: values.given("lora"),
        train: train(values)?,
        source,
    })
}

fn data(values: &Values, folder: &Path) -> Result<DataSection> {
    let (length, stride) = tasks::usual_length(values.text("task")?);
    Ok(DataSection {
        train: path(values.required("data.train")?, folder),
        validation: match values.text("data.validation")? {
            "" => None,
            text => Some(path(text, folder)),
        },
        columns: columns(values)?,
        max_length: if values.gives("data.max_length") { values.count("data.max_length")? } else { length },
        stride: if values.gives("data.stride") { values.count("data.stride")? } else { stride },
        source_prefix: values.text("data.source_prefix")?.to_owned(),
        packing: values.flag("data.packing")?,
        limit: values.count("data.limit")?,
        strict: values.flag("data.strict")?,
        random_crop: values.count("data.random_crop")?,
        random_flip: values.flag("data.random_flip")?,
    })
}

fn head(values: &Values) -> Result<HeadStyle> {
    let norm = values.choice("head", &[("default", false), ("norm-dropout-linear", true)])?;
    if norm {
        let dropout = if values.gives("head_dropout") { values.number("head_dropout")? as f32 } else { 0.1 };
        return Ok(HeadStyle::NormDropoutLinear { dropout });
    }
    if values.gives("head_dropout") {
        return Err(Error::setting(
            "head_dropout",
            "it belongs to head = \"norm-dropout-linear\"; leave it out",
        ));
    }
    Ok(HeadStyle::Default)
}

/// A file or folder beside the run file; the id of a data set of the Hub as it is.
fn path(text: &str, folder: &Path) -> PathBuf {
    let path = folder.join(text);
    if !path.exists() && is_hub_id(Path::new(text)) { PathBuf::from(text) } else { path }
}

fn columns(values: &Values) -> Result<Columns> {
    let key = "data.columns";
    let mut columns = Columns::default();
    let table = match values.get(key) {
        None => return Ok(columns),
        Some(Value::Table(table)) => table,
        Some(other) => {
            return Err(wrong(key, other, "a table such as {text = \"review\", label = \"stars\"}"));
        }
    };
    for (name, value) in table {
        let full = format!("{key}.{name}");
        if !Columns::ROLES.contains(&name.as_str()) {
            let near = nearest(name, Columns::ROLES.iter().copied());
            let near = near.iter().map(|column| format!("{key}.{column}")).collect();
            return Err(Error::UnknownName { what: "key", name: full, nearest: near });
        }
        match value {
            Value::String(text) => columns.set(name, text)?,
            other => return Err(wrong(&full, other, "the name of a column")),
        }
    }
    Ok(columns)
}

fn train(values: &Values) -> Result<TrainSection> {
    let (compute, operands) = products(values)?;
    Ok(TrainSection {
        epochs: values.count("train.epochs")?,
        max_steps: values.count("train.max_steps")?,
        batch_size: values.count("train.batch_size")?,
        gradient_accumulation: values.count("train.gradient_accumulation")?,
        learning_rate: values.number("train.learning_rate")?,
        weight_decay: values.number("train.weight_decay")?,
        lr_schedule: values.choice("train.lr_schedule", &ScheduleKind::NAMES)?,
        warmup: warmup(values)?,
        max_grad_norm: values.number("train.max_grad_norm")?,
        gradient_checkpointing: values.flag("train.gradient_checkpointing")?,
        compute,
        operands,
        loraplus_lr_ratio: values.number("train.loraplus_lr_ratio")?,
        loraplus_lr_embedding: values.number("train.loraplus_lr_embedding")?,
        learning_rate_pattern: values.by_pattern(
            "train.learning_rate_pattern",
            ("a number", "1e-4"),
            number,
        )?,
        shuffle: values.flag("train.shuffle")?,
        seed: values.count("train.seed")? as u64,
        dtype: values.choice("train.dtype", &DTYPES)?,
        eval_every: eval_every(values)?,
        save_every: values.count("train.save_every")?,
        save_total_limit: values.count("train.save_total_limit")?,
        log_every: values.count("train.log_every")?,
        keep_best: match values.text("train.keep_best")? {
            "auto" => KeepBest::Auto,
            "last" => KeepBest::Last,
            name => KeepBest::Metric(name.to_owned()),
        },
        patience: values.count("train.patience")?,
    })
}

/// Steps where they are given, else the ratio; both at once contradict each other.
fn warmup(values: &Values) -> Result<Warmup> {
    let (ratio, steps) = ("train.warmup_ratio", "train.warmup_steps");
    let (share, count) = (values.number(ratio)?, values.count(steps)?);
    match (values.gives(ratio) && share != 0.0, values.gives(steps)) {
        (true, true) if count > 0 => {
            let reason = format!("it is {count}, and {ratio} is {share}; give one of the two");
            Err(Error::setting(steps, reason))
        }
        (false, true) => Ok(Warmup::Steps(count)),
        _ => Ok(Warmup::Ratio(share)),
    }
}

/// The types that rows can have.
const DTYPES: [(&str, Option<Compute>); 3] =
    [("auto", None), ("f32", Some(Compute::F32)), ("bf16", Some(Compute::Bf16))];

/// The type that is computed in, and what products with frozen weights are made of.
fn products(values: &Values) -> Result<(Option<Compute>, Operands)> {
    let [auto, f32, bf16] = DTYPES.map(|(name, dtype)| (name, (dtype, Operands::Rows)));
    values.choice("train.compute", &[auto, f32, bf16, ("int8", (None, Operands::Int8))])
}

fn eval_every(values: &Values) -> Result<EvalEvery> {
    let key = "train.eval_every";
    match values.get(key) {
        Some(Value::Integer(0)) => Err(Error::setting(key, "it is 0; it must be \"epoch\", or steps from 1")),
        Some(Value::Integer(_)) => Ok(EvalEvery::Steps(values.count(key)?)),
        Some(Value::String(word)) if word == "epoch" => Ok(EvalEvery::Epoch),
        None => Ok(EvalEvery::Epoch),
        Some(other) => {
            let found = describe(other);
            Err(Error::setting(key, format!("it is {found}; it must be \"epoch\", or a number of steps")))
        }
    }
}
