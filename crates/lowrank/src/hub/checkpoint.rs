//! A model's weights on disk: one safetensors file, or shards and their index.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::dtype::StoredDtype;
use super::weight_file::WeightFile;
use crate::{Error, Result};
use lowrank_kernels::memory::MappedFile;

/// The weights of a model in one file.
pub const MODEL_FILE: &str = "model.safetensors";
/// The index of a model's weights in several files.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// The weights of an adapter.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";
/// The weights of an adapter as PEFT saved them before 0.7, and does still when asked to.
pub const PICKLED_ADAPTER_FILE: &str = "adapter_model.bin";

/// The tensors of a model folder, an adapter folder or one file, mapped and checked.
///
/// A file is a safetensors file, or a dictionary of tensors that `torch.save` wrote, which is read by a machine that
/// knows no instruction but those that such a dictionary needs, and calls nothing. Opening reads the headers only. What
/// they say of places, lengths and shapes has been compared with the files before it returns, so a view can be trusted.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<WeightFile>,
    /// Key to the file that holds it.
    keys: BTreeMap<String, usize>,
}

/// One stored tensor.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    /// The type of its elements.
    pub dtype: StoredDtype,
    /// Its shape, outermost first; empty for a scalar.
    pub shape: &'a [usize],
    /// Its elements, row-major and little-endian; **not** aligned to their size.
    pub bytes: &'a [u8],
    /// The mapping that `bytes` lies in; keep it to keep them.
    pub mapping: &'a Arc<MappedFile>,
    /// The place of `bytes` in `mapping`.
    pub range: Range<usize>,
    /// The file.
    pub file: &'a Path,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the weights of a model folder: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// No weights in the folder; a file that is truncated or whose header is wrong; an index that names a file
    /// outside the folder, a missing file, or a tensor that its file does not hold; a tensor in two shards.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let (single, index) = (folder.join(MODEL_FILE), folder.join(INDEX_FILE));
        if single.is_file() {
            Self::open_file(single)
        } else if index.is_file() {
            Self::open_shards(folder, &index)
        } else {
            Err(without_weights(
                folder,
                "model.safetensors or model.safetensors.index.json",
                Some("pytorch_model.bin"),
            ))
        }
    }

    /// Opens the weights of an adapter folder: `adapter_model.safetensors`, or else `adapter_model.bin`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_adapter(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        match adapter_weights(folder) {
            Some(file) => Self::open_file(file),
            None => Err(without_weights(folder, "adapter_model.safetensors or adapter_model.bin", None)),
        }
    }

    /// Opens one file.
    ///
    /// # Errors
    /// It cannot be read, is truncated, or its header is wrong; it was written by `torch.save` and holds something else
    /// than tensors, which is named.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = WeightFile::open(path)?;
        let keys = file.entries.keys().map(|key| (key.clone(), 0)).collect();
        Ok(Self { path: path.to_path_buf(), files: vec![file], keys })
    }

    fn open_shards(folder: &Path, index_path: &Path) -> Result<Self> {
        let names = shard_names(index_path)?;
        let mut files = Vec::with_capacity(names.len());
        let mut keys = BTreeMap::new();
        for (number, name) in names.iter().enumerate() {
            let path = folder.join(name);
            if !path.is_file() {
                return Err(Error::file(
                    index_path,
                    format!("it names the shard {name:?}, which is missing"),
                ));
            }
            let file = WeightFile::open(&path)?;
            for key in file.entries.keys() {
                if let Some(earlier) = keys.insert(key.clone(), number) {
                    let reason =
                        format!("it is also in {}: each tensor belongs in one shard", names[earlier]);
                    return Err(Error::tensor(&file.path, key, reason));
                }
            }
            files.push(file);
        }
        for (key, name) in &read_index(index_path)?.weight_map {
            let holder = keys.get(key).map(|&number| &names[number]);
            if holder != Some(name) {
                let reason = match holder {
                    Some(holder) => format!("the index says {name}, but {holder} holds it"),
                    None => format!("the index says {name}, which does not hold it"),
                };
                return Err(Error::tensor(index_path, key, reason));
            }
        }
        Ok(Self { path: folder.to_path_buf(), files, keys })
    }

    /// The folder, or the file if one was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// The tensor of this key.
    pub fn get(&self, key: &str) -> Option<TensorView<'_>> {
        let file = self.files.get(*self.keys.get(key)?)?;
        let entry = file.entries.get(key)?;
        Some(TensorView {
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: entry.mapping.get(entry.range.clone())?,
            mapping: &entry.mapping,
            range: entry.range.clone(),
            file: &file.path,
        })
    }

    /// The files, each with the keys that it holds, sorted.
    pub fn files(&self) -> impl Iterator<Item = (&Path, Vec<&str>)> {
        self.files.iter().map(|file| (&*file.path, file.entries.keys().map(String::as_str).collect()))
    }

    /// The files' own notes, such as `format`; of several shards the first one's.
    pub fn metadata(&self) -> Option<&BTreeMap<String, String>> {
        self.files.first().map(|file| &file.metadata)
    }
}

/// The shards that an index names, each once, all of them inside its folder.
pub(super) fn shard_names(index: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = read_index(index)?.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !inside {
            return Err(Error::file(
                index,
                format!("it names the shard {name:?}, which is not in its folder"),
            ));
        }
    }
    Ok(names)
}

fn read_index(path: &Path) -> Result<Index> {
    let text = fs::read(path).map_err(Error::io(path))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| Error::file(path, format!("not an index of shards: {error}")))?;
    if index.weight_map.is_empty() {
        return Err(Error::file(path, "its weight_map is empty: there are no weights to load"));
    }
    Ok(index)
}

/// The file of an adapter folder that holds its weights.
pub(crate) fn adapter_weights(folder: &Path) -> Option<PathBuf> {
    [ADAPTER_FILE, PICKLED_ADAPTER_FILE].map(|name| folder.join(name)).into_iter().find(|file| file.is_file())
}

/// Why a folder has no `wanted`, of which `pickled` is PyTorch's own form where that is not read.
fn without_weights(folder: &Path, wanted: &str, pickled: Option<&str>) -> Error {
    let is_there =
        |name: &&str| folder.join(name).is_file() || folder.join(format!("{name}.index.json")).is_file();
    let reason = if !folder.is_dir() {
        "no such folder".to_owned()
    } else if let Some(pickled) = pickled.filter(is_there) {
        format!(
            "no {wanted} in this folder, only {pickled}: the weights must be safetensors; save the model again with \
             a current Transformers"
        )
    } else {
        format!("no {wanted} in this folder")
    };
    Error::file(folder, reason)
}
