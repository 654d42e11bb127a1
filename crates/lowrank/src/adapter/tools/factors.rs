//! Factors of a product in f64, and how far one product is from another.

use crate::Result;
use crate::analysis::{LowRank, Matrix, Product};

/// `B·A` of `B` `[M, R]` and `A` `[R, N]`, both row-major.
#[derive(Clone, Debug)]
pub(super) struct Factors {
    pub b: Vec<f64>,
    pub a: Vec<f64>,
    pub rows: usize,
    pub r: usize,
    pub columns: usize,
}

impl Factors {
    /// Those of a product as they are stored: without its scaling.
    pub fn stored(product: &Product<'_>) -> Result<Self> {
        Ok(Self {
            b: product.b().values()?,
            a: product.a().values()?,
            rows: product.b().rows(),
            r: product.r(),
            columns: product.a().columns(),
        })
    }

    /// Those of a low-rank approximation.
    pub fn of(made: LowRank, rows: usize, columns: usize) -> Self {
        Self { b: made.left, a: made.right, rows, r: made.k, columns }
    }

    /// Those of `Σ wᵢ·Bᵢ·Aᵢ`: the `B`s beside each other, the `A`s times their weights one below the other. All products
    /// have one shape.
    pub fn sum(parts: &[(f64, &Self)]) -> Self {
        let (rows, columns) = parts.first().map_or((0, 0), |(_, part)| (part.rows, part.columns));
        let r = parts.iter().map(|(_, part)| part.r).sum();
        let mut b = Vec::with_capacity(rows * r);
        for row in 0..rows {
            for (_, part) in parts {
                b.extend_from_slice(&part.b[row * part.r..][..part.r]);
            }
        }
        let scaled = |(weight, part): &(f64, &Self)| {
            let weight = *weight;
            part.a.iter().map(move |value| weight * value).collect::<Vec<f64>>()
        };
        Self { b, a: parts.iter().flat_map(scaled).collect(), rows, r, columns }
    }

    /// The same product of rank `r`, which is no smaller: filled up with zeros.
    pub fn filled_up(&self, r: usize) -> Self {
        let [a, b] = filled_up([&self.a, &self.b], [self.rows, self.r, self.columns], r);
        Self { a, b, r, ..*self }
    }

    /// With the values that f32 has.
    pub fn rounded(&self) -> Self {
        let round = |values: &[f64]| values.iter().map(|value| f64::from(*value as f32)).collect();
        Self { b: round(&self.b), a: round(&self.a), ..*self }
    }

    /// The product, not formed; `name` is for errors.
    pub fn product(&self, name: &str) -> Result<Product<'_>> {
        let b = Matrix::from_f64(name, &self.b, self.rows, self.r)?;
        Product::new(b, Matrix::from_f64(name, &self.a, self.r, self.columns)?, 1.0)
    }

    /// The product, formed: `[M, N]`.
    pub fn formed(&self) -> Vec<f64> {
        let mut formed = vec![0.0; self.rows * self.columns];
        for (out, b) in formed.chunks_exact_mut(self.columns.max(1)).zip(self.b.chunks_exact(self.r.max(1))) {
            for (weight, a) in b.iter().zip(self.a.chunks_exact(self.columns.max(1))) {
                out.iter_mut().zip(a).for_each(|(out, value)| *out += weight * value);
            }
        }
        formed
    }

    /// `‖B·A‖_F`, from the factors.
    pub fn norm(&self, name: &str) -> Result<f64> {
        Ok(self.product(name)?.spectrum()?.frobenius_norm())
    }

    /// `‖B·A − B'·A'‖_F`, from the factors.
    pub fn distance(&self, other: &Self, name: &str) -> Result<f64> {
        Self::sum(&[(1.0, self), (-1.0, other)]).norm(name)
    }

    /// The sum of the products of the elements of both: `Σ (BᵀB')∘(A·A'ᵀ)`.
    pub fn inner_product(&self, other: &Self) -> f64 {
        let mut sum = 0.0;
        for i in 0..self.r {
            for j in 0..other.r {
                let of_b: f64 =
                    (0..self.rows).map(|row| self.b[row * self.r + i] * other.b[row * other.r + j]).sum();
                let rows =
                    self.a[i * self.columns..][..self.columns].iter().zip(&other.a[j * other.columns..]);
                sum += of_b * rows.map(|(x, y)| x * y).sum::<f64>();
            }
        }
        sum
    }
}

/// `A` and `B`, filled up with zeros to the rank `r`, which is no smaller: their product is the same.
///
/// # Shapes
/// `A` `[k, columns]` and `B` `[rows, k]`, both row-major; the sizes are `[rows, k, columns]`.
pub(crate) fn filled_up<T: Copy + Default>(
    [a, b]: [&[T]; 2],
    [rows, k, columns]: [usize; 3],
    r: usize,
) -> [Vec<T>; 2] {
    let mut more_of_a = a.to_vec();
    more_of_a.resize(r * columns, T::default());
    let mut more_of_b = vec![T::default(); rows * r];
    if k > 0 && r > 0 {
        for (to, from) in more_of_b.chunks_exact_mut(r).zip(b.chunks_exact(k)) {
            to[..k].copy_from_slice(from);
        }
    }
    [more_of_a, more_of_b]
}
