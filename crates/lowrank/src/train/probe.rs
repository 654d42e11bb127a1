//! What a model makes of random inputs, to compare it with another of its configuration.

use lowrank_kernels::random::Philox;

use super::adapted_model::AdaptedModel;
use super::bench::random_batch;
use crate::Result;
use crate::models;
use crate::tape::AdapterId;

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
/// As [`AdaptedModel::logits`].
pub(super) fn outputs(adapted: &AdaptedModel, adapter: Option<AdapterId>) -> Result<Vec<f32>> {
    let info = adapted.model().info();
    let lengths = LENGTHS.map(|length| length.min(info.max_length.max(1)));
    let generator = &mut Philox::new(SEED, 0);
    let batch = random_batch(&lengths, ANSWER, info, adapted.config().regression, generator)?;
    adapted.logits(&batch, adapter)
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
