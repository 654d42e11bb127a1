//! One safetensors file, mapped, its header checked before anything is believed.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::Metadata;

use super::weight_file::{Entry, WeightFile};
use crate::{Error, Result};
use lowrank_kernels::memory::MappedFile;

/// The bytes of the header's length, which open the file.
const PREFIX: usize = 8;
/// The longest header that the format allows.
const LONGEST_HEADER: usize = 100_000_000;

/// What a mapped file says of its tensors.
pub(super) fn read(path: &Path, mapping: &Arc<MappedFile>) -> Result<WeightFile> {
    let (header, data) = split(mapping).map_err(|reason| Error::file(path, reason))?;
    // `Metadata` checks each tensor: offsets in order without a gap or an overlap, and of the length that its
    // shape and type ask for. That the last one ends where the file ends is checked here.
    let header: Metadata = serde_json::from_str(header)
        .map_err(|error| Error::file(path, format!("not a safetensors file: {}", reason(&error))))?;
    if header.data_len() != data.len() {
        return Err(Error::file(
            path,
            format!(
                "the header describes {} bytes of tensors but {} follow it: the file is damaged or incomplete",
                header.data_len(),
                data.len()
            ),
        ));
    }
    let entries = header
        .tensors()
        .into_iter()
        .map(|(key, info)| {
            let (start, end) = info.data_offsets;
            let range = data.start + start..data.start + end;
            let (dtype, shape) = (info.dtype.into(), info.shape.clone());
            (key, Entry { dtype, shape, mapping: Arc::clone(mapping), range })
        })
        .collect();
    let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    Ok(WeightFile { path: path.to_path_buf(), entries, metadata })
}

/// The header's text and the place of the tensors' bytes.
fn split(bytes: &[u8]) -> Result<(&str, Range<usize>), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<PREFIX>() else {
        return Err(format!(
            "not a safetensors file: it holds {} bytes, fewer than the {PREFIX} that give the header's length",
            bytes.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().filter(|&length| length <= LONGEST_HEADER);
    let Some(header) = header.and_then(|length| rest.get(..length)) else {
        return Err(format!(
            "not a whole safetensors file: it announces a header of {length} bytes and {} follow",
            rest.len()
        ));
    };
    let text = std::str::from_utf8(header)
        .map_err(|error| format!("not a safetensors file: its header is not UTF-8 ({error})"))?;
    Ok((text, PREFIX + header.len()..bytes.len()))
}

/// The error's text without serde_json's place in the line where it adds nothing.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.strip_suffix(&format!(" at line {} column {}", error.line(), error.column())) {
        Some(text) if !error.is_syntax() && !error.is_eof() => format!("its header is wrong: {text}"),
        _ => format!("its header is not JSON: {text}"),
    }
}
