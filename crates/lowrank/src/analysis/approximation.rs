//! The best approximation of a rank, as factors.

use lowrank_kernels::svd::Svd;

use super::matrix::{Matrix, frobenius_norm};
use super::product::Product;
use super::spectrum::Spectrum;
use crate::Result;

/// How far an approximation is off.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ApproximationError {
    /// In the Frobenius norm: the root of the sum of the squared singular values that are left out.
    pub frobenius: f64,
    /// In the spectral norm: the largest singular value that is left out.
    pub spectral: f64,
}

/// A matrix `[M, N]` of rank `K` as the product of two factors, with what it lacks of the matrix that it stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// The rank `K`: as asked for, or the shorter side of the matrix if that is less.
    pub k: usize,
    /// `U·Σ`, `[M, K]` and row-major.
    pub left: Vec<f64>,
    /// `Vᵀ`, `[K, N]` and row-major: rows of norm 1, at right angles to each other.
    pub right: Vec<f64>,
    /// The error, of the singular values.
    pub error: ApproximationError,
}

impl LowRank {
    fn of(svd: &Svd, rows: usize, columns: usize, k: usize) -> Self {
        let k = k.min(svd.values.len());
        let mut left = vec![0.0; rows * k];
        for (index, value) in svd.values[..k].iter().enumerate() {
            for row in 0..rows {
                left[row * k + index] = svd.left[index * rows + row] * value;
            }
        }
        let error = ApproximationError {
            frobenius: frobenius_norm(&svd.values[k..]),
            spectral: svd.values.get(k).copied().unwrap_or(0.0),
        };
        Self { k, left, right: svd.right[..k * columns].to_vec(), error }
    }
}

impl Matrix<'_> {
    /// The matrix of rank at most `k` that is nearest to this one, in both norms.
    ///
    /// # Errors
    /// As [`Matrix::spectrum`].
    ///
    /// # Source
    /// Eckart and Young (1936), Mirsky (1960).
    pub fn low_rank_approximation(&self, k: usize) -> Result<LowRank> {
        Ok(LowRank::of(&self.svd()?, self.rows(), self.columns(), k))
    }

    /// The spectrum, and the best approximation of the rank that `rank` makes of it, of one decomposition.
    ///
    /// # Errors
    /// As [`Matrix::spectrum`].
    pub fn approximated(&self, rank: impl FnOnce(&Spectrum) -> usize) -> Result<(Spectrum, LowRank)> {
        let (svd, rows, columns) = (self.svd()?, self.rows(), self.columns());
        let spectrum = Spectrum::new(rows, columns, self.epsilon(), svd.values.clone());
        let k = rank(&spectrum);
        Ok((spectrum, LowRank::of(&svd, rows, columns, k)))
    }
}

impl Product<'_> {
    /// The matrix of rank at most `k` that is nearest to the product, which is not formed.
    ///
    /// # Errors
    /// As [`Product::svd`].
    pub fn low_rank_approximation(&self, k: usize) -> Result<LowRank> {
        Ok(LowRank::of(&self.svd()?, self.rows(), self.columns(), k))
    }
}
