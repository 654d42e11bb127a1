//! Mean squared error.

use lowrank_kernels::loss;

use super::cross_entropy::{LossBackward, finish};
use super::with_rows;
use crate::tape::{Backward, Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The sum of `(prediction − target)²`, divided by `denominator` (see [`super::cross_entropy`]).
///
/// # Shapes
/// `predictions`: `[rows, 1]`; `targets`: one for each row. The result: a scalar, f32.
///
/// # Errors
/// If targets and predictions differ in number.
pub fn squared_error(tape: &mut Tape, predictions: &Var, targets: &[f32], denominator: f32) -> Result<Var> {
    let elements = predictions.value().elements();
    if targets.len() != elements {
        return Err(Error::Usage(format!("{} targets for {elements} predictions", targets.len())));
    }
    let compute = predictions.compute();
    let mut gradient =
        predictions.id().map(|_| Tensor::uninit(predictions.value().shape(), predictions.value().dtype()));
    let loss = with_rows!(compute, T => loss::mean_squared_error(
        predictions.value().as_slice::<T>(),
        targets,
        denominator,
        gradient.as_mut().map(|gradient| gradient.make_mut::<T>()),
    ));
    let backward = predictions
        .id()
        .zip(gradient)
        .map(|(input, gradient)| Box::new(LossBackward { input, gradient }) as Box<dyn Backward>);
    finish(tape, loss, predictions, backward)
}
