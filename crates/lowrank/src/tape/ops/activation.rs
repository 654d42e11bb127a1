//! Pointwise activations.

use lowrank_kernels::Compute;
use lowrank_kernels::activation::{self, Activation};

use super::with_rows;
use crate::Result;
use crate::tape::{Activations, Backward, Gradients, Named, Tape, Var, VarId};
use crate::tensor::Tensor;

/// Applies an activation to every element.
///
/// # Shapes
/// `x`: `[tokens, width]`, as is the result.
///
/// # Errors
/// Only on a checked tape, for a result that is not finite.
pub fn activation(tape: &mut Tape, x: &Var, kind: Activation) -> Result<Var> {
    let compute = x.compute();
    let mut y = Tensor::uninit(x.value().shape(), x.value().dtype());
    with_rows!(compute, T => activation::forward(kind, x.value().as_slice::<T>(), y.make_mut::<T>()));
    let backward = x.id().map(|input| {
        Box::new(ActivationBackward { input, x: x.value().clone(), kind, compute }) as Box<dyn Backward>
    });
    tape.finish(|| Named::After(format!("the output of {kind:?}")), y, x.layout(), backward)
}

struct ActivationBackward {
    input: VarId,
    x: Tensor,
    kind: Activation,
    compute: Compute,
}

impl Backward for ActivationBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let mut dx = Tensor::uninit(dy.shape(), dy.dtype());
        with_rows!(self.compute, T => {
            activation::backward(self.kind, self.x.as_slice::<T>(), dy.as_slice::<T>(), dx.make_mut::<T>());
        });
        activations.add(self.input, dx);
    }
}
