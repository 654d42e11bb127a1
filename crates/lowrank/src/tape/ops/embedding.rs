//! Sums of looked-up rows, with their adapters.
//!
//! An adapter's part of a table, `Aᵀ·Bᵀ`, is never formed: each token takes its column of `A`.

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::elementwise::add_assign;
use lowrank_kernels::{Compute, Element, Rows, RowsMut, Source, embedding, low_rank, magnitude};

use super::linear::add_magnitude_gradient;
use super::with_rows;
use crate::tape::{
    Activations, Backward, Gradients, Layout, Leaf, Lora, Named, Parameter, Tape, TokenRows, Var,
};
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

/// Looks every token up in each of the tables and adds what is found: `W[id]`, and `s·A[:, id]ᵀ·Bᵀ` of the adapter. Where
/// that has a magnitude, the sum of both is multiplied by `m/‖W + s·Aᵀ·Bᵀ‖`, a number for each column. Where an adapter has
/// a row of its own for an id, this is in the place of the table's.
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
    let (mut tables, mut adapted, mut rows_of_adapters) = (Vec::new(), Vec::new(), Vec::new());
    for (range, adapter) in layout.segments() {
        let (mut sources, mut own_rows) = (Vec::new(), Vec::new());
        for Lookup { table, tied, lora, ids, padding_id } in lookups {
            let (leaf, ids) = (table.active_or_tied(adapter, *tied)?, &ids[range.clone()]);
            let taken = || Taken { ids: ids.to_vec(), rows: range.clone(), padding_id: *padding_id };
            let own = lora.iter().filter(|lora| Some(lora.adapter) == adapter);
            let own: Vec<Adapted> = own.map(|lora| Adapted::new(lora, leaf, taken())).collect();
            if own.iter().all(|adapted| adapted.decomposed.is_none()) {
                if leaf.is_trainable() && tape.is_recording() {
                    tables.push((leaf.clone(), taken()));
                }
                sources.push((leaf, ids));
                own_rows.push(table.active_rows(adapter, *tied).map(|rows| Own::new(rows, taken())));
            }
            adapted.extend(own);
        }
        let sources: Vec<_> = sources
            .iter()
            .map(|(leaf, ids)| embedding::Lookup { table: leaf.value().source(), ids })
            .collect();
        with_rows!(compute, T => {
            let out = &mut y.make_mut::<T>()[range.start * width..range.end * width];
            embedding::gather_sum(&sources, RowsMut::dense(out, range.len(), width));
            write_own_rows(&sources, &own_rows, out, width);
        });
        rows_of_adapters.extend(own_rows.into_iter().flatten());
    }
    with_rows!(compute, T => {
        adapted.iter_mut().for_each(|part| part.add_to::<T>(tape.is_recording(), &mut y));
    });
    adapted.retain(|part| tape.is_recording() && part.is_trainable());
    rows_of_adapters.retain(|own| tape.is_recording() && own.rows.values.is_trainable());
    let trained = !tables.is_empty() || !adapted.is_empty() || !rows_of_adapters.is_empty();
    let backward = trained.then(|| {
        Box::new(EmbeddingBackward { tables, adapted, own: rows_of_adapters, compute }) as Box<dyn Backward>
    });
    tape.finish(|| Named::Module(first.table.name().to_owned()), y, layout, backward)
}

/// A run of rows and what they looked up.
struct Taken {
    ids: Vec<u32>,
    rows: Range<usize>,
    padding_id: Option<u32>,
}

impl Taken {
    /// Adds the gradient of a table, of which `dy` is that of the rows.
    fn scatter<T: Element>(&self, dy: Rows<'_, T>, gradient: &mut [f32]) {
        let mut start = 0;
        for ids in self.ids.split_inclusive(|id| Some(*id) == self.padding_id) {
            let padding = self.padding_id.is_some() && ids.last().copied() == self.padding_id;
            let kept = ids.len() - usize::from(padding);
            embedding::scatter_add(&ids[..kept], dy.slice(start, start + kept), gradient);
            start += ids.len();
        }
    }
}

/// The rows of a run for which an adapter has values of its own.
struct Own {
    rows: TokenRows,
    taken: Taken,
    /// Where they are in the run, and which of the adapter's.
    places: Vec<(usize, u32)>,
}

impl Own {
    fn new(rows: &TokenRows, taken: Taken) -> Self {
        let places = taken.ids.iter().enumerate().filter_map(|(at, id)| Some((at, rows.place(*id)?)));
        Self { rows: rows.clone(), places: places.collect(), taken }
    }

    /// What is in the place of the row `at` of the run.
    fn at(&self, at: usize) -> Option<(&TokenRows, u32)> {
        let found = self.places.binary_search_by_key(&at, |(place, _)| *place).ok()?;
        Some((&self.rows, self.places[found].1))
    }

    fn backward<T: Element>(&self, dy: Rows<'_, T>, gradients: &mut Gradients) {
        let Taken { ids, rows, padding_id } = &self.taken;
        let gradient = gradients.accumulator(&self.rows.values);
        for (at, place) in self.places.iter().filter(|(at, _)| Some(ids[*at]) != *padding_id) {
            let at = rows.start + at;
            embedding::scatter_add(&[*place], dy.slice(at, at + 1), gradient);
        }
    }
}

/// Sums once more what is found where one of the tables has a row of an adapter's own; `own` is of each of the tables.
fn write_own_rows<T: Element>(
    tables: &[embedding::Lookup<'_>],
    own: &[Option<Own>],
    out: &mut [T],
    width: usize,
) {
    for (at, _) in own.iter().flatten().flat_map(|own| &own.places) {
        let found: Vec<(Source<'_>, u32)> = tables
            .iter()
            .zip(own)
            .map(|(lookup, own)| match own.as_ref().and_then(|own| own.at(*at)) {
                Some((rows, place)) => (rows.values.value().source(), place),
                None => (lookup.table, lookup.ids[*at]),
            })
            .collect();
        let ids: Vec<[u32; 1]> = found.iter().map(|(_, id)| [*id]).collect();
        let lookups: Vec<_> = found
            .iter()
            .zip(&ids)
            .map(|((table, _), ids)| embedding::Lookup { table: *table, ids })
            .collect();
        embedding::gather_sum(&lookups, RowsMut::dense(&mut out[at * width..(at + 1) * width], 1, width));
    }
}

/// An adapter's part of a run of rows.
struct Adapted {
    lora: Lora,
    taken: Taken,
    /// `A[:, id]` of each row: `[rows, r]`.
    columns: Tensor,
    /// Where the adapter has a magnitude, the table's part is this one's, too.
    decomposed: Option<Decomposed>,
}

/// A table of which an adapter sets the magnitude.
struct Decomposed {
    table: Leaf,
    norms: Arc<[f32]>,
    /// The magnitude over the norms.
    factors: Vec<f32>,
    /// The rows before they are scaled, where the magnitude is trained.
    kept: Option<Tensor>,
}

impl Adapted {
    fn new(lora: &Lora, table: &Leaf, taken: Taken) -> Self {
        let mut columns = Tensor::uninit([taken.ids.len(), lora.rank()], DType::F32);
        let u = RowsMut::dense(columns.make_mut::<f32>(), taken.ids.len(), lora.rank());
        embedding::gather_columns(&taken.ids, lora.a.value().as_slice::<f32>(), u);
        let decomposed = lora.magnitude_and_norms(table, Lora::table_norms).map(|(magnitude, norms)| {
            let factors = magnitude.factors(&norms);
            Decomposed { table: table.clone(), norms, factors, kept: None }
        });
        Self { lora: lora.clone(), taken, columns, decomposed }
    }

    fn is_trainable(&self) -> bool {
        let table = self.decomposed.as_ref().is_some_and(|decomposed| decomposed.table.is_trainable());
        table || self.lora.embedding_leaves().any(|(_, leaf)| leaf.is_trainable())
    }

    fn columns(&self) -> Rows<'_, f32> {
        Rows::dense(self.columns.as_slice::<f32>(), self.taken.ids.len(), self.lora.rank())
    }

    fn add_to<T: Element + Stored>(&mut self, recording: bool, y: &mut Tensor) {
        let (rows, width) = (self.taken.rows.clone(), y.shape().width());
        let y = &mut y.make_mut::<T>()[rows.start * width..rows.end * width];
        let product = |columns: Rows<'_, f32>, lora: &Lora, y: &mut [T]| {
            let (b, scaling) = (lora.b.value().as_slice::<f32>(), lora.scaling);
            low_rank::up(columns, b, scaling, RowsMut::dense(y, rows.len(), width));
        };
        let Some(mut decomposed) = self.decomposed.take() else {
            return product(self.columns(), &self.lora, y);
        };
        let mut sum = Tensor::uninit([rows.len(), width], T::DTYPE);
        let source = embedding::Lookup { table: decomposed.table.value().source(), ids: &self.taken.ids };
        embedding::gather_sum(&[source], RowsMut::dense(sum.make_mut::<T>(), rows.len(), width));
        product(self.columns(), &self.lora, sum.make_mut::<T>());
        let magnitude = self.lora.magnitude.as_ref();
        if recording && magnitude.is_some_and(|magnitude| magnitude.vector.is_trainable()) {
            decomposed.kept = Some(sum.clone());
        }
        let scaled = RowsMut::dense(sum.make_mut::<T>(), rows.len(), width);
        magnitude::scale_columns(&decomposed.factors, None, scaled);
        add_assign(y, sum.as_slice::<T>());
        self.decomposed = Some(decomposed);
    }

    fn backward<T: Element + Stored>(&self, dy: &Tensor, gradients: &mut Gradients) {
        let (all, width) = dy.rows_and_width();
        let Taken { ids, rows, padding_id } = &self.taken;
        let dy = Rows::dense(dy.as_slice::<T>(), all, width).slice(rows.start, rows.end);
        let Some(decomposed) = &self.decomposed else {
            return self.pair_backward(dy, ids, *padding_id, gradients);
        };
        if let Some((kept, magnitude)) = decomposed.kept.as_ref().zip(self.lora.magnitude.as_ref()) {
            let kept = Rows::dense(kept.as_slice::<T>(), rows.len(), width);
            add_magnitude_gradient(dy, kept, &decomposed.norms, &magnitude.vector, gradients);
        }
        let mut scaled = Tensor::from_slice([rows.len(), width], &dy.data()[..rows.len() * width]);
        let into = RowsMut::dense(scaled.make_mut::<T>(), rows.len(), width);
        magnitude::scale_columns(&decomposed.factors, None, into);
        let dy = Rows::dense(scaled.as_slice::<T>(), rows.len(), width);
        if decomposed.table.is_trainable() {
            self.taken.scatter(dy, gradients.accumulator(&decomposed.table));
        }
        self.pair_backward(dy, ids, *padding_id, gradients);
    }

    fn pair_backward<T: Element>(
        &self,
        dy: Rows<'_, T>,
        ids: &[u32],
        padding_id: Option<u32>,
        gradients: &mut Gradients,
    ) {
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
            embedding::scatter_add_columns(ids, du, padding_id, gradients.accumulator(a));
        }
    }
}

struct EmbeddingBackward {
    tables: Vec<(Leaf, Taken)>,
    adapted: Vec<Adapted>,
    own: Vec<Own>,
    compute: Compute,
}

impl Backward for EmbeddingBackward {
    fn backward(self: Box<Self>, dy: Tensor, _: &mut Activations, gradients: &mut Gradients) {
        let (rows, width) = dy.rows_and_width();
        with_rows!(self.compute, T => {
            for (leaf, taken) in &self.tables {
                let dy = Rows::dense(dy.as_slice::<T>(), rows, width);
                taken.scatter(dy.slice(taken.rows.start, taken.rows.end), gradients.accumulator(leaf));
            }
            let all = Rows::dense(dy.as_slice::<T>(), rows, width);
            self.own.iter().for_each(|own| own.backward(all, gradients));
            self.adapted.iter().for_each(|part| part.backward::<T>(&dy, gradients));
        });
    }
}
