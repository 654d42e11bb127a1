//! Dropout on its own.

use std::sync::Arc;

use lowrank_kernels::{Compute, Rows, RowsMut, dropout as kernel};

use super::with_rows;
use crate::Result;
use crate::tape::{Activations, Backward, DropoutSite, Gradients, Layout, Named, Tape, Var, VarId};
use crate::tensor::Tensor;

/// In training, sets each element to zero with `probability` and divides the others by `1 − probability`.
///
/// # Shapes
/// `x`: `[tokens, width]`, as is the result.
///
/// # Errors
/// Only on a checked tape, for a result that is not finite.
pub fn dropout(tape: &mut Tape, x: &Var, probability: f32) -> Result<Var> {
    let Some(site) = tape.dropout_site(probability) else { return Ok(x.clone()) };
    let compute = x.compute();
    let y = apply(x.value(), &site, x.layout(), compute);
    let backward = x.id().map(|input| {
        Box::new(DropoutBackward { input, site, layout: Arc::clone(x.layout()), compute })
            as Box<dyn Backward>
    });
    tape.finish(|| Named::After("the output of dropout".into()), y, x.layout(), backward)
}

fn apply(x: &Tensor, site: &DropoutSite, layout: &Layout, compute: Compute) -> Tensor {
    let (rows, width) = x.rows_and_width();
    let mut y = Tensor::uninit(x.shape(), x.dtype());
    with_rows!(compute, T => kernel::apply(
        Rows::dense(x.as_slice::<T>(), rows, width),
        &site.all(layout),
        RowsMut::dense(y.make_mut::<T>(), rows, width),
    ));
    y
}

struct DropoutBackward {
    input: VarId,
    site: DropoutSite,
    layout: Arc<Layout>,
    compute: Compute,
}

impl Backward for DropoutBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, _: &mut Gradients) {
        activations.add(self.input, apply(&dy, &self.site, &self.layout, self.compute));
    }
}
