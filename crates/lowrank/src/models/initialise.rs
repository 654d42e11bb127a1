//! Fresh values for models and heads.

use lowrank_kernels::random::Philox;

use super::Model;
use crate::Result;
use crate::nn::{for_each_parameter, for_each_parameter_mut};
use crate::tape::{Leaf, Parameter};
use crate::tensor::{DType, Tensor};

/// Streams of one seed must not meet: each use has its own.
const MODEL_STREAM: u64 = 1;
const HEAD_STREAM: u64 = 2;

/// Draws every parameter of a model as Transformers does: weights normal with the configuration's deviation, biases
/// zero, norms one. `dtype` is the type that tables and matrices are kept in.
///
/// # Errors
/// None that a correctly declared model can cause.
pub fn initialise(model: &mut dyn Model, seed: u64, dtype: DType) -> Result<()> {
    draw(model, seed, MODEL_STREAM, dtype, |_| true)
}

/// Draws the parameters of the head that have no value yet, and tells whether there were any.
///
/// # Errors
/// As [`initialise`].
pub fn initialise_head(model: &mut dyn Model, seed: u64) -> Result<bool> {
    let head = model.info().head.clone();
    let mut missing = Vec::new();
    for_each_parameter(&*model, |path, parameter| {
        if head.iter().any(|module| is_inside(path, module)) && parameter.base().is_none() {
            missing.push(path.to_owned());
        }
    });
    draw(model, seed, HEAD_STREAM, DType::F32, |path| missing.iter().any(|name| name == path))?;
    Ok(!missing.is_empty())
}

/// Whether the parameter at `path` belongs to the module at `module`.
pub(super) fn is_inside(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}

fn draw(
    model: &mut dyn Model,
    seed: u64,
    stream: u64,
    dtype: DType,
    mut wanted: impl FnMut(&str) -> bool,
) -> Result<()> {
    let deviation = model.info().initializer_range;
    let mut generator = Philox::new(seed, stream);
    let mut result = Ok(());
    for_each_parameter_mut(model, |path, parameter| {
        if wanted(path) && parameter.tie().is_none() && result.is_ok() {
            let value = draw_one(path, parameter, deviation, dtype, &mut generator);
            result = parameter.set_base(Leaf::frozen(value));
        }
    });
    result
}

fn draw_one(
    path: &str,
    parameter: &Parameter,
    deviation: f32,
    dtype: DType,
    generator: &mut Philox,
) -> Tensor {
    let shape = parameter.shape();
    let mut value = Tensor::zeros(shape, DType::F32);
    let values = value.make_mut::<f32>();
    if shape.rank() > 1 {
        values.fill_with(|| deviation * generator.normal_f32());
        value.to_dtype(dtype)
    } else {
        // The only vectors that are weights are those of norms.
        values.fill(if path.ends_with("weight") { 1.0 } else { 0.0 });
        value
    }
}
