//! Where an adapter's update lies in the spectrum of the weight that it changes.

use rayon::prelude::*;
use serde::Serialize;

use super::matrix::{Matrix, frobenius_norm};
use super::product::{Product, dot};
use super::spectrum::Tolerance;
use crate::{Error, Result};

/// How an update `ΔW` of rank `r` stands to its base weight `W` `[M, N]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// The numerical rank `r` of the update.
    pub rank: usize,
    /// `‖W‖_F`.
    pub base_norm: f64,
    /// `‖ΔW‖_F`.
    pub update_norm: f64,
    /// `‖Uᵀ·W·V‖_F`, where `U` and `V` are the update's first `r` left and right directions: what of the base lies where
    /// the update does.
    pub projected_norm: f64,
    /// The same for the base's own first `r` directions: the most that there can be.
    pub base_top_norm: f64,
    /// The same for directions drawn at random, in the root mean square: `r·‖W‖_F/√(M·N)`.
    pub random_norm: f64,
    /// `‖ΔW‖_F / ‖Uᵀ·W·V‖_F`; none where the update or the projection is zero.
    pub amplification: Option<f64>,
    /// How many of the base's singular values are larger than the update's largest.
    pub base_values_above: usize,
}

/// Where an update lies in the spectrum of a base weight of the same shape.
///
/// # Errors
/// If the shapes differ, or a value is not finite.
///
/// # Source
/// LoRA (arXiv 2106.09685), section 7.3 and table 7.
pub fn place_in_spectrum(update: &Product<'_>, base: &Matrix<'_>) -> Result<Place> {
    let shape = [base.rows(), base.columns()];
    if [update.rows(), update.columns()] != shape {
        let of_update = [update.rows(), update.columns()];
        return Err(Error::Usage(format!(
            "{}: its shape is {shape:?} where the adapter's product has {of_update:?}",
            base.name()
        )));
    }
    let svd = update.svd()?;
    let of_update = update.spectrum()?;
    let rank = of_update.rank(Tolerance::Usual);
    let [rows, columns] = shape;
    let right = &svd.right[..rank * columns];
    // W·V, a row of the base at a time, each by itself.
    let values = base.values()?;
    let mut onto_right = vec![0.0; rows * rank];
    if rank > 0 {
        onto_right.par_chunks_mut(rank).zip(values.par_chunks(columns)).for_each(|(out, row)| {
            out.iter_mut().zip(right.chunks_exact(columns)).for_each(|(out, v)| *out = dot(row, v));
        });
    }
    let mut projected = vec![0.0; rank * rank];
    for (i, out) in projected.chunks_exact_mut(rank.max(1)).enumerate() {
        let u = &svd.left[i * rows..][..rows];
        for (weight, row) in u.iter().zip(onto_right.chunks_exact(rank)) {
            out.iter_mut().zip(row).for_each(|(out, value)| *out += weight * value);
        }
    }
    let (projected_norm, update_norm) = (frobenius_norm(&projected), of_update.frobenius_norm());
    let spectrum = base.spectrum()?;
    let base_norm = spectrum.frobenius_norm();
    let elements = (rows as f64 * columns as f64).max(1.0);
    Ok(Place {
        rank,
        base_norm,
        update_norm,
        projected_norm,
        base_top_norm: frobenius_norm(&spectrum.values()[..rank]),
        random_norm: rank as f64 * base_norm / elements.sqrt(),
        amplification: (update_norm > 0.0 && projected_norm > 0.0).then(|| update_norm / projected_norm),
        base_values_above: spectrum
            .values()
            .iter()
            .filter(|value| **value > of_update.spectral_norm())
            .count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_along_a_direction_of_the_base_meets_its_singular_value_there() {
        let base = [5.0, 0.0, 0.0, 0.0, 2.0, 0.0];
        let base = Matrix::from_f32("W", &base, 2, 3).unwrap();
        let b = Matrix::from_f32("B", &[0.0, 3.0], 2, 1).unwrap();
        let a = Matrix::from_f32("A", &[0.0, 1.0, 0.0], 1, 3).unwrap();
        let update = Product::new(b, a, 2.0).unwrap();
        let place = place_in_spectrum(&update, &base).unwrap();
        assert_eq!((place.rank, place.base_values_above), (1, 0));
        let near = |value: f64, wanted: f64| assert!((value - wanted).abs() < 1e-12, "{value} for {wanted}");
        near(place.projected_norm, 2.0);
        near(place.update_norm, 6.0);
        near(place.amplification.unwrap(), 3.0);
        near(place.base_top_norm, 5.0);
        near(place.random_norm, 29.0_f64.sqrt() / 6.0_f64.sqrt());
    }

    #[test]
    fn an_update_of_nothing_has_no_amplification() {
        let base = Matrix::from_f32("W", &[1.0, 2.0], 1, 2).unwrap();
        let b = Matrix::from_f32("B", &[0.0], 1, 1).unwrap();
        let a = Matrix::from_f32("A", &[1.0, 1.0], 1, 2).unwrap();
        let place = place_in_spectrum(&Product::new(b, a, 1.0).unwrap(), &base).unwrap();
        assert_eq!((place.rank, place.projected_norm, place.amplification), (0, 0.0, None));
    }
}
