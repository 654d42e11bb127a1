//! A model, an adapter or a data set by name: a folder, or a repository of the Hugging Face Hub.

use std::path::{Path, PathBuf};

use super::dataset::DatasetId;
use super::options::HubOptions;
use super::remote::Remote;
use crate::data::image::PREPROCESSOR_CONFIG;
use crate::generate::GENERATION_CONFIG;
use crate::{Error, Result};

/// A model's configuration.
pub const MODEL_CONFIG: &str = "config.json";
/// An adapter's configuration.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// What a finished run leaves beside its result; the names of its labels are in it.
pub const SUMMARY_FILE: &str = "summary.json";
/// The folder of a model's named chat templates.
pub(crate) const CHAT_TEMPLATES: &str = "additional_chat_templates";
/// The files that say how a model reads and writes, of which it has those that it needs.
pub(crate) const READER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    PREPROCESSOR_CONFIG,
    "chat_template.jinja",
    GENERATION_CONFIG,
];

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryKind {
    /// A model: `config.json`, weights and, where it has one, its tokeniser.
    Model,
    /// A model without its weights: `config.json` and, where it has one, its tokeniser.
    Configuration,
    /// An adapter: `adapter_config.json`, `adapter_model.safetensors` (or else `adapter_model.bin`) and, where a run left
    /// one, its `summary.json`.
    Adapter,
    /// The Parquet files of a data set, or of one of its configurations: NAME, OWNER/NAME, or either with
    /// /CONFIGURATION. [`resolve_dataset`](super::resolve_dataset) finds its splits.
    Dataset,
}

/// A model's, an adapter's or a data set's folder on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    /// The name it was asked for by, as it is written into an adapter's configuration.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whether it came from the Hub.
    pub from_hub: bool,
}

/// The folder that `name` means: itself, or the downloaded repository of this id.
///
/// Asks the Hub as the environment says ([`HubOptions::from_env`]).
///
/// # Errors
/// As [`resolve_with`].
pub fn resolve(name: &str, kind: RepositoryKind) -> Result<ModelFolder> {
    resolve_with(name, kind, &HubOptions::from_env())
}

/// The folder that `name` means, asking the Hub in this way.
///
/// A repository is looked up each time, as Python's `huggingface_hub` does, and what the cache has of its newest
/// commit is not fetched again. Where the Hub cannot be reached, is out of order or refuses to answer, a complete
/// copy in the cache will do.
///
/// # Errors
/// [`Error::File`] if `name` is neither a folder nor an id; [`Error::Hub`] if the repository does not exist or lacks a
/// file, or if the Hub gives no answer or refuses one and there is no copy in the cache.
pub fn resolve_with(name: &str, kind: RepositoryKind, options: &HubOptions) -> Result<ModelFolder> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(ModelFolder { name: name.to_owned(), path: path.to_path_buf(), from_hub: false });
    }
    if path.is_file() {
        return Err(Error::file(path, "it is a file; the folder that holds it is needed"));
    }
    let path = if kind == RepositoryKind::Dataset {
        let id = DatasetId::parse(name).ok_or_else(|| {
            let names = "NAME or OWNER/NAME, perhaps with /CONFIGURATION";
            Error::file(path, format!("no such file or folder, and not the id of a Hub data set ({names})"))
        })?;
        Remote::new(&id.repository, kind, options)?.of_configuration(id.configuration.as_deref()).fetch()?
    } else if is_id(name) {
        Remote::new(name, kind, options)?.fetch()?
    } else {
        return Err(Error::file(
            path,
            "no such folder, and not the id of a Hub repository (NAME or OWNER/NAME)",
        ));
    };
    Ok(ModelFolder { name: name.to_owned(), path, from_hub: true })
}

/// Whether the Hub could have a repository of this name.
///
/// # Source
/// `huggingface_hub.utils.validate_repo_id`.
pub(super) fn is_id(name: &str) -> bool {
    name.len() <= 96
        && name.split('/').count() <= 2
        && name.split('/').all(is_part)
        && !name.contains("--")
        && !name.contains("..")
}

/// Whether the name may stand between the slashes of an id.
pub(super) fn is_part(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
}
