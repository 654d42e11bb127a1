//! Cross-entropy over classes.

use lowrank_kernels::{Compute, Rows, RowsMut, loss};

use super::scale::scaled;
use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Named, Tape, Var, VarId};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The sum over rows of `−log softmax(logits)[label]`, divided by `denominator`; rows labelled −100 do not count. A
/// sequence may have any number of rows.
///
/// The denominator is the number of labels in the whole batch, so that the parts of a batch that is cut for gradient
/// accumulation add up to the loss of the whole. The gradient is made in the logits' place, unless they are still held
/// elsewhere when backward comes to it: those of a language model may be gigabytes.
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
    let (mut maxima, mut sums) = (vec![0.0; rows], vec![0.0; rows]);
    let loss = with_rows!(compute, T => loss::cross_entropy(
        Rows::dense(logits.value().as_slice::<T>(), rows, classes),
        labels,
        denominator,
        &mut maxima,
        &mut sums,
    ));
    let backward = logits.id().map(|input| {
        let (logits, labels) = (logits.value().clone(), labels.to_vec());
        Box::new(CrossEntropyBackward { input, logits, labels, denominator, maxima, sums, compute })
            as Box<dyn Backward>
    });
    finish(tape, loss, logits, backward)
}

/// Ends a loss of `input`.
pub(super) fn finish(
    tape: &mut Tape,
    loss: f32,
    input: &Var,
    backward: Option<Box<dyn Backward>>,
) -> Result<Var> {
    tape.finish(
        || Named::After("the loss".into()),
        Tensor::from_slice([1], &[loss]),
        input.layout(),
        backward,
    )
}

struct CrossEntropyBackward {
    input: VarId,
    logits: Tensor,
    labels: Vec<i64>,
    denominator: f32,
    maxima: Vec<f32>,
    sums: Vec<f32>,
    compute: Compute,
}

impl Backward for CrossEntropyBackward {
    fn backward(self: Box<Self>, loss: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let Self { input, mut logits, labels, denominator, maxima, sums, compute } = *self;
        let (rows, classes) = logits.rows_and_width();
        with_rows!(compute, T => loss::cross_entropy_backward(
            RowsMut::dense(logits.make_mut::<T>(), rows, classes),
            &labels,
            denominator,
            &maxima,
            &sums,
        ));
        LossBackward { input, gradient: logits }.finish(&loss, activations);
    }
}

/// The gradient of a small loss with respect to its input is made in the forward pass; backward scales it by the
/// gradient of the loss itself, which is 1 where the loss is the last operation.
pub(super) struct LossBackward {
    pub(super) input: VarId,
    pub(super) gradient: Tensor,
}

impl LossBackward {
    fn finish(self, loss: &Tensor, activations: &mut Activations) {
        let factor = loss.as_slice::<f32>()[0];
        let gradient = if factor == 1.0 { self.gradient } else { scaled(self.gradient, factor) };
        activations.add(self.input, gradient);
    }
}

impl Backward for LossBackward {
    fn backward(self: Box<Self>, loss: Tensor, activations: &mut Activations, _: &mut Gradients) {
        self.finish(&loss, activations);
    }
}
