//! Several tensors of one shape as one.
//!
//! # Source
//! PEFT's `merge_utils.py`.

use lowrank_kernels::random::Philox;

use super::method::{MajoritySign, Merging};

/// How elements are left out.
pub(super) struct Pruning<'r> {
    /// The part that is kept, above 0.
    pub density: f64,
    pub majority_sign: MajoritySign,
    pub random: &'r mut Philox,
}

/// One tensor of several of one length, each with its weight.
pub(super) fn merge(
    merging: Merging,
    mut tensors: Vec<Vec<f64>>,
    weights: &[f64],
    pruning: &mut Pruning<'_>,
) -> Vec<f64> {
    let density = pruning.density;
    for tensor in &mut tensors {
        match merging {
            Merging::Linear => {}
            _ if density >= 1.0 => {}
            Merging::Ties | Merging::MagnitudePrune => keep_largest(tensor, density),
            Merging::DareLinear | Merging::DareTies => keep_random(tensor, density, pruning.random),
        }
    }
    match merging {
        Merging::Linear | Merging::DareLinear | Merging::MagnitudePrune => weighted_sum(&tensors, weights),
        Merging::Ties | Merging::DareTies => mean_of_majority(&tensors, weights, pruning.majority_sign),
    }
}

/// Sets all but the largest elements to zero; of equal ones the first stay.
fn keep_largest(tensor: &mut [f64], density: f64) {
    let kept = (density * tensor.len() as f64) as usize;
    let mut order: Vec<usize> = (0..tensor.len()).collect();
    order.sort_by(|x, y| tensor[*y].abs().total_cmp(&tensor[*x].abs()));
    order.into_iter().skip(kept).for_each(|index| tensor[index] = 0.0);
}

/// Keeps each element with this probability, scaled so that the expectation stays.
fn keep_random(tensor: &mut [f64], density: f64, random: &mut Philox) {
    for value in tensor {
        *value = if f64::from(random.uniform_f32()) < density { *value / density } else { 0.0 };
    }
}

fn weighted_sum(tensors: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; tensors.first().map_or(0, Vec::len)];
    for (tensor, weight) in tensors.iter().zip(weights) {
        sum.iter_mut().zip(tensor).for_each(|(sum, value)| *sum += weight * value);
    }
    sum
}

/// The mean of the weighted elements whose sign is that of most, found without weights.
fn mean_of_majority(tensors: &[Vec<f64>], weights: &[f64], method: MajoritySign) -> Vec<f64> {
    let sign = |value: f64| if value == 0.0 { 0.0 } else { value.signum() };
    let mean = |index: usize| {
        let values = || tensors.iter().map(|tensor| tensor[index]);
        let total: f64 = match method {
            MajoritySign::Total => values().sum(),
            MajoritySign::Frequency => values().map(sign).sum(),
        };
        let majority = if total >= 0.0 { 1.0 } else { -1.0 };
        let (mut sum, mut count) = (0.0, 0_usize);
        for (value, weight) in values().zip(weights).filter(|(value, _)| sign(*value) == majority) {
            sum += weight * value;
            count += 1;
        }
        sum / count.max(1) as f64
    };
    (0..tensors.first().map_or(0, Vec::len)).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(merging: Merging, density: f64, majority_sign: MajoritySign) -> Vec<f64> {
        let tensors = vec![vec![1.0, -4.0, 0.5, 2.0], vec![1.0, 2.0, 0.5, -2.0], vec![-3.0, 1.0, 0.25, 0.0]];
        let mut pruning = Pruning { density, majority_sign, random: &mut Philox::new(1, 1) };
        merge(merging, tensors, &[1.0, 2.0, 1.0], &mut pruning)
    }

    #[test]
    fn the_majority_is_of_magnitudes_or_of_votes_and_its_mean_is_of_those_alone() {
        assert_eq!(merged(Merging::Ties, 1.0, MajoritySign::Total), [-3.0, -4.0, 1.75 / 3.0, 2.0]);
        assert_eq!(merged(Merging::Ties, 1.0, MajoritySign::Frequency), [1.5, 2.5, 1.75 / 3.0, 2.0]);
    }

    #[test]
    fn the_smallest_elements_are_left_out_and_of_equal_ones_the_last() {
        assert_eq!(merged(Merging::MagnitudePrune, 0.5, MajoritySign::Total), [-3.0, 1.0, 0.0, -2.0]);
    }

    #[test]
    fn what_is_kept_at_random_keeps_the_sum_that_is_expected() {
        let mut tensor = vec![1.0; 20_000];
        keep_random(&mut tensor, 0.25, &mut Philox::new(3, 4));
        let sum: f64 = tensor.iter().sum();
        assert!((sum / 20_000.0 - 1.0).abs() < 0.05 && tensor.iter().all(|value| [0.0, 4.0].contains(value)));
    }
}
