//! RMS norm.

use std::ops::Range;

use lowrank_kernels::{Compute, rms_norm as kernel};

use super::block::{block, block_mut};
use super::layer_norm::module_of;
use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Leaf, Named, Parameter, Tape, Var, VarId};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// `weight · x / √(mean(x²) + eps)`, row by row.
///
/// # Shapes
/// `x` and the result: `[tokens, width]`; `weight`: `[width]`.
///
/// # Errors
/// If the weight has another width or no value.
///
/// # Source
/// Zhang and Sennrich, Root Mean Square Layer Normalization (arXiv 1910.07467); Transformers' `LlamaRMSNorm` and
/// `T5LayerNorm`.
pub fn rms_norm(tape: &mut Tape, x: &Var, weight: &Parameter, eps: f32) -> Result<Var> {
    let (rows, width) = x.value().rows_and_width();
    if weight.shape().elements() != width {
        return Err(Error::Usage(format!("{} is {} for rows of {width}", weight.name(), weight.shape())));
    }
    let (compute, layout, columns) = (x.compute(), x.layout(), 0..width);
    let mut y = Tensor::uninit([rows, width], x.value().dtype());
    let mut parts = Vec::new();
    for (rows, adapter) in layout.segments() {
        let leaf = weight.active(adapter)?.clone();
        with_rows!(compute, T => kernel::rms_norm_forward(
            block::<T>(x.value(), &rows, &columns),
            leaf.vector().as_slice::<f32>(),
            eps,
            block_mut::<T>(&mut y, &rows, &columns),
        ));
        parts.push(Part { rows, weight: leaf });
    }
    let trained = tape.is_recording() && parts.iter().any(|part| part.weight.is_trainable());
    let backward = (trained || x.needs_gradient()).then(|| {
        Box::new(RmsNormBackward { input: x.id(), x: x.value().clone(), parts, eps, compute })
            as Box<dyn Backward>
    });
    tape.finish(|| Named::Module(module_of(weight).to_owned()), y, layout, backward)
}

/// A run of rows with the same weight.
struct Part {
    rows: Range<usize>,
    weight: Leaf,
}

struct RmsNormBackward {
    input: Option<VarId>,
    x: Tensor,
    parts: Vec<Part>,
    eps: f32,
    compute: Compute,
}

impl Backward for RmsNormBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, gradients: &mut Gradients) {
        let columns = 0..dy.shape().width();
        let mut dx = Tensor::uninit(dy.shape(), dy.dtype());
        for Part { rows, weight } in &self.parts {
            with_rows!(self.compute, T => kernel::rms_norm_backward(
                block::<T>(&dy, rows, &columns),
                block::<T>(&self.x, rows, &columns),
                weight.vector().as_slice::<f32>(),
                self.eps,
                block_mut::<T>(&mut dx, rows, &columns),
                weight.is_trainable().then(|| gradients.accumulator(weight)),
            ));
        }
        if let Some(input) = self.input {
            activations.add(input, dx);
        }
    }
}
