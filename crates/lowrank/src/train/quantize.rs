//! A model folder in 8 bits.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use lowrank_kernels::Compute;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::adapted_model::{AdaptedModel, Use};
use super::probe;
use crate::hub::{
    self, Checkpoint, MODEL_CONFIG, MODEL_FILE, NewFolder, RepositoryKind, StoredDtype, TensorToWrite,
    to_tensor, write_atomically, write_safetensors,
};
use crate::models::eight_bits::{OUTLIER_COLUMNS, OUTLIERS, SCALE};
use crate::models::{
    self, HeadSpec, LoadIn, Operands, Quantizable, join_rows, not_finite, quantizable_weights,
};
use crate::tensor::{DType, Quantized, Tensor};
use crate::text::{decimals, write_columns};
use crate::{Error, Result};

/// What `config.json` says of weights that this program quantized.
const METHOD: &str = "lowrank-int8";

/// What to bring into 8 bits.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeOptions<'a> {
    /// The model: a folder or Hub id.
    pub model: &'a str,
    /// The folder to write; it is made, or is empty.
    pub out: &'a Path,
    /// Whether to compare the result with the model in bf16.
    pub check: bool,
}

/// A weight in 8 bits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuantizedWeight {
    /// Its key.
    pub name: String,
    /// Columns that are kept in bf16.
    pub outlier_columns: usize,
    /// `‖W₈ - W‖ / ‖W‖` with W in bf16; only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuantizeReport {
    /// The folder.
    pub out: PathBuf,
    /// The bytes of the tensors before.
    pub bytes_before: u64,
    /// The bytes of the tensors now.
    pub bytes_after: u64,
    /// The weights in 8 bits.
    pub weights: Vec<QuantizedWeight>,
    /// The largest difference of a logit of random inputs to that of the model in bf16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_logit_difference: Option<f32>,
    /// The largest magnitude of these logits in bf16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_logit: Option<f32>,
}

/// Writes a model folder whose weights of linear layers are in 8 bits; everything else is as it was. All that is held in
/// memory is the result.
///
/// # Errors
/// If the model cannot be read, holds nothing to bring into 8 bits or a value that is not finite, or the folder is not
/// empty or cannot be written.
pub fn quantize(options: &QuantizeOptions<'_>) -> Result<QuantizeReport> {
    let folder = hub::resolve(options.model, RepositoryKind::Model)?.path;
    let unfinished = NewFolder::beside(options.out)?;
    let config = models::read_config(&folder)?;
    let checkpoint = Checkpoint::open(&folder)?;
    let kind = config.head.unwrap_or(config.usual_head());
    let mut model = models::from_config(&config, HeadSpec::new(kind, config.labels.len()))?;
    let quantizable = quantizable_weights(&mut *model, &checkpoint);
    drop(model);
    if quantizable.is_empty() {
        let reason = "none of its weights can be brought into 8 bits, or all are; use it as it is";
        return Err(Error::file(&folder, reason));
    }
    let mut parts: Vec<(String, StoredDtype, Vec<usize>, Bytes<'_>)> = Vec::new();
    let (mut weights, mut bytes_before) = (Vec::new(), 0);
    let of_weights: BTreeSet<&str> =
        quantizable.iter().flat_map(|weight| &weight.parts).map(|(key, _)| key.as_str()).collect();
    for key in checkpoint.names() {
        let Some(view) = checkpoint.get(key) else { continue };
        bytes_before += view.bytes.len() as u64;
        if !of_weights.contains(key) {
            parts.push((key.to_owned(), view.dtype, view.shape.to_vec(), Bytes::Mapped(view.bytes)));
        }
    }
    for Quantizable { key, parts: stored, is_transposed } in &quantizable {
        let [(first, view), ..] = &stored[..] else { continue };
        let stored = if stored.len() == 1 { to_tensor(first, view)? } else { join_rows(stored)? };
        let value = if *is_transposed { stored.transposed() } else { stored.clone() };
        let made = Quantized::from_float(&value).ok_or_else(|| not_finite(view, first))?;
        weights.push(QuantizedWeight {
            name: key.clone(),
            outlier_columns: made.columns().len(),
            relative_error: options.check.then(|| relative_error(&value, &made)),
        });
        stored.release_pages();
        push(&mut parts, key, made);
    }
    let tensors: Vec<TensorToWrite<'_>> = parts
        .iter()
        .map(|(name, dtype, shape, bytes)| TensorToWrite { name, dtype: *dtype, shape, bytes: bytes.get() })
        .collect();
    let bytes_after = tensors.iter().map(|tensor| tensor.bytes.len() as u64).sum();
    write_safetensors(unfinished.path().join(MODEL_FILE), &tensors, &[("format", "pt")])?;
    drop(parts);
    copy_files(&folder, unfinished.path())?;
    write_config(&folder, unfinished.path())?;
    unfinished.finish()?;
    let mut report = QuantizeReport {
        out: options.out.to_path_buf(),
        bytes_before,
        bytes_after,
        weights,
        largest_logit_difference: None,
        largest_logit: None,
    };
    if options.check {
        let (before, after) = (logits(&folder)?, logits(options.out)?);
        report.largest_logit_difference = Some(probe::largest_difference(&before, &after));
        report.largest_logit = Some(probe::largest(&before));
    }
    Ok(report)
}

/// The bytes of a tensor to write.
enum Bytes<'a> {
    Mapped(&'a [u8]),
    Tensor(Tensor),
    Made(Vec<u8>),
}

impl Bytes<'_> {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Tensor(tensor) => tensor.bytes(),
            Self::Made(bytes) => bytes,
        }
    }
}

/// The tensors of a weight in 8 bits.
fn push(parts: &mut Vec<(String, StoredDtype, Vec<usize>, Bytes<'_>)>, key: &str, made: Quantized) {
    let (rows, width) = made.values().rows_and_width();
    let kept = made.columns().len();
    let scales = made.scales().iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let name = |companion: &str| format!("{key}.{companion}");
    parts.push((key.to_owned(), StoredDtype::I8, vec![rows, width], Bytes::Tensor(made.values().clone())));
    parts.push((name(SCALE), StoredDtype::F32, vec![rows], Bytes::Made(scales)));
    if kept > 0 {
        let columns = made.columns().iter().flat_map(|column| column.to_le_bytes()).collect();
        let outliers = made.outliers().iter().flat_map(|value| value.to_le_bytes()).collect();
        parts.push((name(OUTLIER_COLUMNS), StoredDtype::I32, vec![kept], Bytes::Made(columns)));
        parts.push((name(OUTLIERS), StoredDtype::BF16, vec![rows, kept], Bytes::Made(outliers)));
    }
}

/// How far a weight in 8 bits is from the weight in bf16.
fn relative_error(value: &Tensor, made: &Quantized) -> f64 {
    let before = value.to_dtype(DType::Bf16).to_f32_vec();
    let (mut off, mut whole) = (0.0, 0.0);
    for (a, b) in made.to_f32().as_slice::<f32>().iter().zip(before) {
        off += f64::from(a - b).powi(2);
        whole += f64::from(b).powi(2);
    }
    (off / f64::max(whole, f64::MIN_POSITIVE)).sqrt()
}

/// Everything of a model's folder but its weights and its configuration.
pub(super) fn copy_files(from: &Path, to: &Path) -> Result<()> {
    const WEIGHTS: [&str; 9] =
        [".safetensors", ".bin", ".index.json", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf"];
    for entry in fs::read_dir(from).map_err(Error::io(from))? {
        let path = entry.map_err(Error::io(from))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.is_file() && name != MODEL_CONFIG && !WEIGHTS.iter().any(|end| name.ends_with(end)) {
            let bytes = fs::read(&path).map_err(Error::io(&path))?;
            write_atomically(to.join(name), |file| file.write_all(&bytes))?;
        }
    }
    Ok(())
}

fn write_config(from: &Path, to: &Path) -> Result<()> {
    let source = from.join(MODEL_CONFIG);
    let text = fs::read_to_string(&source).map_err(Error::io(&source))?;
    let mut config: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::file(&source, format!("not a JSON object: {e}")))?;
    config.insert("quantization_config".into(), json!({ "quant_method": METHOD, "bits": 8 }));
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    write_atomically(to.join(MODEL_CONFIG), |file| writeln!(file, "{text}"))
}

/// The logits of random inputs, the same for every model of a configuration, computed in bf16.
fn logits(folder: &Path) -> Result<Vec<f32>> {
    let config = models::read_config(folder)?;
    let head = HeadSpec::new(config.head.unwrap_or(config.usual_head()), config.labels.len());
    let (compute, load_in) = ((Some(Compute::Bf16), Operands::Rows), LoadIn::Auto);
    let mut adapted = AdaptedModel::load_base(folder, config, head, compute, load_in, Use::Reference)?;
    probe::complete(&mut adapted)?;
    probe::outputs(&adapted, None)
}

impl fmt::Display for QuantizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |weight: &QuantizedWeight| {
            let error = decimals(weight.relative_error?, 5);
            let name = weight.name.escape_debug().to_string();
            Some(vec![name, error, weight.outlier_columns.to_string()])
        };
        let mut lines = vec![["weight", "off by", "columns in bf16"].map(str::to_owned).to_vec()];
        lines.extend(self.weights.iter().filter_map(line));
        if lines.len() > 1 {
            write_columns(f, &lines)?;
        }
        if let (Some(off), Some(largest)) = (self.largest_logit_difference, self.largest_logit) {
            writeln!(f, "logits of random inputs: off by {off:.4} at most, the largest is {largest:.4}")?;
        }
        let (before, after) = (self.bytes_before as f64 / 1e6, self.bytes_after as f64 / 1e6);
        let (count, out) = (self.weights.len(), self.out.display());
        write!(f, "{count} weights in 8 bits, {after:.1} MB instead of {before:.1} MB, in {out}")
    }
}
