//! Adapters from other people's files into PEFT's, and from these into llama.cpp's.

mod base;
mod gguf;
mod kohya;
mod loralib;
mod mlx;
mod parts;
mod peft;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::base::Base;
use self::parts::Parts;
use super::file::AdapterFile;
use crate::hub::{self, ADAPTER_CONFIG, ADAPTER_FILE, Checkpoint, RepositoryKind, adapter_weights};
use crate::tape::AdapterId;
use crate::{Error, Result};

/// What to convert, and into what.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions<'a> {
    /// An adapter folder of PEFT or mlx-lm, the Hub id of a PEFT adapter, or a file of kohya's scripts or of loralib.
    pub input: &'a str,
    /// The folder to write; it is made, or is empty.
    pub out: &'a Path,
    /// The form to write.
    pub to: AdapterForm,
    /// The base model: a folder or Hub id, of which the configuration is read alone.
    pub model: Option<&'a str>,
    /// `lora_alpha`, for loralib's files, which do not say it.
    pub lora_alpha: Option<f64>,
    /// `enable_lora` of loralib's merged layers, which their files do not say either; empty: there are none.
    pub enable_lora: &'a [bool],
}

/// A form of adapter files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterForm {
    /// `adapter_config.json` with `adapter_model.safetensors` or `adapter_model.bin`.
    Peft,
    /// mlx-lm's `adapters.safetensors` and `adapter_config.json`.
    Mlx,
    /// A file of kohya's scripts: `lora_te_….lora_down.weight`.
    Kohya,
    /// What `lora_state_dict` of Microsoft's loralib gives: `….lora_A` and `….lora_B`.
    Loralib,
    /// llama.cpp's adapters. They are written, not read.
    Gguf,
}

impl AdapterForm {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peft => "PEFT",
            Self::Mlx => "mlx-lm",
            Self::Kohya => "kohya",
            Self::Loralib => "loralib",
            Self::Gguf => "GGUF",
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConvertReport {
    /// The form that was read.
    pub from: AdapterForm,
    /// The form that was written.
    pub to: AdapterForm,
    /// The folder.
    pub out: PathBuf,
    /// How many layers have a low-rank pair.
    pub pairs: usize,
    /// How many tensors there are beside those.
    pub others: usize,
}

/// Reads an adapter of any form and writes it in PEFT's or llama.cpp's.
///
/// A PEFT adapter that becomes one again keeps its configuration and every tensor as they are, but in safetensors. With
/// a model, all of it must bind there; of other forms, each layer must be one of the model's.
///
/// # Errors
/// If the input is of no known form, or is malformed; names the first tensor that binds to nothing, has no other half or
/// has no place in the form to write. If something must be known that the input does not say. If the folder is not empty.
pub fn convert(options: &ConvertOptions<'_>) -> Result<ConvertReport> {
    let ConvertOptions { out, to, .. } = *options;
    if !matches!(to, AdapterForm::Peft | AdapterForm::Gguf) {
        return Err(Error::setting(
            "to",
            format!("{} is read and not written; peft and gguf are", to.as_str()),
        ));
    }
    if out.exists() && fs::read_dir(out).map_err(Error::io(out))?.next().is_some() {
        return Err(Error::file(out, "this folder is not empty; name another"));
    }
    let (from, place) = detect(options.input)?;
    let base = options.model.map(|name| Base::open(name, from, &place)).transpose()?;
    let base = base.as_ref();
    if from == AdapterForm::Peft && to == AdapterForm::Peft {
        base.map_or(Ok(()), |base| check_binds(&place, base))?;
        let (pairs, others) = peft::copy(&place, out)?;
        return Ok(ConvertReport { from, to, out: out.to_path_buf(), pairs, others });
    }
    // Before the names of its experts are looked for among a model's modules.
    if to == AdapterForm::Gguf && base.is_some_and(|base| base.info().experts.is_some()) {
        gguf::architecture(base)?;
    }
    let parts = match from {
        AdapterForm::Mlx => mlx::read(&place, base)?,
        AdapterForm::Kohya => kohya::read(&place, base)?,
        AdapterForm::Loralib => loralib::read(&place, base, options.lora_alpha, options.enable_lora)?,
        AdapterForm::Peft | AdapterForm::Gguf => peft::read(&place, base)?,
    };
    if to == AdapterForm::Gguf {
        gguf::write(&parts, base, &place, out)?;
    } else {
        peft::write(&parts, base, out)?;
        if let Some(failed) = base.and_then(|base| check_binds(out, base).err()) {
            for name in [ADAPTER_CONFIG, ADAPTER_FILE] {
                let path = out.join(name);
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
            return Err(failed);
        }
    }
    let Parts { pairs, saved, biases, .. } = &parts;
    let (pairs, others) = (pairs.len(), saved.len() + biases.len());
    Ok(ConvertReport { from, to, out: out.to_path_buf(), pairs, others })
}

/// Checks that all of a folder binds to a model, and that nothing is missing.
fn check_binds(folder: &Path, base: &Base) -> Result<()> {
    let mut model = base.model_again()?;
    AdapterFile::open(folder)?.without_beginnings().attach(&mut *model, base.info(), AdapterId(0)).map(|_| ())
}

/// The form of an input, and the folder or file that it is.
fn detect(input: &str) -> Result<(AdapterForm, PathBuf)> {
    let path = Path::new(input);
    if path.is_file() {
        return Ok((form_of_file(path)?, path.to_path_buf()));
    }
    if path.is_dir() && adapter_weights(path).is_none() {
        return if path.join(mlx::WEIGHTS).is_file() {
            Ok((AdapterForm::Mlx, path.to_path_buf()))
        } else {
            let reason = "no adapter in this folder: neither PEFT's adapter_model.safetensors or adapter_model.bin nor \
                          mlx-lm's adapters.safetensors; of kohya's and loralib's, name the file";
            Err(Error::file(path, reason))
        };
    }
    Ok((AdapterForm::Peft, hub::resolve(input, RepositoryKind::Adapter)?.path))
}

fn form_of_file(path: &Path) -> Result<AdapterForm> {
    let file = Checkpoint::open_file(path)?;
    let has = |part: &str| file.names().any(|name| name.ends_with(part));
    if has(kohya::DOWN) || has(kohya::UP) {
        Ok(AdapterForm::Kohya)
    } else if has(loralib::A) || has(loralib::B) {
        Ok(AdapterForm::Loralib)
    } else if has(".lora_A.weight") || has(".lora_a") {
        Err(Error::file(path, format!("name the folder that it is in, which holds its {ADAPTER_CONFIG}")))
    } else {
        let reason =
            "not an adapter: no key ends with .lora_down.weight (kohya's scripts) or .lora_A (loralib)";
        Err(Error::file(path, reason))
    }
}

impl fmt::Display for ConvertReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, out, pairs, others } = self;
        let (from, to) = (from.as_str(), to.as_str());
        write!(f, "{from} to {to}: {pairs} low-rank pairs, {others} other tensors in {}", out.display())
    }
}
