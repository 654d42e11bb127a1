//! A constant factor.

use lowrank_kernels::elementwise;

use super::with_rows;
use crate::Result;
use crate::tape::{Activations, Backward, Gradients, Named, Tape, Var, VarId};
use crate::tensor::{DType, Tensor};

/// `x · factor`.
///
/// # Shapes
/// `x`: `[tokens, width]`, as is the result.
///
/// # Errors
/// Only on a checked tape, for a result that is not finite.
pub fn scale(tape: &mut Tape, x: &Var, factor: f32) -> Result<Var> {
    let backward = x.id().map(|input| Box::new(ScaleBackward { input, factor }) as Box<dyn Backward>);
    let y = scaled(x.value().clone(), factor);
    tape.finish(|| Named::After(format!("the multiple by {factor}")), y, x.layout(), backward)
}

/// The multiple of a tensor of rows, in its place where nothing else holds it.
pub(super) fn scaled(mut x: Tensor, factor: f32) -> Tensor {
    let compute = match x.dtype() {
        DType::Bf16 => lowrank_kernels::Compute::Bf16,
        _ => lowrank_kernels::Compute::F32,
    };
    with_rows!(compute, T => elementwise::scale(x.make_mut::<T>(), factor));
    x
}

struct ScaleBackward {
    input: VarId,
    factor: f32,
}

impl Backward for ScaleBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, _: &mut Gradients) {
        activations.add(self.input, scaled(dy, self.factor));
    }
}
