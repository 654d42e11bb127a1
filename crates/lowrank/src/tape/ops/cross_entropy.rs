//! Cross-entropy over classes.

use lowrank_kernels::{Rows, RowsMut, loss};

use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Named, Tape, Var, VarId};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The sum over rows of `−log softmax(logits)[label]`, divided by `denominator`; rows labelled −100 do not count.
///
/// The denominator is the number of labels in the whole batch, so that the parts of a batch that is cut for gradient
/// accumulation add up to the loss of the whole.
///
/// # Shapes
/// `logits`: `[rows, classes]`; `labels`: one for each row. The result: a scalar, f32.
///
/// # Errors
/// If labels and rows differ in number, or a label is no class.
pub fn cross_entropy(tape: &mut Tape, logits: &Var, labels: &[i64], denominator: f32) -> Result<Var> {
    let (rows, classes) = logits.value().rows_and_width();
    if labels.len() != rows {
        return Err(Error::Usage(format!("{} labels for {rows} rows of logits", labels.len())));
    }
    if let Some(label) = labels.iter().find(|label| **label != -100 && !(0..classes as i64).contains(*label))
    {
        return Err(Error::Usage(format!("label {label} is not one of {classes} classes")));
    }
    let compute = logits.compute();
    let mut gradient = logits.id().map(|_| Tensor::uninit(logits.value().shape(), logits.value().dtype()));
    let loss = with_rows!(compute, T => loss::cross_entropy(
        Rows::dense(logits.value().as_slice::<T>(), rows, classes),
        labels,
        denominator,
        gradient.as_mut().map(|gradient| RowsMut::dense(gradient.make_mut::<T>(), rows, classes)),
    ));
    let backward = logits
        .id()
        .zip(gradient)
        .map(|(input, gradient)| Box::new(LossBackward { input, gradient }) as Box<dyn Backward>);
    tape.finish(
        || Named::After("the loss".into()),
        Tensor::from_slice([1], &[loss]),
        logits.layout(),
        backward,
    )
}

/// The gradient of a loss with respect to its input is made in the forward pass; backward scales it by the gradient of
/// the loss itself, which is 1 where the loss is the last operation.
pub(super) struct LossBackward {
    pub(super) input: VarId,
    pub(super) gradient: Tensor,
}

impl Backward for LossBackward {
    fn backward(self: Box<Self>, loss: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let factor = loss.as_slice::<f32>()[0];
        let mut gradient = self.gradient;
        if factor != 1.0 {
            let dtype = gradient.dtype();
            gradient = gradient.to_dtype(DType::F32);
            gradient.make_mut::<f32>().iter_mut().for_each(|x| *x *= factor);
            gradient = gradient.to_dtype(dtype);
        }
        activations.add(self.input, gradient);
    }
}
