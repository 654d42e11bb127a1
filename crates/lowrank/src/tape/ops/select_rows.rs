//! The choice of rows, and that of the first of each sequence.

use std::sync::Arc;

use lowrank_kernels::row_ops::{gather_rows, scatter_rows};
use lowrank_kernels::{Compute, Rows, RowsMut};

use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Layout, Named, Tape, Var, VarId};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};

/// Takes the rows `rows` of `x`, each any number of times, as the rows of `layout`; as f32 if `as_f32`.
///
/// # Shapes
/// `x`: `[tokens, width]`. The result: `[rows, width]`.
///
/// # Errors
/// If a row is none of `x`, or `layout` has another number of rows.
pub fn select_rows(
    tape: &mut Tape,
    x: &Var,
    rows: &[usize],
    layout: &Arc<Layout>,
    as_f32: bool,
) -> Result<Var> {
    let (tokens, width) = x.value().rows_and_width();
    if rows.len() != layout.rows() {
        return Err(Error::Usage(format!("{} rows are selected for {}", rows.len(), layout.rows())));
    }
    if let Some(row) = rows.iter().find(|row| **row >= tokens) {
        return Err(Error::Usage(format!("row {row} is selected of {tokens}")));
    }
    let mut y = Tensor::uninit([rows.len(), width], x.value().dtype());
    with_rows!(x.compute(), T => gather_rows(
        Rows::dense(x.value().as_slice::<T>(), tokens, width),
        rows,
        RowsMut::dense(y.make_mut::<T>(), rows.len(), width),
    ));
    let backward = x.id().map(|input| {
        let (shape, compute) = (x.value().shape(), x.compute());
        Box::new(SelectRowsBackward { input, rows: rows.to_vec(), shape, compute }) as Box<dyn Backward>
    });
    let y = if as_f32 { y.to_dtype(DType::F32) } else { y };
    tape.finish(|| Named::After("the selected rows".into()), y, layout, backward)
}

/// Takes the first token of each sequence, `[CLS]` or `<s>`, as f32: a head has few rows, and what follows decides the
/// accuracy of every gradient.
///
/// # Shapes
/// `x`: `[tokens, width]`. The result: `[sequences, width]`, one row for each sequence.
///
/// # Errors
/// If a sequence is empty.
pub fn first_token(tape: &mut Tape, x: &Var) -> Result<Var> {
    let layout = x.layout();
    if layout.offsets().windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Usage("a sequence without tokens has no first token".into()));
    }
    select_rows(tape, x, &layout.offsets()[..layout.sequences()], &layout.one_row_each(), true)
}

struct SelectRowsBackward {
    input: VarId,
    rows: Vec<usize>,
    shape: Shape,
    compute: Compute,
}

impl Backward for SelectRowsBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let (tokens, width) = (self.shape.rows(), self.shape.width());
        // The few rows are rounded, not the many that are zero.
        let (dy, mut dx) =
            (dy.to_dtype(DType::from(self.compute)), Tensor::uninit(self.shape, self.compute.into()));
        with_rows!(self.compute, T => scatter_rows(
            Rows::dense(dy.as_slice::<T>(), self.rows.len(), width),
            &self.rows,
            RowsMut::dense(dx.make_mut::<T>(), tokens, width),
        ));
        activations.add(self.input, dx);
    }
}
