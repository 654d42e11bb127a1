//! A model folder with adapters merged into it, compared with the model under the adapters before it is there.

mod write;

use std::fmt;
use std::path::{Path, PathBuf};

use lowrank_kernels::Compute;
use serde::Serialize;

use self::write::Merging;
use super::adapted_model::{AdaptedModel, LoadOptions, run_of};
use super::output;
use super::probe;
use super::quantize::copy_files;
use super::reading::Noted;
use super::subject::{NewHead, write_config};
use crate::adapter::{self, AdapterFile};
use crate::hub::{self, Checkpoint, NewFolder, RepositoryKind, SUMMARY_FILE, StoredDtype};
use crate::models::{HeadStyle, LoadIn};
use crate::tape::AdapterId;
use crate::{Error, Result};

/// What to merge.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions<'a> {
    /// The base model: a folder or Hub id.
    pub model: &'a str,
    /// The adapters: folders or Hub ids. What they add is added up.
    pub adapters: &'a [String],
    /// The folder to write; it is made, or is empty.
    pub out: &'a Path,
    /// Whether weights in 8 bits become bf16, all of them.
    pub dequantize: bool,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeReport {
    /// The folder.
    pub out: PathBuf,
    /// How many weights have an adapter's product in them.
    pub merged: usize,
    /// How many tensors are an adapter's own: heads, other modules to save, biases.
    pub replaced: usize,
    /// The bytes of all tensors.
    pub bytes: u64,
    /// The largest difference of an output of the merged model to that of the base model under the adapters, on random
    /// inputs.
    pub largest_difference: f32,
    /// What it may be: it follows from the type that the weights are stored in.
    pub tolerance: f32,
    /// The largest change of an output that the adapters make; 0: they change nothing.
    pub largest_change: f32,
}

/// Writes a model folder that answers as the base model does under adapters, one tensor after the other: no more of the
/// model is held in memory than a block of a tensor. Then both are run on random inputs, with their weights in their
/// files; in a mixture, rows go to the same experts in both. Shards, names and types of tensors are the base model's; a value that has no place there goes into the last file.
///
/// # Errors
/// If a file cannot be read or written, or the folder is not empty; if two adapters have a value of their own for one
/// parameter; if weights are in 8 bits and are not to become bf16, or Transformers would tie a changed weight to another
/// whatever the configuration says; if a sum is not finite, or the merged model answers otherwise. The folder is then not
/// there.
pub fn merge(options: &MergeOptions<'_>) -> Result<MergeReport> {
    let MergeOptions { model, adapters, out, .. } = *options;
    let (Some(first), further) = (adapters.first(), &adapters[1..]) else {
        return Err(Error::Usage("there is no adapter to merge".into()));
    };
    let load = LoadOptions { compute: Some(Compute::F32), load_in: LoadIn::Mapped, ..LoadOptions::default() };
    let mut adapted = AdaptedModel::load(model, Some(first), load)?;
    let id = adapted.first_adapter().unwrap_or(AdapterId(0));
    for name in further {
        let other = adapted.attach(name)?;
        adapter::join(adapted.model_mut(), other, id).map_err(|error| {
            Error::Usage(format!("it cannot be merged with the others: {error}")).unsuitable(name)
        })?;
    }
    let unfinished = NewFolder::beside(out)?;
    let checkpoint = Checkpoint::open(adapted.folder())?;
    refuse_eight_bits(&checkpoint, options.dequantize)?;
    adapters.iter().try_for_each(|adapter| refuse_loftq(&checkpoint, adapter))?;
    let merging =
        Merging::new(&adapted, id, &checkpoint).map_err(|error| error.unsuitable(adapters.join(", ")))?;
    let written = merging.write(unfinished.path())?;
    let head =
        NewHead { labels: noted_labels(first, &adapted), regression: adapted.model().info().num_labels == 1 };
    let head = written.has_new_head.then_some(&head);
    write_config(&adapted, head, unfinished.path(), |config| {
        config.remove("quantization_config");
        if written.unties_output {
            config.insert("tie_word_embeddings".into(), false.into());
        }
    })?;
    copy_files(adapted.folder(), unfinished.path())?;
    if let Some(note) = adapters.iter().find_map(|adapter| noted(adapter)?.of_merged()) {
        // The base model's, if it has one, is of another task, or of weights that are no longer these.
        output::write_json(&unfinished.path().join(SUMMARY_FILE), &note)?;
    }

    // What neither the base model nor an adapter has is drawn alike on both sides.
    probe::complete(&mut adapted)?;
    let style = AdapterFile::open(&hub::resolve(first, RepositoryKind::Adapter)?.path)?.head_style();
    let info = adapted.model().info();
    let after = LoadOptions {
        num_labels: info.head.first().map(|_| info.num_labels),
        head: Some(info.kind),
        style: style.unwrap_or(HeadStyle::Default),
        ..load
    };
    let mut after = AdaptedModel::load(&unfinished.path().to_string_lossy(), None, after)?;
    probe::complete(&mut after)?;
    let [expected, merged] = probe::outputs_of_both((&adapted, Some(id)), (&after, None))?;
    let largest_difference = probe::largest_difference(&expected, &merged);
    let tolerance = written.relative_tolerance() * probe::largest(&expected).max(1.0);
    // A difference that is not a number is none to be content with.
    if largest_difference.is_nan() || largest_difference > tolerance {
        return Err(Error::Usage(format!(
            "the merged model is not the model under its adapters: an output of random inputs is off by \
             {largest_difference:e}, where {tolerance:e} are allowed; nothing was written"
        )));
    }
    let largest_change = probe::largest_difference(&expected, &probe::outputs(&adapted, None)?);
    unfinished.finish()?;
    Ok(MergeReport {
        out: out.to_path_buf(),
        merged: written.merged,
        replaced: written.replaced,
        bytes: written.bytes,
        largest_difference,
        tolerance,
        largest_change,
    })
}

fn refuse_eight_bits(checkpoint: &Checkpoint, dequantize: bool) -> Result<()> {
    let eight =
        checkpoint.names().find(|key| checkpoint.get(key).is_some_and(|view| view.dtype == StoredDtype::I8));
    match eight.filter(|_| !dequantize) {
        None => Ok(()),
        Some(key) => {
            let reason = format!(
                "{} has {key} in 8 bits, which do not hold the sum with an adapter's product; --dequantize saves all \
                 weights in bf16, or merge into the model as it was before it was quantized",
                checkpoint.path().display()
            );
            Err(Error::setting("dequantize", reason))
        }
    }
}

/// What an adapter began with to make up for 8 bits would be added to weights that lost nothing.
fn refuse_loftq(checkpoint: &Checkpoint, adapter: &str) -> Result<()> {
    let init = run_of(adapter).and_then(|run| run.get("lora")?.get("init_lora_weights").cloned());
    let is_loftq = init.as_ref().and_then(toml::Value::as_str) == Some("loftq");
    let is_eight = |key: &str| checkpoint.get(key).is_some_and(|view| view.dtype == StoredDtype::I8);
    if !is_loftq || checkpoint.names().any(is_eight) {
        return Ok(());
    }
    let reason = "it began with what the weights lose in 8 bits (loftq), and these are not in 8 bits: merge it, with \
                  --dequantize, into the folder that lowrank quantize makes of the model";
    Err(Error::Usage(reason.into()).unsuitable(adapter))
}

/// What the adapter's run noted.
fn noted(adapter: &str) -> Option<Noted> {
    Noted::of(&hub::resolve(adapter, RepositoryKind::Adapter).ok()?.path)
}

/// The labels that the adapter's run noted, if they are those of its head.
fn noted_labels(adapter: &str, adapted: &AdaptedModel) -> Vec<String> {
    let noted = noted(adapter).and_then(|noted| noted.labels);
    let width = adapted.model().info().num_labels;
    let fits = |labels: &Vec<String>| labels.len() == width;
    let own = Some(adapted.config().labels.clone());
    let labels = noted.filter(fits).or(own.filter(fits));
    labels.unwrap_or_else(|| (0..width).map(|id| format!("LABEL_{id}")).collect())
}

impl fmt::Display for MergeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { merged, replaced, largest_difference, tolerance, largest_change, .. } = self;
        if *largest_change == 0.0 {
            writeln!(
                f,
                "the adapter changes no output of random inputs: it was never trained, or is all zero"
            )?;
        } else {
            writeln!(
                f,
                "outputs of random inputs: the adapter changes them by {largest_change:.2e} at most,"
            )?;
        }
        writeln!(
            f,
            "the merged model is off by {largest_difference:.2e}, where {tolerance:.2e} are allowed"
        )?;
        if tolerance > largest_change && *largest_change > 0.0 {
            let reason =
                "rounding to the stored type may take as much as the adapter gives: compare scores on data";
            writeln!(f, "{reason}")?;
        }
        let megabytes = self.bytes as f64 / 1e6;
        write!(f, "{merged} weights merged, {replaced} replaced, {megabytes:.1} MB in {}", self.out.display())
    }
}
