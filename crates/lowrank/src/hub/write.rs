//! Writing safetensors files, the same bytes for the same tensors.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde::ser::{SerializeMap, Serializer};
use serde_json::ser::CompactFormatter;

use super::atomic::write_atomically;
use super::dtype::StoredDtype;
use crate::{Error, Result};

/// What a file's header says of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct TensorHeader<'a> {
    /// Its key.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: StoredDtype,
    /// Its shape, outermost first.
    pub shape: &'a [usize],
}

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
    let headers: Vec<TensorHeader<'_>> = tensors.iter().map(TensorToWrite::header).collect();
    if let Some(tensor) = tensors.iter().find(|tensor| tensor.header().bytes() != Some(tensor.bytes.len())) {
        return Err(unusable(&tensor.header(), tensor.bytes.len()));
    }
    let by_name: BTreeMap<&str, &[u8]> = tensors.iter().map(|tensor| (tensor.name, tensor.bytes)).collect();
    stream_safetensors(path, &headers, metadata, |name, file| {
        file.write_all(by_name.get(name).copied().unwrap_or_default()).map_err(StreamError::Io)
    })
}

/// Why the bytes of a tensor could not be written.
#[derive(Debug)]
pub enum StreamError {
    /// They could not be made.
    Failed(Error),
    /// The file did not take them.
    Io(io::Error),
}

/// As [`write_safetensors`], with bytes that are made as they are written: `write` is called once for each tensor, with
/// its name, in the order of the file.
///
/// # Errors
/// As [`write_safetensors`]; or what `write` gives.
pub fn stream_safetensors(
    path: impl AsRef<Path>,
    tensors: &[TensorHeader<'_>],
    metadata: &[(&str, &str)],
    mut write: impl FnMut(&str, &mut dyn Write) -> std::result::Result<(), StreamError>,
) -> Result<()> {
    let path = path.as_ref();
    let mut sorted = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        sorted.push((tensor.dtype.to_safetensors().ok_or_else(|| unusable(tensor, 0))?, tensor));
    }
    sorted.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.name.cmp(right.name)));

    let mut infos = Vec::with_capacity(sorted.len());
    let mut offset = 0_usize;
    for &(dtype, tensor) in &sorted {
        let end = tensor.bytes().and_then(|bytes| offset.checked_add(bytes));
        let end = end.ok_or_else(|| unusable(tensor, 0))?;
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
    let mut failed = None;
    let written = write_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, tensor) in &sorted {
            let mut counted = Counted { file: &mut *file, bytes: 0 };
            let done = write(tensor.name, &mut counted);
            let bytes = counted.bytes;
            failed = match done {
                Err(StreamError::Io(error)) => return Err(error),
                Err(StreamError::Failed(error)) => Some(error),
                Ok(()) if tensor.bytes() != Some(bytes) => Some(unusable(tensor, bytes)),
                Ok(()) => None,
            };
            if failed.is_some() {
                return Err(io::ErrorKind::Other.into());
            }
        }
        Ok(())
    });
    failed.map_or(written, Err)
}

/// A writer that counts.
struct Counted<'a> {
    file: &'a mut dyn Write,
    bytes: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<'a> TensorToWrite<'a> {
    fn header(&self) -> TensorHeader<'a> {
        TensorHeader { name: self.name, dtype: self.dtype, shape: self.shape }
    }
}

impl TensorHeader<'_> {
    /// How many bytes the tensor takes; none where they cannot be counted.
    pub fn bytes(&self) -> Option<usize> {
        self.shape.iter().try_fold(self.dtype.bytes()?, |size, &dim| size.checked_mul(dim))
    }
}

fn unusable(TensorHeader { name, dtype, shape }: &TensorHeader<'_>, bytes: usize) -> Error {
    Error::Usage(format!("the tensor {name} of type {dtype} and shape {shape:?} does not take {bytes} bytes"))
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
