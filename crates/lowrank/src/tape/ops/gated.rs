//! Gated activations.

use lowrank_kernels::activation::Activation;
use lowrank_kernels::{Compute, Rows, RowsMut, gated as kernel};

use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Named, Tape, Var, VarId};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// `activation(gate) · up` of rows that hold the gate in the first half and `up` in the second.
///
/// # Shapes
/// `x`: `[tokens, 2·I]`. The result: `[tokens, I]`.
///
/// # Errors
/// If the rows have no halves.
///
/// # Source
/// Shazeer, GLU Variants Improve Transformer (arXiv 2002.05202).
pub fn gated(tape: &mut Tape, x: &Var, kind: Activation) -> Result<Var> {
    let (rows, width) = x.value().rows_and_width();
    if !width.is_multiple_of(2) {
        return Err(Error::Usage(format!(
            "a gate and what it lets through are halves of a row, not of {width}"
        )));
    }
    let (compute, inner) = (x.compute(), width / 2);
    let mut y = Tensor::uninit([rows, inner], x.value().dtype());
    with_rows!(compute, T => kernel::forward(
        kind,
        Rows::dense(x.value().as_slice::<T>(), rows, width),
        RowsMut::dense(y.make_mut::<T>(), rows, inner),
    ));
    let backward = x.id().map(|input| {
        Box::new(GatedBackward { input, x: x.value().clone(), kind, compute }) as Box<dyn Backward>
    });
    tape.finish(|| Named::After(format!("the output of gated {kind:?}")), y, x.layout(), backward)
}

struct GatedBackward {
    input: VarId,
    x: Tensor,
    kind: Activation,
    compute: Compute,
}

impl Backward for GatedBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let (rows, width) = self.x.rows_and_width();
        let mut dx = Tensor::uninit([rows, width], dy.dtype());
        with_rows!(self.compute, T => kernel::backward(
            self.kind,
            Rows::dense(self.x.as_slice::<T>(), rows, width),
            Rows::dense(dy.as_slice::<T>(), rows, width / 2),
            RowsMut::dense(dx.make_mut::<T>(), rows, width),
        ));
        activations.add(self.input, dx);
    }
}
