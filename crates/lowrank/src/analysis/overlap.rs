//! How much two adapters' subspaces have in common.

use serde::Serialize;

use super::matrix::Matrix;
use super::product::dot;
use super::spectrum::Tolerance;
use crate::{Error, Result};

/// Which singular directions of a matrix span its subspaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The right ones: of an adapter's `A`, in the space of a layer's inputs.
    #[default]
    Right,
    /// The left ones: of an adapter's `B`, in the space of a layer's outputs.
    Left,
}

/// `φ(X, Y, i, j)` for every `i` and `j` up to the numerical ranks of two matrices.
///
/// Directions beyond the rank are arbitrary, so a matrix of zeros leaves an empty grid.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overlap {
    /// The largest `i` and the largest `j`.
    pub shape: [usize; 2],
    /// What directions drawn at random overlap by, on average, at the largest `i` and `j`: `max(i, j)/D` in `D`
    /// dimensions.
    pub random: f64,
    /// `φ` at `i` and `j`, both counted from 1, is `values[i - 1][j - 1]`: 0 for subspaces at right angles, 1 where the
    /// smaller lies in the larger.
    pub values: Vec<Vec<f64>>,
}

impl Overlap {
    /// `φ` at the largest `i` and `j`; none if either matrix is zero.
    pub fn whole(&self) -> Option<f64> {
        self.values.last()?.last().copied()
    }

    /// `φ` at `i = j = 1`: the squared cosine between the two first directions; none if either matrix is zero.
    pub fn first(&self) -> Option<f64> {
        self.values.first()?.first().copied()
    }
}

/// The grid of `φ(X, Y, i, j) = ‖U_X,iᵀ·U_Y,j‖_F² / min(i, j)`, where the columns of `U_X,i` are the first `i` singular
/// directions of `X`.
///
/// # Errors
/// If the directions have different lengths, or a value is not finite.
///
/// # Source
/// LoRA (arXiv 2106.09685), section 7.2, equation 4; the paper takes the right directions of `A`.
pub fn subspace_overlap(x: &Matrix<'_>, y: &Matrix<'_>, side: Side) -> Result<Overlap> {
    let width = |matrix: &Matrix<'_>| match side {
        Side::Right => matrix.columns(),
        Side::Left => matrix.rows(),
    };
    if width(x) != width(y) {
        let (one, other) = (width(x), width(y));
        let names = (x.name(), y.name());
        let reason = format!(
            "{} and {}: directions of {one} and of {other} elements cannot overlap",
            names.0, names.1
        );
        return Err(Error::Usage(reason));
    }
    let (of_x, of_y) = (directions(x, side)?, directions(y, side)?);
    let shape = [of_x.len() / width(x).max(1), of_y.len() / width(y).max(1)];
    let mut values: Vec<Vec<f64>> = Vec::with_capacity(shape[0]);
    // The sum of squares over all smaller i, for each j.
    let mut above = vec![0.0; shape[1]];
    for (i, direction) in of_x.chunks_exact(width(x).max(1)).enumerate() {
        let mut in_row = 0.0;
        let row =
            of_y.chunks_exact(width(y).max(1)).zip(&mut above).enumerate().map(|(j, (other, above))| {
                in_row += dot(direction, other).powi(2);
                *above += in_row;
                *above / (i.min(j) + 1) as f64
            });
        values.push(row.collect());
    }
    let random = shape[0].max(shape[1]) as f64 / width(x).max(1) as f64;
    Ok(Overlap { shape, random, values })
}

/// The singular directions of a matrix up to its numerical rank, each a row.
fn directions(matrix: &Matrix<'_>, side: Side) -> Result<Vec<f64>> {
    let svd = matrix.svd()?;
    let rank = super::spectrum::Spectrum::new(matrix.rows(), matrix.columns(), matrix.epsilon(), svd.values)
        .rank(Tolerance::Usual);
    let (mut directions, width) = match side {
        Side::Right => (svd.right, matrix.columns()),
        Side::Left => (svd.left, matrix.rows()),
    };
    directions.truncate(rank * width);
    Ok(directions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap(x: &[f32], y: &[f32], rows: [usize; 2]) -> Overlap {
        let width = x.len() / rows[0];
        let x = Matrix::from_f32("x", x, rows[0], width).unwrap();
        let y = Matrix::from_f32("y", y, rows[1], width).unwrap();
        subspace_overlap(&x, &y, Side::Right).unwrap()
    }

    #[test]
    fn a_subspace_overlaps_wholly_with_itself_and_not_with_what_is_at_right_angles() {
        let x = [3.0, 0.0, 0.0, 0.0, 2.0, 0.0];
        let own = overlap(&x, &x, [2, 2]);
        // The first directions are the same, and the second is at right angles to the first.
        assert_eq!(own.values, [[1.0, 1.0], [1.0, 1.0]]);
        let other = overlap(&x, &[0.0, 0.0, 5.0], [2, 1]);
        assert_eq!((other.shape, other.whole()), ([2, 1], Some(0.0)));
    }

    #[test]
    fn directions_at_45_degrees_overlap_by_a_half() {
        let half = overlap(&[1.0, 0.0], &[1.0, 1.0], [1, 1]);
        assert!((half.whole().unwrap() - 0.5).abs() < 1e-7);
        assert_eq!(half.random, 0.5);
    }

    #[test]
    fn zeros_have_no_subspace() {
        let none = overlap(&[0.0, 0.0], &[1.0, 1.0], [1, 1]);
        assert_eq!((none.shape, none.whole()), ([0, 1], None));
    }
}
