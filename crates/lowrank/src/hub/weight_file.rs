//! One file of tensors: a safetensors file, or what `torch.save` writes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dtype::StoredDtype;
use super::{pickle, safetensors_file};
use crate::{Error, Result};
use lowrank_kernels::memory::MappedFile;

/// Where a tensor lies.
#[derive(Debug)]
pub(super) struct Entry {
    pub dtype: StoredDtype,
    pub shape: Vec<usize>,
    /// What its bytes lie in.
    pub mapping: Arc<MappedFile>,
    /// Within the whole mapping; inside it, and as long as `shape` of `dtype` needs.
    pub range: Range<usize>,
}

/// A mapped file of tensors and what it says of them, checked.
#[derive(Debug)]
pub(super) struct WeightFile {
    pub path: PathBuf,
    pub entries: BTreeMap<String, Entry>,
    pub metadata: BTreeMap<String, String>,
}

impl WeightFile {
    /// Opens a file. Its first bytes tell its form, because names such as `weights.pt` or none at all do not; what is
    /// called `.bin` is PyTorch's, be it as damaged as it may.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::file(path, "it is a folder, where a file of tensors is needed"));
        }
        let mapping = Arc::new(MappedFile::open(path).map_err(Error::io(path))?);
        if pickle::is_pickled(&mapping) || path.extension().is_some_and(|end| end == "bin") {
            pickle::read(path, &mapping)
        } else {
            safetensors_file::read(path, &mapping)
        }
    }
}
