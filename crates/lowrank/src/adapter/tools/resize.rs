//! An adapter of another rank.

use std::path::Path;

use lowrank_kernels::random::Philox;

use super::factors::Factors;
use super::folder::AdapterFolder;
use super::made::{Made, MadePair};
use super::report::{MadeLayer, MadeReport};
use crate::adapter::config::Distribution;
use crate::adapter::initialise::stream_of;
use crate::analysis::{Product, Spectrum};
use crate::hub::check_is_free;
use crate::{Error, Result};

/// Of the values that fill a larger rank.
const SEED: u64 = 42;

/// How a rank is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RankChoice {
    /// This one; of a layer with a shorter side, that.
    Rank(usize),
    /// The smallest that keeps this part of the energy, the sum of the squared singular values.
    Energy(f64),
}

impl RankChoice {
    /// Checks that it is in its range.
    ///
    /// # Errors
    /// If the rank is 0, or the energy not above 0 and at most 1.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Rank(0) => Err(Error::setting("rank", "it is 0; a rank is at least 1")),
            Self::Energy(part) if !(part > 0.0 && part <= 1.0) => {
                Err(Error::setting("energy", format!("{part} is not above 0 and at most 1")))
            }
            _ => Ok(()),
        }
    }

    /// The rank for a matrix with this spectrum, at least 1.
    pub fn of(self, spectrum: &Spectrum) -> usize {
        let [rows, columns] = spectrum.shape();
        let k = match self {
            Self::Rank(rank) => rank,
            Self::Energy(part) => spectrum.rank_for_energy(part),
        };
        k.clamp(1, rows.min(columns).max(1))
    }
}

/// Writes the adapter with each product replaced by its best approximation of another rank, which is written with a
/// scaling of 1. A larger rank changes nothing yet: what is added to `A` is drawn as for a fresh adapter, and to `B` zero.
///
/// # Errors
/// If the choice is out of range, the adapter cannot be read, or the folder is not empty or cannot be written.
pub fn resize(adapter: &str, choice: RankChoice, out: &Path) -> Result<MadeReport> {
    choice.check()?;
    check_is_free(out)?;
    let folder = AdapterFolder::open(adapter)?;
    let (mut pairs, mut layers) = (Vec::new(), Vec::new());
    for layer in folder.layers() {
        folder.check_magnitude(layer)?;
        let (name, product) = (layer.name().to_owned(), folder.product(layer)?);
        let spectrum = product.spectrum()?;
        let factors = resized(&name, &product, choice.of(&spectrum))?.rounded();
        let wanted = Factors::sum(&[(product.scaling(), &Factors::stored(&product)?)]);
        let error = factors.distance(&wanted, &name)?;
        layers.push(MadeLayer::new(&name, spectrum.shape(), factors.r, spectrum.frobenius_norm(), error));
        let (inputs, bias) = (folder.inputs(layer)?.to_vec(), folder.bias(layer)?);
        let (parameter, is_embedding) = (layer.adapted.parameter.clone(), layer.is_embedding);
        pairs.push(MadePair { name, parameter, is_embedding, inputs, factors, bias });
    }
    let others: Vec<_> = folder.others().map(|(key, view)| (key.to_owned(), view)).collect();
    let report = MadeReport::new(out.to_path_buf(), layers, others.len(), Vec::new());
    Made { pairs, others, settings: folder.settings().clone() }.write(out)?;
    Ok(report)
}

/// The factors of the best approximation, filled up to the rank where the product's is less.
fn resized(name: &str, product: &Product<'_>, rank: usize) -> Result<Factors> {
    let (rows, columns) = (product.rows(), product.columns());
    let mut made = Factors::of(product.low_rank_approximation(rank)?, rows, columns);
    let missing = rank - made.r;
    if missing > 0 {
        let mut drawn = vec![0.0_f32; missing * columns];
        Distribution::kaiming(columns).fill(&mut drawn, &mut Philox::new(SEED, stream_of(name)));
        made.a.extend(drawn.into_iter().map(f64::from));
        let zeros = std::iter::repeat_n(0.0, missing);
        made.b =
            made.b.chunks_exact(made.r).flat_map(|row| row.iter().copied().chain(zeros.clone())).collect();
        made.r = rank;
    }
    Ok(made)
}
