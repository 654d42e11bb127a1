//! What `torch.save` writes: a dictionary of tensors as a pickle in a zip archive, read without running any of it.
//!
//! # Source
//! `torch/serialization.py` and `torch/csrc/jit/serialization` of PyTorch 1.6 and later; what is allowed is a part of what
//! its own `torch.load(..., weights_only=True)` allows.

mod archive;
mod layout;
mod machine;
mod value;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use self::layout::Layout;
use self::value::{Object, PickledTensor, Value};
use super::weight_file::WeightFile;
use crate::{Error, Result};
use lowrank_kernels::memory::MappedFile;

/// How files begin that PyTorch wrote before 1.6: a pickle of a magic number.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// The pickle's entry, in the archive's one folder.
const PICKLE: &str = "data.pkl";

/// Whether a file is not safetensors but what `torch.save` writes.
pub(super) fn is_pickled(bytes: &[u8]) -> bool {
    bytes.starts_with(archive::MAGIC) || bytes.starts_with(LEGACY)
}

/// The tensors of a mapped file. Those that are views in row-major order stay where they are; others are gathered.
pub(super) fn read(path: &Path, mapping: &Arc<MappedFile>) -> Result<WeightFile> {
    let refuse = |reason: String| Error::file(path, format!("not a PyTorch file of tensors: {reason}"));
    if mapping.starts_with(LEGACY) {
        return Err(refuse(
            "it is of the form that PyTorch had before 1.6, which is not read; load it with torch.load and save it \
             again with torch.save or safetensors"
                .to_owned(),
        ));
    }
    let entries = archive::entries(mapping).map_err(refuse)?;
    let found = entries.iter().find(|(name, _)| name.rsplit('/').next() == Some(PICKLE));
    let (name, place) = found.ok_or_else(|| refuse(format!("there is no {PICKLE} in it")))?;
    let folder = name.strip_suffix(PICKLE).unwrap_or_default();
    let order = entries.get(&*format!("{folder}byteorder")).map(|place| &mapping[place.clone()]);
    if order.is_some_and(|order| order != b"little") {
        return Err(refuse("its numbers are big-endian".to_owned()));
    }
    let (root, objects) = machine::run(&mapping[place.clone()]).map_err(refuse)?;
    let mut layout = Layout::new(mapping, &entries, folder);
    for (key, tensor) in tensors(root, &objects).map_err(refuse)? {
        layout.add(key, tensor).map_err(|reason| Error::tensor(path, key, reason))?;
    }
    let entries = layout.finish().map_err(Error::io(path))?;
    Ok(WeightFile { path: path.to_path_buf(), entries, metadata: BTreeMap::new() })
}

/// The tensors of a dictionary, or of the one dictionary that is all that there is in it.
fn tensors<'o, 'a>(
    root: Value<'a>,
    objects: &'o [Object<'a>],
) -> Result<BTreeMap<&'a str, &'o PickledTensor<'a>>, String> {
    let object = |value: Value<'a>| value.number().and_then(|number| objects.get(number));
    let Some(Object::Dict(items)) = object(root) else {
        return Err("it is no dictionary".to_owned());
    };
    let mut items = items;
    if let [[_, only]] = items[..]
        && let Some(Object::Dict(inner)) = object(only)
    {
        items = inner;
    }
    let mut tensors = BTreeMap::new();
    for [key, value] in items {
        let Value::Text(key) = *key else {
            return Err("a key of the dictionary is no text".to_owned());
        };
        let Some(Object::Tensor(tensor)) = object(*value) else {
            return Err(format!("{key:?} in it is no tensor"));
        };
        if tensors.insert(key, tensor).is_some() {
            return Err(format!("{key:?} is in it twice"));
        }
    }
    Ok(tensors)
}
