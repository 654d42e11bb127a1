//! The work of `lowrank rank`: every matrix of a file, or some.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use lowrank_kernels::svd;
use rayon::prelude::*;
use serde::Serialize;

use super::approximation::ApproximationError;
use super::base::Base;
use super::file::{MatrixFile, Skipped, Subject};
use super::overlap::{Overlap, Side, subspace_overlap};
use super::place::Place;
use super::spectrum::Tolerance;
use crate::{Error, Result};

/// What to find out.
#[derive(Clone, Debug)]
pub struct RankOptions<'a> {
    /// A safetensors file, a model folder or an adapter folder.
    pub file: &'a Path,
    /// The names to look at, that of a stack for all of its experts; empty: all.
    pub tensors: &'a [String],
    /// Above which a singular value counts.
    pub tolerance: Tolerance,
    /// The part of the energy of which the rank is told, from 0 to 1.
    pub energy: f64,
    /// The rank of which the best approximation's error is told.
    pub approximate: Option<usize>,
    /// An adapter whose subspaces are compared with this one's.
    pub with: Option<&'a Path>,
    /// The directions that are compared.
    pub side: Side,
    /// The base model in whose spectra an adapter is placed: a folder, or a Hub id.
    pub base: Option<&'a str>,
}

/// What was found out.
#[derive(Clone, Debug, Serialize)]
pub struct RankReport {
    /// The file or folder.
    pub file: PathBuf,
    /// The matrices, in the order of their names.
    pub tensors: Vec<TensorRank>,
    /// Tensors of the file that are no matrices of floating numbers.
    pub skipped: Skipped,
}

/// A matrix, or the product of an adapter's pair.
#[derive(Clone, Debug, Serialize)]
pub struct TensorRank {
    /// The tensor's key, with a number if it is a stack's expert, or the module that the pair adapts.
    pub name: String,
    /// The shape as a matrix.
    pub shape: [usize; 2],
    /// Of a pair: its rank as it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r: Option<usize>,
    /// Of a pair: what its product is multiplied by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<f64>,
    /// How many singular values are above the tolerance.
    pub rank: usize,
    /// Above which a singular value counts.
    pub tolerance: f64,
    /// `‖W‖_F²/σ₁²`.
    pub stable_rank: f64,
    /// The exponential of the entropy of the singular values.
    pub effective_rank: f64,
    /// The part of the energy that `rank_for_energy` keeps.
    pub energy: f64,
    /// The smallest rank that keeps this part of the energy.
    pub rank_for_energy: usize,
    /// The largest singular value.
    pub spectral_norm: f64,
    /// The root of the sum of all squares.
    pub frobenius_norm: f64,
    /// The best approximation of the rank that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approximation: Option<Approximation>,
    /// How its subspace overlaps with that of the other adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    /// Where it lies in the base weight's spectrum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Place>,
    /// All singular values, the largest first.
    pub singular_values: Vec<f64>,
}

impl TensorRank {
    /// The part of the energy that the first `k` singular values have, for each `k` from 1.
    pub fn energies(&self) -> impl Iterator<Item = f64> {
        let mut kept = 0.0;
        let squares = move |value: &f64| {
            let part = if self.frobenius_norm > 0.0 { value / self.frobenius_norm } else { 0.0 };
            kept += part * part;
            if self.frobenius_norm > 0.0 { f64::min(kept, 1.0) } else { 1.0 }
        };
        self.singular_values.iter().map(squares)
    }
}

/// The best approximation of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Approximation {
    /// The rank.
    pub k: usize,
    /// The part of the energy that it keeps.
    pub energy: f64,
    /// How far it is off.
    #[serde(flatten)]
    pub error: ApproximationError,
}

/// Analyses a file. Small matrices share the threads, and large ones have them all in turn; neither changes a digit.
///
/// `on_done` is told of each finished matrix: how many are, of how many.
///
/// # Errors
/// If a file cannot be read, a name is unknown, a value is not finite, or the other adapter or the base model has no
/// matrix of the shape that is needed under a name.
pub fn rank(options: &RankOptions<'_>, on_done: &(dyn Fn(usize, usize) + Sync)) -> Result<RankReport> {
    if !(0.0..=1.0).contains(&options.energy) {
        return Err(Error::setting("energy", format!("{} is not in 0..=1", options.energy)));
    }
    if let Tolerance::Relative(value) | Tolerance::Absolute(value) = options.tolerance
        && !(value >= 0.0 && value.is_finite())
    {
        return Err(Error::setting("tolerance", format!("{value} is not a number of at least 0")));
    }
    let file = MatrixFile::open(options.file)?;
    let subjects = chosen(&file, options)?;
    let other = options.with.map(MatrixFile::open).transpose()?;
    let base = options.base.map(Base::open).transpose()?;
    let done = AtomicUsize::new(0);
    let look = |(name, subject): &(String, Subject<'_>)| {
        let looked = look_at(name, subject, &file, other.as_ref(), base.as_ref(), options);
        on_done(done.fetch_add(1, Ordering::Relaxed) + 1, subjects.len());
        looked
    };
    let alone = |subject: &Subject<'_>| match subject {
        Subject::Matrix(matrix) => svd::is_parallel(matrix.rows(), matrix.columns()),
        Subject::Product(_) => base.is_some(),
    };
    let mut looked: Vec<Option<Result<TensorRank>>> =
        subjects.par_iter().map(|subject| (!alone(&subject.1)).then(|| look(subject))).collect();
    for (subject, looked) in subjects.iter().zip(&mut looked) {
        if looked.is_none() {
            *looked = Some(look(subject));
        }
        // What comes after the first mistake would be for nothing.
        if matches!(looked, Some(Err(_))) {
            break;
        }
    }
    let tensors = looked.into_iter().flatten().collect::<Result<_>>()?;
    Ok(RankReport { file: options.file.to_path_buf(), tensors, skipped: file.skipped() })
}

/// What is to be looked at, in the order of the names.
fn chosen<'f>(file: &'f MatrixFile, options: &'f RankOptions<'_>) -> Result<Vec<(String, Subject<'f>)>> {
    let mut names = file.meant(options.tensors.iter().map(String::as_str));
    let of_adapter = options.with.is_some() || options.base.is_some();
    if names.is_empty() {
        names = file.names().collect();
    }
    let mut subjects = Vec::with_capacity(names.len());
    for name in names {
        let subject = file.get(name)?;
        match (&subject, options.tensors.is_empty()) {
            // Heads and the like, which an adapter brings along, are no updates.
            (Subject::Matrix(_), true) if of_adapter => {}
            (Subject::Matrix(_), false) if of_adapter => {
                let reason = "it is no pair of an adapter, so that there is nothing to compare";
                return Err(Error::tensor(options.file, name, reason));
            }
            _ => subjects.push((name.to_owned(), subject)),
        }
    }
    if of_adapter && subjects.is_empty() {
        let reason = "it holds no pairs lora_A and lora_B; an adapter is needed to compare";
        return Err(Error::file(options.file, reason));
    }
    Ok(subjects)
}

fn look_at(
    name: &str,
    subject: &Subject<'_>,
    file: &MatrixFile,
    other: Option<&MatrixFile>,
    base: Option<&Base>,
    options: &RankOptions<'_>,
) -> Result<TensorRank> {
    let (spectrum, product) = match subject {
        Subject::Matrix(matrix) => (matrix.spectrum()?, None),
        Subject::Product(product) => (product.spectrum()?, Some(product)),
    };
    let overlap = match (other, product) {
        (Some(other), Some(product)) if !other.has(name) => {
            let reason = format!(
                "it has no pair for this layer, for which {} (rank {}) has one; --tensor looks at single layers",
                file.path().display(),
                product.r()
            );
            return Err(Error::tensor(other.path(), name, reason).unsuitable(other.path().to_string_lossy()));
        }
        (Some(other), Some(product)) => match other.get(name)? {
            Subject::Product(with) => Some(match options.side {
                Side::Right => subspace_overlap(product.a(), with.a(), Side::Right)?,
                Side::Left => subspace_overlap(product.b(), with.b(), Side::Left)?,
            }),
            Subject::Matrix(_) => {
                return Err(Error::tensor(other.path(), name, "it is no pair of an adapter"));
            }
        },
        _ => None,
    };
    let place = match (base, product) {
        (Some(base), Some(product)) => Some(base.place(name, product, file.fan_in_fan_out())?),
        _ => None,
    };
    Ok(TensorRank {
        name: name.to_owned(),
        shape: spectrum.shape(),
        r: product.map(|product| product.r()),
        scaling: product.map(|product| product.scaling()),
        rank: spectrum.rank(options.tolerance),
        tolerance: spectrum.tolerance(options.tolerance),
        stable_rank: spectrum.stable_rank(),
        effective_rank: spectrum.effective_rank(),
        energy: options.energy,
        rank_for_energy: spectrum.rank_for_energy(options.energy),
        spectral_norm: spectrum.spectral_norm(),
        frobenius_norm: spectrum.frobenius_norm(),
        approximation: options.approximate.map(|k| Approximation {
            k,
            energy: spectrum.energy(k),
            error: spectrum.approximation_error(k),
        }),
        overlap,
        base: place,
        singular_values: spectrum.into_values(),
    })
}
