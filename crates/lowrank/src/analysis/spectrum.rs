//! The singular values of a matrix, and what they tell of its rank.

use super::approximation::ApproximationError;

/// Above which a singular value counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Tolerance {
    /// `max(M, N)·ε·σ₁`, with the ε of the type that PyTorch and NumPy would decompose the matrix in: f64 in f64, f32
    /// and what is narrower in f32.
    ///
    /// # Source
    /// The defaults of `torch.linalg.matrix_rank` and `numpy.linalg.matrix_rank`.
    #[default]
    Usual,
    /// This part of the largest: their `rtol`.
    Relative(f64),
    /// This value: PyTorch's `atol`, NumPy's `tol`.
    Absolute(f64),
}

/// All `min(M, N)` singular values of a matrix `[M, N]`, the largest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    rows: usize,
    columns: usize,
    epsilon: f64,
    values: Vec<f64>,
}

impl Spectrum {
    pub(super) fn new(rows: usize, columns: usize, epsilon: f64, values: Vec<f64>) -> Self {
        Self { rows, columns, epsilon, values }
    }

    /// The singular values, the largest first.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The singular values, and nothing else.
    pub fn into_values(self) -> Vec<f64> {
        self.values
    }

    /// The shape of the matrix.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The value above which a singular value counts.
    pub fn tolerance(&self, tolerance: Tolerance) -> f64 {
        match tolerance {
            Tolerance::Usual => self.rows.max(self.columns) as f64 * self.epsilon * self.spectral_norm(),
            Tolerance::Relative(part) => part * self.spectral_norm(),
            Tolerance::Absolute(value) => value,
        }
    }

    /// The numerical rank: how many singular values are above the tolerance. An empty matrix has rank 0.
    pub fn rank(&self, tolerance: Tolerance) -> usize {
        let tolerance = self.tolerance(tolerance);
        self.values.iter().filter(|value| **value > tolerance).count()
    }

    /// The largest singular value; 0 for an empty matrix.
    pub fn spectral_norm(&self) -> f64 {
        self.values.first().copied().unwrap_or(0.0)
    }

    /// `‖W‖_F`, the root of the sum of the squared singular values.
    pub fn frobenius_norm(&self) -> f64 {
        self.spectral_norm() * self.squares().sum::<f64>().sqrt()
    }

    /// `‖W‖_F²/σ₁²`; 0 for a matrix of zeros.
    ///
    /// # Source
    /// Rudelson and Vershynin, "Sampling from large matrices" (2007).
    pub fn stable_rank(&self) -> f64 {
        self.squares().sum()
    }

    /// `exp(-Σ pᵢ·ln pᵢ)` with `pᵢ = σᵢ/Σσ`; 0 for a matrix of zeros.
    ///
    /// # Source
    /// Roy and Vetterli, "The effective rank" (2007).
    pub fn effective_rank(&self) -> f64 {
        let sum: f64 = self.relative().sum();
        if sum == 0.0 {
            return 0.0;
        }
        let parts = self.relative().map(|value| value / sum).filter(|part| *part > 0.0);
        (-parts.map(|part| part * part.ln()).sum::<f64>()).exp()
    }

    /// The part of `‖W‖_F²` that the first `k` singular values have; 1 for a matrix of zeros, which loses nothing.
    pub fn energy(&self, k: usize) -> f64 {
        let all: f64 = self.squares().sum();
        if all == 0.0 { 1.0 } else { self.squares().take(k).sum::<f64>() / all }
    }

    /// The smallest `k` of which [`Spectrum::energy`] is at least `part`; 0 for a matrix of zeros.
    pub fn rank_for_energy(&self, part: f64) -> usize {
        let all: f64 = self.squares().sum();
        let mut kept = 0.0;
        self.squares()
            .position(|square| {
                // The same sum in the same order, so that all of it is reached.
                let enough = kept >= part * all;
                kept += square;
                enough
            })
            .unwrap_or(self.values.len())
    }

    /// The error of the best approximation of rank `k`, in both norms.
    ///
    /// # Source
    /// Eckart and Young (1936), Mirsky (1960).
    pub fn approximation_error(&self, k: usize) -> ApproximationError {
        let left = self.squares().skip(k).sum::<f64>().sqrt() * self.spectral_norm();
        ApproximationError { frobenius: left, spectral: self.values.get(k).copied().unwrap_or(0.0) }
    }

    /// The singular values over the largest, so that no square overflows or vanishes.
    fn relative(&self) -> impl Iterator<Item = f64> {
        let largest = self.spectral_norm();
        self.values.iter().map(move |value| if largest > 0.0 { value / largest } else { 0.0 })
    }

    fn squares(&self) -> impl Iterator<Item = f64> {
        self.relative().map(|value| value * value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spectrum(values: &[f64]) -> Spectrum {
        Spectrum::new(values.len(), values.len() + 2, f64::from(f32::EPSILON), values.to_vec())
    }

    #[test]
    fn equal_values_have_every_rank_alike_and_one_value_has_rank_one() {
        let equal = spectrum(&[3.0; 4]);
        assert_eq!(equal.rank(Tolerance::Usual), 4);
        assert!((equal.stable_rank() - 4.0).abs() < 1e-12 && (equal.effective_rank() - 4.0).abs() < 1e-12);
        let one = spectrum(&[3.0, 0.0, 0.0]);
        assert_eq!((one.rank(Tolerance::Usual), one.rank_for_energy(1.0)), (1, 1));
        assert!((one.stable_rank() - 1.0).abs() < 1e-12 && (one.effective_rank() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn zeros_and_nothing_have_rank_zero_and_lose_nothing() {
        for values in [&[0.0, 0.0][..], &[]] {
            let none = spectrum(values);
            assert_eq!((none.rank(Tolerance::Usual), none.rank_for_energy(0.9)), (0, 0));
            assert_eq!((none.stable_rank(), none.effective_rank(), none.energy(1)), (0.0, 0.0, 1.0));
        }
    }

    #[test]
    fn energy_is_of_squares_and_its_rank_is_the_smallest_that_reaches_it() {
        let values = spectrum(&[4.0, 2.0, 1.0]);
        assert!((values.energy(1) - 16.0 / 21.0).abs() < 1e-12);
        assert_eq!(values.rank_for_energy(16.0 / 21.0 - 1e-9), 1);
        assert_eq!(values.rank_for_energy(16.0 / 21.0 + 1e-9), 2);
        assert_eq!(values.rank_for_energy(1.0), 3);
        assert_eq!(values.rank_for_energy(0.0), 0);
        let error = values.approximation_error(1);
        assert!((error.frobenius - 5.0_f64.sqrt()).abs() < 1e-12 && error.spectral == 2.0);
    }

    #[test]
    fn a_tolerance_is_strict_and_in_the_terms_it_is_given_in() {
        let values = spectrum(&[4.0, 2.0, 1.0]);
        assert_eq!(values.rank(Tolerance::Absolute(1.0)), 2);
        assert_eq!(values.rank(Tolerance::Relative(0.5)), 1);
        assert_eq!(values.tolerance(Tolerance::Usual), 5.0 * f64::from(f32::EPSILON) * 4.0);
    }

    #[test]
    fn values_whose_squares_overflow_or_vanish_count_as_others_do() {
        for scale in [1e200, 1e-200] {
            let values = spectrum(&[4.0 * scale, 2.0 * scale]);
            assert!((values.stable_rank() - 1.25).abs() < 1e-12);
            assert!((values.frobenius_norm() / scale - 20.0_f64.sqrt()).abs() < 1e-12);
        }
    }
}
