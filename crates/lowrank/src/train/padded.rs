//! Padded tensors, as Python programs hold them, into ragged batches.

use std::path::Path;

use crate::data::{Batch, Labels};
use crate::hub::{Checkpoint, StoredDtype, TensorView};
use crate::models::ModelInfo;
use crate::{Error, Result};

/// Reads `input_ids`, `attention_mask`, `token_type_ids` and `labels` of a safetensors file as one ragged batch.
///
/// # Shapes
/// All `[B, T]` but `labels`, which is `[B]` or `[B, 1]`; int64 or float32. Absent masks are all ones, absent
/// segments all zeros.
///
/// # Errors
/// If `input_ids` is missing, a tensor has another shape or type, a value is out of range, or a row has no token.
pub fn read_batch(path: &Path, info: &ModelInfo) -> Result<Batch> {
    let file = Checkpoint::open_file(path)?;
    for name in file.names() {
        if !["input_ids", "attention_mask", "token_type_ids", "labels"].contains(&name) {
            return Err(Error::tensor(path, name, format!("{} does not read it", info.architecture)));
        }
    }
    let ids = integers(path, &file, "input_ids")?
        .ok_or_else(|| Error::tensor(path, "input_ids", "it is missing"))?;
    let [rows, columns] = ids.shape[..] else {
        return Err(Error::tensor(path, "input_ids", format!("its shape is {:?}, not [B, T]", ids.shape)));
    };
    if rows == 0 || columns == 0 {
        return Err(Error::tensor(
            path,
            "input_ids",
            format!("its shape is {:?}: it holds no token", ids.shape),
        ));
    }
    let mask = matching(path, &file, "attention_mask", &ids.shape)?;
    let types = matching(path, &file, "token_type_ids", &ids.shape)?;
    let mut batch = Batch {
        ids: Vec::new(),
        type_ids: Vec::new(),
        position_ids: Vec::new(),
        offsets: vec![0],
        labels: labels(path, &file, rows, info.num_labels)?,
        examples: (0..rows as u32).collect(),
    };
    for row in 0..rows {
        if mask.as_ref().is_some_and(|mask| mask[row * columns] == 0) {
            let reason =
                format!("it hides the first token of row {row}, which the head reads; pad on the right");
            return Err(Error::tensor(path, "attention_mask", reason));
        }
        let mut skipped = 0;
        for column in 0..columns {
            let place = row * columns + column;
            let id = token(path, "input_ids", ids.values[place], info.vocab_size)?;
            if mask.as_ref().is_some_and(|mask| mask[place] == 0) {
                skipped += u32::from(info.positions_skip_padding && id == info.pad_token_id);
                continue;
            }
            let kind = types.as_ref().map_or(0, |types| types[place]);
            batch.ids.push(id);
            batch.type_ids.push(token(path, "token_type_ids", kind, info.type_vocab_size)?);
            batch.position_ids.push(column as u32 - skipped);
        }
        let length = batch.ids.len() - batch.offsets[row];
        if length == 0 {
            return Err(Error::tensor(path, "attention_mask", format!("row {row} shows no token")));
        }
        batch.offsets.push(batch.ids.len());
    }
    let last = batch.position_ids.iter().max().map_or(0, |last| *last as usize);
    if last >= info.max_length {
        let reason = format!("position {last} is beyond the model's {} positions", info.max_length);
        return Err(Error::tensor(path, "input_ids", reason));
    }
    Ok(batch)
}

struct Integers {
    shape: Vec<usize>,
    values: Vec<i64>,
}

fn integers(path: &Path, file: &Checkpoint, name: &str) -> Result<Option<Integers>> {
    let Some(view) = file.get(name) else { return Ok(None) };
    let values = match view.dtype {
        StoredDtype::I64 => numbers(&view, i64::from_le_bytes),
        StoredDtype::F32 => numbers(&view, |bytes| f32::from_le_bytes(bytes) as i64),
        other => return Err(wrong_type(path, name, other)),
    };
    Ok(Some(Integers { shape: view.shape.to_vec(), values }))
}

fn matching(path: &Path, file: &Checkpoint, name: &str, shape: &[usize]) -> Result<Option<Vec<i64>>> {
    match integers(path, file, name)? {
        Some(found) if found.shape != shape => {
            let reason = format!("its shape is {:?} where input_ids has {shape:?}", found.shape);
            Err(Error::tensor(path, name, reason))
        }
        found => Ok(found.map(|found| found.values)),
    }
}

fn token(path: &Path, name: &str, id: i64, entries: usize) -> Result<u32> {
    usize::try_from(id).ok().filter(|id| *id < entries).map(|id| id as u32).ok_or_else(|| {
        Error::tensor(path, name, format!("{id} is not in the model's table of {entries} entries"))
    })
}

fn labels(path: &Path, file: &Checkpoint, rows: usize, num_labels: usize) -> Result<Labels> {
    let Some(view) = file.get("labels") else { return Ok(Labels::None) };
    if view.shape.iter().product::<usize>() != rows {
        let reason = format!("its shape is {:?}, not one label for each of {rows} rows", view.shape);
        return Err(Error::tensor(path, "labels", reason));
    }
    if num_labels == 1 {
        return Ok(Labels::Scores(match view.dtype {
            StoredDtype::F32 => numbers(&view, f32::from_le_bytes),
            StoredDtype::I64 => numbers(&view, |bytes| i64::from_le_bytes(bytes) as f32),
            other => return Err(wrong_type(path, "labels", other)),
        }));
    }
    let classes = integers(path, file, "labels")?.map(|found| found.values).unwrap_or_default();
    match classes.iter().find(|class| !(0..num_labels as i64).contains(*class)) {
        Some(class) => {
            Err(Error::tensor(path, "labels", format!("{class} is not one of {num_labels} classes")))
        }
        None => Ok(Labels::Classes(classes)),
    }
}

fn numbers<const N: usize, T>(view: &TensorView<'_>, read: impl Fn([u8; N]) -> T) -> Vec<T> {
    view.bytes.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
}

fn wrong_type(path: &Path, name: &str, found: StoredDtype) -> Error {
    Error::tensor(path, name, format!("its type is {found:?}; int64 and float32 can be read"))
}
