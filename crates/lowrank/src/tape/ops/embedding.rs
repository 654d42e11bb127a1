//! Sums of looked-up rows.

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::{Compute, Rows, RowsMut, embedding};

use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Layout, Leaf, Named, Parameter, Tape, Var};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// A table, and the row of it that each token takes.
pub struct Lookup<'a> {
    /// The table: `[entries, width]`.
    pub table: &'a Parameter,
    /// Each token's row.
    pub ids: &'a [u32],
    /// The id whose row gets no gradient.
    pub padding_id: Option<u32>,
}

/// Looks every token up in each of the tables and adds what is found.
///
/// # Shapes
/// The result: `[tokens, width]`.
///
/// # Errors
/// If an id lies outside its table, or tables and ids differ in size.
pub fn embedding(tape: &mut Tape, lookups: &[Lookup<'_>], layout: &Arc<Layout>) -> Result<Var> {
    let Some(first) = lookups.first() else {
        return Err(Error::Usage("an embedding needs a table".into()));
    };
    let (rows, width, compute) = (layout.rows(), first.table.shape().width(), tape.compute());
    for Lookup { table, ids, .. } in lookups {
        let (entries, name) = (table.shape().rows(), table.name());
        if ids.len() != rows || table.shape().width() != width {
            return Err(Error::Usage(format!("{name}: {} ids for {rows} rows of {width}", ids.len())));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= entries) {
            return Err(Error::Usage(format!("{name}: id {id} is outside the table of {entries} entries")));
        }
    }
    let mut y = Tensor::uninit([rows, width], DType::from(compute));
    let mut trained = Vec::new();
    for (range, adapter) in layout.segments() {
        let mut tables = Vec::new();
        for Lookup { table, ids, padding_id } in lookups {
            let (leaf, ids) = (table.active(adapter)?, &ids[range.clone()]);
            if leaf.is_trainable() && tape.is_recording() {
                let (leaf, ids, rows) = (leaf.clone(), ids.to_vec(), range.clone());
                trained.push(Trained { leaf, ids, rows, padding_id: *padding_id });
            }
            tables.push(embedding::Lookup { table: leaf.value().source(), ids });
        }
        with_rows!(compute, T => {
            let out = &mut y.make_mut::<T>()[range.start * width..range.end * width];
            embedding::gather_sum(&tables, RowsMut::dense(out, range.len(), width));
        });
    }
    let backward =
        (!trained.is_empty()).then(|| Box::new(EmbeddingBackward { trained, compute }) as Box<dyn Backward>);
    tape.finish(|| Named::Module(first.table.name().to_owned()), y, layout, backward)
}

struct Trained {
    leaf: Leaf,
    ids: Vec<u32>,
    rows: Range<usize>,
    padding_id: Option<u32>,
}

struct EmbeddingBackward {
    trained: Vec<Trained>,
    compute: Compute,
}

impl Backward for EmbeddingBackward {
    fn backward(self: Box<Self>, dy: Tensor, _: &mut Activations, gradients: &mut Gradients) {
        let (rows, width) = dy.rows_and_width();
        for Trained { leaf, ids, rows: range, padding_id } in &self.trained {
            let gradient = gradients.accumulator(leaf);
            let mut start = range.start;
            for ids in ids.split_inclusive(|id| Some(*id) == *padding_id) {
                let kept =
                    ids.len() - usize::from(ids.last().copied() == *padding_id && padding_id.is_some());
                with_rows!(self.compute, T => {
                    let dy = Rows::dense(dy.as_slice::<T>(), rows, width).slice(start, start + kept);
                    embedding::scatter_add(&ids[..kept], dy, gradient);
                });
                start += ids.len();
            }
        }
    }
}
