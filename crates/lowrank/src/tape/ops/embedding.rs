//! Sums of looked-up rows, with their adapters.
//!
//! An adapter's part of a table, `Aᵀ·Bᵀ`, is never formed: each token takes its column of `A`.

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::{Compute, Element, Rows, RowsMut, embedding, low_rank};

use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Layout, Leaf, Lora, Named, Parameter, Tape, Var};
use crate::tensor::{DType, Stored, Tensor};
use crate::{Error, Result};

/// A table, and the row of it that each token takes.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// The table: `[entries, width]`.
    pub table: &'a Parameter,
    /// The parameter that the table is another name of.
    pub tied: Option<&'a Parameter>,
    /// The adapters attached to the table, of which each sequence uses its own.
    pub lora: &'a [Lora],
    /// Each token's row.
    pub ids: &'a [u32],
    /// The id whose row, and whose column of an adapter's `A`, gets no gradient.
    pub padding_id: Option<u32>,
}

impl<'a> Lookup<'a> {
    /// Rows of a table without adapters, all of which are trained if it is.
    pub fn of(table: &'a Parameter, ids: &'a [u32]) -> Self {
        Self { table, tied: None, lora: &[], ids, padding_id: None }
    }
}

/// Looks every token up in each of the tables and adds what is found: `W[id]`, and `s·A[:, id]ᵀ·Bᵀ` of the adapter.
///
/// # Shapes
/// The result: `[tokens, width]`.
///
/// # Errors
/// If an id lies outside its table, or tables and ids differ in size.
///
/// # Source
/// PEFT's `lora.Embedding`: no dropout, and the padding id as in PyTorch's `embedding`.
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
    let (mut tables, mut adapted) = (Vec::new(), Vec::new());
    for (range, adapter) in layout.segments() {
        let mut sources = Vec::new();
        for Lookup { table, tied, lora, ids, padding_id } in lookups {
            let (leaf, ids) = (table.active_or_tied(adapter, *tied)?, &ids[range.clone()]);
            let taken = || Taken { ids: ids.to_vec(), rows: range.clone(), padding_id: *padding_id };
            if leaf.is_trainable() && tape.is_recording() {
                tables.push((leaf.clone(), taken()));
            }
            let own = lora.iter().filter(|lora| Some(lora.adapter) == adapter);
            adapted.extend(own.map(|lora| Adapted::new(lora, taken())));
            sources.push((leaf, ids));
        }
        let sources: Vec<_> = sources
            .iter()
            .map(|(leaf, ids)| embedding::Lookup { table: leaf.value().source(), ids })
            .collect();
        with_rows!(compute, T => {
            let out = &mut y.make_mut::<T>()[range.start * width..range.end * width];
            embedding::gather_sum(&sources, RowsMut::dense(out, range.len(), width));
        });
    }
    with_rows!(compute, T => adapted.iter().for_each(|part| part.add_to::<T>(&mut y)));
    adapted.retain(|part| tape.is_recording() && part.is_trainable());
    let trained = !tables.is_empty() || !adapted.is_empty();
    let backward =
        trained.then(|| Box::new(EmbeddingBackward { tables, adapted, compute }) as Box<dyn Backward>);
    tape.finish(|| Named::Module(first.table.name().to_owned()), y, layout, backward)
}

/// A run of rows and what they looked up.
struct Taken {
    ids: Vec<u32>,
    rows: Range<usize>,
    padding_id: Option<u32>,
}

/// An adapter's part of a run of rows.
struct Adapted {
    lora: Lora,
    taken: Taken,
    /// `A[:, id]` of each row: `[rows, r]`.
    columns: Tensor,
}

impl Adapted {
    fn new(lora: &Lora, taken: Taken) -> Self {
        let mut columns = Tensor::uninit([taken.ids.len(), lora.rank()], DType::F32);
        let u = RowsMut::dense(columns.make_mut::<f32>(), taken.ids.len(), lora.rank());
        embedding::gather_columns(&taken.ids, lora.a.value().as_slice::<f32>(), u);
        Self { lora: lora.clone(), taken, columns }
    }

    fn is_trainable(&self) -> bool {
        self.lora.a.is_trainable() || self.lora.b.is_trainable()
    }

    fn columns(&self) -> Rows<'_, f32> {
        Rows::dense(self.columns.as_slice::<f32>(), self.taken.ids.len(), self.lora.rank())
    }

    fn add_to<T: Element + Stored>(&self, y: &mut Tensor) {
        let (rows, width) = (&self.taken.rows, y.shape().width());
        let out = &mut y.make_mut::<T>()[rows.start * width..rows.end * width];
        let (b, scaling) = (self.lora.b.value().as_slice::<f32>(), self.lora.scaling);
        low_rank::up(self.columns(), b, scaling, RowsMut::dense(out, rows.len(), width));
    }

    fn backward<T: Element + Stored>(&self, dy: &Tensor, gradients: &mut Gradients) {
        let (all, width) = dy.rows_and_width();
        let Taken { ids, rows, padding_id } = &self.taken;
        let dy = Rows::dense(dy.as_slice::<T>(), all, width).slice(rows.start, rows.end);
        let Lora { a, b, scaling, .. } = &self.lora;
        if b.is_trainable() {
            low_rank::outer_transposed(dy, self.columns(), *scaling, gradients.accumulator(b));
        }
        if a.is_trainable() {
            let rank = self.lora.rank();
            let mut du = Tensor::uninit([ids.len(), rank], DType::F32);
            let b = b.value().as_slice::<f32>();
            low_rank::up_backward(dy, b, *scaling, RowsMut::dense(du.make_mut::<f32>(), ids.len(), rank));
            let du = Rows::dense(du.as_slice::<f32>(), ids.len(), rank);
            embedding::scatter_add_columns(ids, du, *padding_id, gradients.accumulator(a));
        }
    }
}

struct EmbeddingBackward {
    tables: Vec<(Leaf, Taken)>,
    adapted: Vec<Adapted>,
    compute: Compute,
}

impl Backward for EmbeddingBackward {
    fn backward(self: Box<Self>, dy: Tensor, _: &mut Activations, gradients: &mut Gradients) {
        let (rows, width) = dy.rows_and_width();
        for (leaf, Taken { ids, rows: range, padding_id }) in &self.tables {
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
        with_rows!(self.compute, T => self.adapted.iter().for_each(|part| part.backward::<T>(&dy, gradients)));
    }
}
