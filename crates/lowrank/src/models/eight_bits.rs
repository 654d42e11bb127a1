//! Weights in 8 bits in a checkpoint: one tensor of bytes, and its companions.

use half::bf16;

use crate::hub::{Checkpoint, StoredDtype, TensorView};
use crate::tape::Parameter;
use crate::tensor::{DType, Quantized, Tensor};
use crate::{Error, Result};

/// `NAME.scale`: the rows' scales, f32 `[N]`.
pub const SCALE: &str = "scale";
/// `NAME.outlier_columns`: the columns that are kept in bf16, i32 `[C]`; absent where there are none.
pub const OUTLIER_COLUMNS: &str = "outlier_columns";
/// `NAME.outliers`: their values, bf16 `[N, C]`; absent where there are none.
pub const OUTLIERS: &str = "outliers";

/// Whether a tensor belongs to a weight in 8 bits.
pub(crate) fn is_companion(checkpoint: &Checkpoint, key: &str) -> bool {
    let weight = key.rsplit_once('.').filter(|(_, name)| [SCALE, OUTLIER_COLUMNS, OUTLIERS].contains(name));
    let weight = weight.and_then(|(weight, _)| checkpoint.get(weight));
    weight.is_some_and(|view| view.dtype == StoredDtype::I8)
}

/// The weight under `key`, whose values stay in the mapped file, and the keys of its companions.
pub(super) fn read(
    parameter: &Parameter,
    checkpoint: &Checkpoint,
    key: &str,
    view: &TensorView<'_>,
) -> Result<(Quantized, Vec<String>)> {
    let shape = parameter.shape();
    let &[rows, _] = shape.dims() else {
        return Err(Error::tensor(view.file, key, "its type is I8, which only matrices may have"));
    };
    if view.shape != shape.dims() {
        let reason = format!("its shape is {:?} where the model has {shape}", view.shape);
        return Err(Error::tensor(view.file, key, reason));
    }
    let companion = |name: &str, dtype: StoredDtype, shape: &[usize]| {
        let key = format!("{key}.{name}");
        let Some(view) = checkpoint.get(&key) else { return Ok(None) };
        if view.dtype != dtype || view.shape != shape {
            let (kind, found) = (view.dtype, view.shape);
            let reason = format!("it is {kind} {found:?} where its weight in 8 bits needs {dtype} {shape:?}");
            return Err(Error::tensor(view.file, key, reason));
        }
        Ok(Some((key, view.bytes)))
    };
    let Some((scale_key, scales)) = companion(SCALE, StoredDtype::F32, &[rows])? else {
        let reason = format!(
            "its type is I8 and there is no {key}.{SCALE}: only weights that lowrank quantized can be"
        );
        return Err(Error::tensor(view.file, key, reason));
    };
    let mut used = vec![scale_key];
    let kept = checkpoint.get(&format!("{key}.{OUTLIER_COLUMNS}")).map_or(0, |view| view.bytes.len() / 4);
    let columns = companion(OUTLIER_COLUMNS, StoredDtype::I32, &[kept])?;
    let outliers = companion(OUTLIERS, StoredDtype::BF16, &[rows, kept])?;
    used.extend(columns.iter().chain(&outliers).map(|(key, _)| key.clone()));
    let bytes = |part: Option<(String, &[u8])>| part.map_or_else(Vec::new, |(_, bytes)| bytes.to_vec());
    let values = Tensor::from_mapped(shape, DType::I8, view.mapping, view.range.clone());
    let made = Quantized::new(
        values,
        words(scales).map(f32::from_le_bytes).collect(),
        words(&bytes(columns)).map(u32::from_le_bytes).collect(),
        words(&bytes(outliers)).map(bf16::from_le_bytes).collect(),
    );
    let reason =
        "its scales are not finite, or its outlier columns are not some of its columns in their order";
    Ok((made.ok_or_else(|| Error::tensor(view.file, key, reason))?, used))
}

/// Numbers of `N` bytes.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}
