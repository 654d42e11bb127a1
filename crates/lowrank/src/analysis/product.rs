//! The product of an adapter's factors, which is never formed.

use lowrank_kernels::svd::{self, Svd};

use super::matrix::Matrix;
use super::spectrum::Spectrum;
use crate::{Error, Result};

/// `s·B·A` of `B` `[M, R]` and `A` `[R, N]`; or its transpose, which is what an embedding's pair adds to its table.
#[derive(Clone, Debug)]
pub struct Product<'a> {
    b: Matrix<'a>,
    a: Matrix<'a>,
    scaling: f64,
    transposed: bool,
}

impl<'a> Product<'a> {
    /// The product of two factors times a number.
    ///
    /// # Errors
    /// If the one has not as many columns as the other has rows, `R` is 0, or the number is not finite.
    pub fn new(b: Matrix<'a>, a: Matrix<'a>, scaling: f64) -> Result<Self> {
        if a.rows() == 0 {
            return Err(a.refuse("it has no rows; the rank of a pair is at least 1"));
        }
        if b.columns() != a.rows() {
            let (name, columns, rows) = (a.name(), b.columns(), a.rows());
            return Err(b.refuse(&format!("it has {columns} columns where {name} has {rows} rows")));
        }
        if !scaling.is_finite() {
            return Err(Error::Usage(format!("the scaling of {} is {scaling}", b.name())));
        }
        Ok(Self { b, a, scaling, transposed: false })
    }

    /// The transpose.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Whether it is the transpose of `s·B·A`.
    pub fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// `B`.
    pub fn b(&self) -> &Matrix<'a> {
        &self.b
    }

    /// `A`.
    pub fn a(&self) -> &Matrix<'a> {
        &self.a
    }

    /// `R`.
    pub fn r(&self) -> usize {
        self.a.rows()
    }

    /// `s`.
    pub fn scaling(&self) -> f64 {
        self.scaling
    }

    /// The number of rows of the product.
    pub fn rows(&self) -> usize {
        if self.transposed { self.a.columns() } else { self.b.rows() }
    }

    /// The number of columns of the product.
    pub fn columns(&self) -> usize {
        if self.transposed { self.b.rows() } else { self.a.columns() }
    }

    /// The thin decomposition of `B·A`, `min(R, M, N)` values of it: all others are zero. Each factor is decomposed by
    /// itself, and then the small matrix between their directions: `B·A = U_B·(Σ_B·V_Bᵀ·U_A·Σ_A)·V_Aᵀ`.
    ///
    /// # Errors
    /// If a value is not finite, or too large to be squared.
    pub fn svd(&self) -> Result<Svd> {
        let (b, a) = (self.b.svd()?, self.a.svd()?);
        let (m, n, r) = (b.values.len(), a.values.len(), self.r());
        let mut core = vec![0.0; m * n];
        for (i, row) in core.chunks_exact_mut(n.max(1)).enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                let (of_b, of_a) = (&b.right[i * r..][..r], &a.left[j * r..][..r]);
                *value = self.scaling * b.values[i] * dot(of_b, of_a) * a.values[j];
            }
        }
        let too_large = || self.b.refuse("its product with A cannot be decomposed: its values are too large");
        let core = svd::svd(&core, m, n).ok_or_else(too_large)?;
        if core.values.iter().any(|value| !value.is_finite()) {
            return Err(too_large());
        }
        let left = combine(&core.left, &b.left, m, self.b.rows());
        let right = combine(&core.right, &a.right, n, self.a.columns());
        let (left, right) = if self.transposed { (right, left) } else { (left, right) };
        Ok(Svd { left, values: core.values, right })
    }

    /// The spectrum of the product: `min(M, N)` values, of which those beyond `R` are zero.
    ///
    /// # Errors
    /// As [`Product::svd`].
    pub fn spectrum(&self) -> Result<Spectrum> {
        let mut values = self.svd()?.values;
        values.resize(self.rows().min(self.columns()), 0.0);
        let epsilon = self.a.epsilon().max(self.b.epsilon());
        Ok(Spectrum::new(self.rows(), self.columns(), epsilon, values))
    }
}

/// The spectrum of `B·A`, from the factors.
///
/// # Errors
/// If their shapes do not go together, or a value is not finite.
///
/// ```
/// use lowrank::analysis::{Matrix, Tolerance, product_spectrum};
///
/// let b = Matrix::from_f32("B", &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], 3, 2)?;
/// let a = Matrix::from_f32("A", &[1.0, 2.0, 3.0, 4.0, 2.0, 4.0, 6.0, 8.0], 2, 4)?;
/// // The second row of A is twice the first.
/// assert_eq!(product_spectrum(b, a)?.rank(Tolerance::Usual), 1);
/// # Ok::<(), lowrank::Error>(())
/// ```
pub fn product_spectrum(b: Matrix<'_>, a: Matrix<'_>) -> Result<Spectrum> {
    Product::new(b, a, 1.0)?.spectrum()
}

/// Directions `[K, R]` in terms of others `[R, N]`, as directions `[K, N]`.
fn combine(weights: &[f64], directions: &[f64], r: usize, width: usize) -> Vec<f64> {
    let mut combined = vec![0.0; weights.len() / r.max(1) * width];
    for (out, weights) in combined.chunks_exact_mut(width.max(1)).zip(weights.chunks_exact(r.max(1))) {
        for (weight, direction) in weights.iter().zip(directions.chunks_exact(width.max(1))) {
            out.iter_mut().zip(direction).for_each(|(out, value)| *out += weight * value);
        }
    }
    combined
}

pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
