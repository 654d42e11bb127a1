//! What a model makes of random inputs, to compare it with another of its configuration.

use lowrank_kernels::random::Philox;

use super::adapted_model::AdaptedModel;
use super::bench::random_batch;
use crate::Result;
use crate::models;
use crate::tape::{AdapterId, Tape};

const SEED: u64 = 42;
/// The lengths of the sequences.
const LENGTHS: [usize; 4] = [3, 8, 17, 32];
/// The length of an encoder-decoder's answers.
const ANSWER: usize = 6;

/// Draws what a model has no value for in its head, alike for every model of a configuration.
///
/// # Errors
/// As [`models::initialise_head`].
pub(super) fn complete(adapted: &mut AdaptedModel) -> Result<()> {
    models::initialise_head(adapted.model_mut(), SEED).map(|_| ())
}

/// The logits of random inputs, the same for every model of a configuration.
///
/// # Errors
/// As [`AdaptedModel::forward`].
pub(super) fn outputs(adapted: &AdaptedModel, adapter: Option<AdapterId>) -> Result<Vec<f32>> {
    outputs_on(&mut Tape::inference(adapted.compute()), adapted, adapter)
}

/// As [`outputs`], of two models that are to be one: in a mixture, the rows of the second go to the same experts as those
/// of the first.
///
/// # Errors
/// As [`AdaptedModel::forward`].
pub(super) fn outputs_of_both(
    (one, adapter): (&AdaptedModel, Option<AdapterId>),
    (other, of_other): (&AdaptedModel, Option<AdapterId>),
) -> Result<[Vec<f32>; 2]> {
    let mut tape = Tape::inference(one.compute()).noting_choices();
    let first = outputs_on(&mut tape, one, adapter)?;
    let mut repeating = Tape::inference(other.compute()).repeating_choices(&tape.into_choices());
    Ok([first, outputs_on(&mut repeating, other, of_other)?])
}

fn outputs_on<'m>(
    tape: &mut Tape<'m>,
    adapted: &'m AdaptedModel,
    adapter: Option<AdapterId>,
) -> Result<Vec<f32>> {
    let info = adapted.model().info();
    let lengths = LENGTHS.map(|length| length.min(info.max_length.max(1)));
    let generator = &mut Philox::new(SEED, 0);
    let batch = random_batch(&lengths, ANSWER, info, adapted.config().regression, generator)?;
    Ok(adapted.forward(tape, &batch, adapter)?.value().to_f32_vec())
}

/// The largest difference of two models' outputs; not a number where one of them is not.
pub(super) fn largest_difference(one: &[f32], other: &[f32]) -> f32 {
    let differences = one.iter().zip(other).map(|(a, b)| (a - b).abs());
    // `max` would pass over what is not a number.
    differences.fold(0.0, |largest, off| if off > largest || off.is_nan() { off } else { largest })
}

/// The largest magnitude of an output.
pub(super) fn largest(outputs: &[f32]) -> f32 {
    outputs.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}
