//! Writing safetensors files, the same bytes for the same tensors.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde::ser::{SerializeMap, Serializer};
use serde_json::ser::CompactFormatter;

use super::atomic::write_atomically;
use super::dtype::StoredDtype;
use crate::{Error, Result};

/// A tensor to be written.
#[derive(Debug, Clone, Copy)]
pub struct TensorToWrite<'a> {
    /// Its key.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: StoredDtype,
    /// Its shape, outermost first.
    pub shape: &'a [usize],
    /// Its elements, row-major and little-endian.
    pub bytes: &'a [u8],
}

/// Writes a safetensors file atomically, in the order of the safetensors crate: wider types first, then by name.
///
/// The same tensors and notes give the same bytes. PEFT's own files carry the note `format = pt`.
///
/// # Errors
/// [`Error::Usage`] if the bytes of a tensor are not as many as its shape needs or a name comes twice;
/// [`Error::Io`] if the file cannot be written.
pub fn write_safetensors(
    path: impl AsRef<Path>,
    tensors: &[TensorToWrite<'_>],
    metadata: &[(&str, &str)],
) -> Result<()> {
    let path = path.as_ref();
    let mut sorted = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let stored = tensor.dtype.to_safetensors().ok_or_else(|| unusable(tensor))?;
        sorted.push((stored, tensor));
    }
    sorted.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.name.cmp(right.name)));

    let mut infos = Vec::with_capacity(sorted.len());
    let mut offset = 0;
    for &(dtype, tensor) in &sorted {
        if tensor.size() != Some(tensor.bytes.len()) {
            return Err(unusable(tensor));
        }
        let end = offset + tensor.bytes.len();
        infos.push((
            tensor.name,
            TensorInfo { dtype, shape: tensor.shape.to_vec(), data_offsets: (offset, end) },
        ));
        offset = end;
    }
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::Usage(format!("the tensor {} would be written twice", twice[0])));
    }
    let header = header(&infos, metadata).map_err(|error| Error::file(path, error.to_string()))?;
    write_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        sorted.iter().try_for_each(|(_, tensor)| file.write_all(tensor.bytes))
    })
}

impl TensorToWrite<'_> {
    fn size(&self) -> Option<usize> {
        self.shape.iter().try_fold(self.dtype.bytes()?, |size, &dim| size.checked_mul(dim))
    }
}

fn unusable(tensor: &TensorToWrite<'_>) -> Error {
    let TensorToWrite { name, dtype, shape, bytes } = tensor;
    Error::Usage(format!(
        "the tensor {name} of type {dtype} and shape {shape:?} does not take {} bytes",
        bytes.len()
    ))
}

/// The header as the safetensors crate writes it, notes in order of their names, padded to 8 bytes.
fn header(tensors: &[(&str, TensorInfo)], metadata: &[(&str, &str)]) -> serde_json::Result<Vec<u8>> {
    let metadata: BTreeMap<_, _> = metadata.iter().copied().collect();
    let mut json = serde_json::Serializer::with_formatter(Vec::new(), CompactFormatter);
    let mut map = (&mut json).serialize_map(None)?;
    if !metadata.is_empty() {
        map.serialize_entry("__metadata__", &metadata)?;
    }
    for (name, info) in tensors {
        map.serialize_entry(name, info)?;
    }
    map.end()?;
    let mut header = json.into_inner();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
