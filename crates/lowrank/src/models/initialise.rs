//! Fresh values for models and heads.

use std::collections::HashSet;

use lowrank_kernels::random::Philox;
use rayon::prelude::*;

use super::Model;
use super::placement::{quantizable, stream};
use crate::Result;
use crate::nn::{for_each_parameter, for_each_parameter_mut};
use crate::tape::{Leaf, Parameter};
use crate::tensor::{DType, Quantized, Shape, Tensor};

/// Streams of one seed must not meet: each use has its own.
const MODEL_STREAM: u64 = 1;
const HEAD_STREAM: u64 = 2;

/// Words of the generator that a normal number takes, so that threads can draw parts of one sequence.
const NORMAL_WORDS: u64 = 2;
/// Normal numbers in the table that rows in 8 bits are cut from; prime, so that rows do not fall into step.
const TABLE: usize = 1_048_573;
/// Numbers that a thread draws at a time.
const DRAWN_TOGETHER: usize = 1 << 14;

/// Draws every parameter of a model: weights normal with the configuration's deviation, biases zero, norms one, which is
/// the rule in Transformers. What it has beyond that is not done: deviations of single layers (T5's, and GPT-2's
/// projections), and zeros in a padding token's row. `dtype` is the type that tables and matrices are kept in.
///
/// # Errors
/// None that a correctly declared model can cause.
pub fn initialise(model: &mut dyn Model, seed: u64, dtype: DType) -> Result<()> {
    draw(model, seed, MODEL_STREAM, dtype, &HashSet::new(), |_| true)
}

/// As [`initialise`], with the weights that can be in 8 bits brought into these one after the other, and the others read
/// where they are: the model is never held in a wider type, and nothing is packed. Rows of what is in 8 bits are cut from
/// a table of a million normal numbers at random places, for models whose every number would take minutes to draw.
///
/// # Errors
/// As [`initialise`].
pub fn initialise_int8(model: &mut dyn Model, seed: u64, dtype: DType) -> Result<()> {
    let eight = quantizable(&*model);
    draw(model, seed, MODEL_STREAM, dtype, &eight, |_| true)?;
    stream(model);
    Ok(())
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
    draw(model, seed, HEAD_STREAM, DType::F32, &HashSet::new(), |path| {
        missing.iter().any(|name| name == path)
    })?;
    Ok(!missing.is_empty())
}

/// Whether the parameter at `path` belongs to the module at `module`.
pub(crate) fn is_inside(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}

fn draw(
    model: &mut dyn Model,
    seed: u64,
    stream: u64,
    dtype: DType,
    eight: &HashSet<String>,
    mut wanted: impl FnMut(&str) -> bool,
) -> Result<()> {
    let deviation = model.info().initializer_range;
    let mut generator = Philox::new(seed, stream);
    let mut table = None;
    let mut result = Ok(());
    for_each_parameter_mut(model, |path, parameter| {
        if wanted(path) && parameter.tie().is_none() && result.is_ok() {
            if eight.contains(path) {
                let table = table.get_or_insert_with(|| Table::new(deviation, &mut generator));
                let quantized = Quantized::from_float(&table.draw(parameter.shape(), &mut generator));
                result = quantized.map_or(Ok(()), |value| parameter.set_base(Leaf::quantized(value)));
                return;
            }
            let value = draw_one(path, parameter, deviation, dtype, &mut generator);
            result = parameter.set_base(Leaf::frozen(value));
        }
    });
    result
}

/// Normal numbers that rows are cut from at random places.
struct Table(Vec<f32>);

impl Table {
    fn new(deviation: f32, generator: &mut Philox) -> Self {
        Self((0..TABLE).map(|_| deviation * generator.normal_f32()).collect())
    }

    fn draw(&self, shape: Shape, generator: &mut Philox) -> Tensor {
        let (rows, width) = (shape.rows(), shape.width());
        let mut value = Tensor::uninit(shape, DType::F32);
        let values = value.make_mut::<f32>();
        for row in values.chunks_exact_mut(width.max(1)).take(rows) {
            let mut start = generator.below(TABLE as u64) as usize;
            for part in row.chunks_mut(TABLE) {
                // Past the end it goes on at the beginning.
                let (head, tail) = part.split_at_mut(part.len().min(TABLE - start));
                head.copy_from_slice(&self.0[start..start + head.len()]);
                tail.copy_from_slice(&self.0[..tail.len()]);
                start = (start + part.len()) % TABLE;
            }
        }
        value
    }
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
        let start = generator.position();
        values.par_chunks_mut(DRAWN_TOGETHER).enumerate().for_each(|(chunk, values)| {
            let mut generator = generator.clone();
            generator.set_position(start + NORMAL_WORDS * (chunk * DRAWN_TOGETHER) as u64);
            values.fill_with(|| deviation * generator.normal_f32());
        });
        generator.set_position(start + NORMAL_WORDS * shape.elements() as u64);
        value.to_dtype(dtype)
    } else {
        // The only vectors that are weights are those of norms.
        values.fill(if path.ends_with("weight") { 1.0 } else { 0.0 });
        value
    }
}
