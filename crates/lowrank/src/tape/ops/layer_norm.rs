//! Layer norm, fused with the residual sum and the dropout before it.

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::{Compute, norm};

use super::block::{block, block_mut};
use super::with_rows;
use crate::Result;
use crate::tape::{
    Activations, Backward, DropoutSite, Gradients, Layout, Leaf, Named, Parameter, Tape, Var, VarId,
};
use crate::tensor::{DType, Tensor};

/// A layer norm's parameters.
pub struct LayerNorm<'a> {
    /// What the normalised rows are multiplied by: `[width]`.
    pub weight: &'a Parameter,
    /// What is added to them: `[width]`.
    pub bias: &'a Parameter,
    /// What is added to the variance.
    pub eps: f32,
}

/// `layer_norm(dropout(x) + residual)`, row by row.
///
/// # Shapes
/// `x`, `residual` and the result: `[tokens, width]`.
///
/// # Errors
/// If a parameter has no value.
///
/// # Source
/// Ba et al., Layer Normalization (arXiv 1607.06450); the variance is PyTorch's, divided by the width.
pub fn layer_norm(
    tape: &mut Tape,
    x: &Var,
    dropout: f32,
    residual: Option<&Var>,
    parameters: &LayerNorm<'_>,
) -> Result<Var> {
    let (rows, width) = x.value().rows_and_width();
    let (compute, dtype, layout, columns) = (x.compute(), x.value().dtype(), x.layout(), 0..width);
    let site = tape.dropout_site(dropout);
    let parts = parts(parameters, layout)?;
    let trained = tape.is_recording()
        && parts.iter().any(|part| part.weight.is_trainable() || part.bias.is_trainable());
    let inputs = (x.id(), residual.and_then(Var::id));
    let records = trained || inputs != (None, None);
    let fused = site.is_some() || residual.is_some();

    let mut sum = (records && fused).then(|| Tensor::uninit([rows, width], dtype));
    let mut y = Tensor::uninit([rows, width], dtype);
    let mut mean = Tensor::uninit([rows], DType::F32);
    let mut rstd = Tensor::uninit([rows], DType::F32);
    for part in &parts {
        let Range { start, end } = part.rows;
        let (gamma, beta) = (part.weight.vector(), part.bias.vector());
        with_rows!(compute, T => norm::layer_norm_forward(
            block::<T>(x.value(), &part.rows, &columns),
            residual.map(|r| block::<T>(r.value(), &part.rows, &columns)),
            site.map(|site| site.on(layout, start..end)).as_ref(),
            gamma.as_slice::<f32>(),
            beta.as_slice::<f32>(),
            parameters.eps,
            sum.as_mut().map(|sum| block_mut::<T>(sum, &part.rows, &columns)),
            block_mut::<T>(&mut y, &part.rows, &columns),
            &mut mean.make_mut::<f32>()[start..end],
            &mut rstd.make_mut::<f32>()[start..end],
        ));
    }
    let backward = records.then(|| {
        let sum = sum.unwrap_or_else(|| x.value().clone());
        let layout = Arc::clone(layout);
        Box::new(LayerNormBackward { inputs, sum, mean, rstd, parts, site, layout, compute })
            as Box<dyn Backward>
    });
    tape.finish(|| Named::Module(module_of(parameters.weight).to_owned()), y, layout, backward)
}

/// A run of rows with the same parameters.
struct Part {
    rows: Range<usize>,
    weight: Leaf,
    bias: Leaf,
}

fn parts(parameters: &LayerNorm<'_>, layout: &Layout) -> Result<Vec<Part>> {
    layout
        .segments()
        .into_iter()
        .map(|(rows, adapter)| {
            let weight = parameters.weight.active(adapter)?.clone();
            let bias = parameters.bias.active(adapter)?.clone();
            Ok(Part { rows, weight, bias })
        })
        .collect()
}

/// The module that a parameter belongs to: its name without the last part.
pub(super) fn module_of(parameter: &Parameter) -> &str {
    parameter.name().rsplit_once('.').map_or("a norm", |(module, _)| module)
}

struct LayerNormBackward {
    inputs: (Option<VarId>, Option<VarId>),
    sum: Tensor,
    mean: Tensor,
    rstd: Tensor,
    parts: Vec<Part>,
    site: Option<DropoutSite>,
    layout: Arc<Layout>,
    compute: Compute,
}

impl Backward for LayerNormBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, gradients: &mut Gradients) {
        let (rows, width) = dy.rows_and_width();
        let columns = 0..width;
        let (x, residual) = self.inputs;
        let mut dsum = Tensor::uninit([rows, width], dy.dtype());
        let mut dropped =
            (x.is_some() && self.site.is_some()).then(|| Tensor::uninit([rows, width], dy.dtype()));
        for Part { rows: range, weight, bias } in &self.parts {
            let trained = weight.is_trainable() || bias.is_trainable();
            let mut parameters = trained.then(|| (vec![0.0; width], vec![0.0; width]));
            let site = self.site.map(|site| site.on(&self.layout, range.clone()));
            let gamma = weight.vector();
            with_rows!(self.compute, T => norm::layer_norm_backward(
                block::<T>(&dy, range, &columns),
                block::<T>(&self.sum, range, &columns),
                gamma.as_slice::<f32>(),
                &self.mean.as_slice::<f32>()[range.clone()],
                &self.rstd.as_slice::<f32>()[range.clone()],
                block_mut::<T>(&mut dsum, range, &columns),
                dropped
                    .as_mut()
                    .zip(site.as_ref())
                    .map(|(dx, site)| (block_mut::<T>(dx, range, &columns), site)),
                parameters.as_mut().map(|(dgamma, dbeta)| (&mut dgamma[..], &mut dbeta[..])),
            ));
            let (dgamma, dbeta) = parameters.unwrap_or_default();
            for (leaf, gradient) in [(weight, dgamma), (bias, dbeta)] {
                if leaf.is_trainable() {
                    lowrank_kernels::elementwise::add_assign(gradients.accumulator(leaf), &gradient);
                }
            }
        }
        if let Some(residual) = residual {
            activations.add(residual, dsum.clone());
        }
        if let Some(x) = x {
            activations.add(x, dropped.unwrap_or(dsum));
        }
    }
}
