//! Tensors of a file as numbers.

use std::path::Path;

use crate::hub::{Checkpoint, StoredDtype, TensorView};
use crate::{Error, Result};

pub(super) struct Integers {
    pub shape: Vec<usize>,
    pub values: Vec<i64>,
}

impl Integers {
    /// Its rows and columns.
    pub fn matrix(&self, path: &Path, name: &str) -> Result<(usize, usize)> {
        let reason = |what: &str| format!("its shape is {:?}{what}", self.shape);
        match self.shape[..] {
            [rows, columns] if rows > 0 && columns > 0 => Ok((rows, columns)),
            [_, _] => Err(Error::tensor(path, name, reason(": it holds no token"))),
            _ => Err(Error::tensor(path, name, reason(", not [B, T]"))),
        }
    }

    /// Checks that there is one for each row.
    pub fn one_each(&self, path: &Path, name: &str, rows: usize) -> Result<()> {
        check_one_each(path, name, &self.shape, rows)
    }
}

pub(super) fn check_one_each(path: &Path, name: &str, shape: &[usize], rows: usize) -> Result<()> {
    if shape.iter().product::<usize>() == rows {
        return Ok(());
    }
    let reason = format!("its shape is {shape:?}, not one label for each of {rows} rows");
    Err(Error::tensor(path, name, reason))
}

pub(super) fn integers(path: &Path, file: &Checkpoint, name: &str) -> Result<Option<Integers>> {
    let Some(view) = file.get(name) else { return Ok(None) };
    let values = match view.dtype {
        StoredDtype::I64 => numbers(&view, i64::from_le_bytes),
        StoredDtype::F32 => numbers(&view, |bytes| f32::from_le_bytes(bytes) as i64),
        other => return Err(wrong_type(path, name, other)),
    };
    Ok(Some(Integers { shape: view.shape.to_vec(), values }))
}

pub(super) fn numbers_f32(
    path: &Path,
    file: &Checkpoint,
    name: &str,
) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
    let Some(view) = file.get(name) else { return Ok(None) };
    let values = match view.dtype {
        StoredDtype::F32 => numbers(&view, f32::from_le_bytes),
        StoredDtype::I64 => numbers(&view, |bytes| i64::from_le_bytes(bytes) as f32),
        other => return Err(wrong_type(path, name, other)),
    };
    Ok(Some((view.shape.to_vec(), values)))
}

/// The values of a tensor that must have the shape of `input_ids`.
pub(super) fn matching(
    path: &Path,
    file: &Checkpoint,
    name: &str,
    shape: &[usize],
) -> Result<Option<Vec<i64>>> {
    match integers(path, file, name)? {
        Some(found) if found.shape != shape => {
            let reason = format!("its shape is {:?} where input_ids has {shape:?}", found.shape);
            Err(Error::tensor(path, name, reason))
        }
        found => Ok(found.map(|found| found.values)),
    }
}

pub(super) fn token(path: &Path, name: &str, id: i64, entries: usize) -> Result<u32> {
    usize::try_from(id).ok().filter(|id| *id < entries).map(|id| id as u32).ok_or_else(|| {
        Error::tensor(path, name, format!("{id} is not in the model's table of {entries} entries"))
    })
}

fn numbers<const N: usize, T>(view: &TensorView<'_>, read: impl Fn([u8; N]) -> T) -> Vec<T> {
    view.bytes.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
}

fn wrong_type(path: &Path, name: &str, found: StoredDtype) -> Error {
    Error::tensor(path, name, format!("its type is {found:?}; int64 and float32 can be read"))
}
