//! Tensors from files and into them.

use std::collections::BTreeMap;
use std::path::Path;

use super::checkpoint::TensorView;
use super::dtype::StoredDtype;
use super::write::{TensorToWrite, write_safetensors};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};

/// Tensors by their names in a file.
pub type Tensors = BTreeMap<String, Tensor>;

/// Writes tensors as f32.
///
/// # Errors
/// If the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &Tensors) -> Result<()> {
    let wide: Vec<(&String, Tensor)> =
        tensors.iter().map(|(name, tensor)| (name, tensor.to_dtype(DType::F32))).collect();
    let shapes: Vec<Shape> = wide.iter().map(|(_, tensor)| tensor.shape()).collect();
    let views: Vec<TensorToWrite<'_>> = wide
        .iter()
        .zip(&shapes)
        .map(|((name, tensor), shape)| TensorToWrite {
            name,
            dtype: StoredDtype::F32,
            shape: shape.dims(),
            bytes: tensor.bytes(),
        })
        .collect();
    write_safetensors(path, &views, &[("format", "pt")])
}

/// A floating tensor of a file, in place where it is aligned.
///
/// # Errors
/// If it has more than four dimensions, or another type than f32, bf16 and f16.
pub fn to_tensor(key: &str, view: &TensorView<'_>) -> Result<Tensor> {
    let dtype = match view.dtype {
        StoredDtype::F32 => DType::F32,
        StoredDtype::BF16 => DType::Bf16,
        StoredDtype::F16 => DType::F16,
        other => {
            let reason = format!("its type is {other:?}; f32, bf16 and f16 can be loaded");
            return Err(Error::tensor(view.file, key, reason));
        }
    };
    let shape = Shape::from_slice(view.shape)
        .ok_or_else(|| Error::tensor(view.file, key, "it has more than four dimensions"))?;
    Ok(Tensor::from_mapped(shape, dtype, view.mapping, view.range.clone()))
}
