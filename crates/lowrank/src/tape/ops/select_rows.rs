//! The first row of each sequence.

use lowrank_kernels::row_ops::{gather_rows, scatter_rows};
use lowrank_kernels::{Compute, Rows, RowsMut};

use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Named, Tape, Var, VarId};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};

/// Takes the first token of each sequence, `[CLS]` or `<s>`, as f32: a head has few rows, and what follows decides the
/// accuracy of every gradient.
///
/// # Shapes
/// `x`: `[tokens, width]`. The result: `[sequences, width]`, one row for each sequence.
///
/// # Errors
/// If a sequence is empty.
pub fn first_token(tape: &mut Tape, x: &Var) -> Result<Var> {
    let (rows, width) = x.value().rows_and_width();
    let layout = x.layout();
    if layout.offsets().windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Usage("a sequence without tokens has no first token".into()));
    }
    let indices: Vec<usize> = layout.offsets()[..layout.sequences()].to_vec();
    let mut y = Tensor::uninit([indices.len(), width], x.value().dtype());
    with_rows!(x.compute(), T => gather_rows(
        Rows::dense(x.value().as_slice::<T>(), rows, width),
        &indices,
        RowsMut::dense(y.make_mut::<T>(), indices.len(), width),
    ));
    let backward = x.id().map(|input| {
        let (shape, compute) = (x.value().shape(), x.compute());
        Box::new(FirstTokenBackward { input, indices, shape, compute }) as Box<dyn Backward>
    });
    tape.finish(
        || Named::After("the first tokens".into()),
        y.to_dtype(DType::F32),
        &layout.one_row_each(),
        backward,
    )
}

struct FirstTokenBackward {
    input: VarId,
    indices: Vec<usize>,
    shape: Shape,
    compute: Compute,
}

impl Backward for FirstTokenBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let (rows, width) = (self.shape.rows(), self.shape.width());
        // The few rows are rounded, not the many that are zero.
        let (dy, mut dx) =
            (dy.to_dtype(DType::from(self.compute)), Tensor::uninit(self.shape, self.compute.into()));
        with_rows!(self.compute, T => scatter_rows(
            Rows::dense(dy.as_slice::<T>(), self.indices.len(), width),
            &self.indices,
            RowsMut::dense(dx.make_mut::<T>(), rows, width),
        ));
        activations.add(self.input, dx);
    }
}
