//! The residual sum, with the dropout before it.

use std::sync::Arc;

use lowrank_kernels::dropout::apply;
use lowrank_kernels::{Compute, Rows, RowsMut, row_ops};

use super::with_rows;
use crate::tape::{Activations, Backward, DropoutSite, Gradients, Layout, Named, Tape, Var, VarId};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// `dropout(x) + residual`, in one pass.
///
/// # Shapes
/// `x`, `residual` and the result: `[tokens, width]`.
///
/// # Errors
/// If the two differ in shape or type.
pub fn add(tape: &mut Tape, x: &Var, dropout: f32, residual: &Var) -> Result<Var> {
    let (compute, layout, (rows, width)) = (x.compute(), x.layout(), x.value().rows_and_width());
    let (ours, other) = (x.value(), residual.value());
    if (ours.shape(), ours.dtype()) != (other.shape(), other.dtype()) {
        return Err(Error::Usage(format!("a sum of {ours:?} and {other:?}: they must be alike")));
    }
    let site = tape.dropout_site(dropout);
    let mut y = Tensor::uninit(ours.shape(), ours.dtype());
    with_rows!(compute, T => row_ops::add_rows(
        Rows::dense(ours.as_slice::<T>(), rows, width),
        site.map(|site| site.all(layout)).as_ref(),
        Rows::dense(other.as_slice::<T>(), rows, width),
        RowsMut::dense(y.make_mut::<T>(), rows, width),
    ));
    let inputs = (x.id(), residual.id());
    let backward = (inputs != (None, None)).then(|| {
        Box::new(AddBackward { inputs, site, layout: Arc::clone(layout), compute }) as Box<dyn Backward>
    });
    tape.finish(|| Named::After("the residual sum".into()), y, layout, backward)
}

struct AddBackward {
    inputs: (Option<VarId>, Option<VarId>),
    site: Option<DropoutSite>,
    layout: Arc<Layout>,
    compute: Compute,
}

impl Backward for AddBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let (x, residual) = self.inputs;
        if let Some(x) = x {
            let (rows, width) = dy.rows_and_width();
            let dx = self.site.map(|site| {
                let mut dx = Tensor::uninit(dy.shape(), dy.dtype());
                with_rows!(self.compute, T => apply(
                    Rows::dense(dy.as_slice::<T>(), rows, width),
                    &site.all(&self.layout),
                    RowsMut::dense(dx.make_mut::<T>(), rows, width),
                ));
                dx
            });
            activations.add(x, dx.unwrap_or_else(|| dy.clone()));
        }
        if let Some(residual) = residual {
            activations.add(residual, dy);
        }
    }
}
