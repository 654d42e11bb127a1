//! The ways to combine adapters, under PEFT's names.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// PEFT's `combination_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Factors stacked: the sum itself, of the sum of the ranks.
    Cat,
    /// `A`s and `B`s by themselves, which is not the sum of the products.
    Factors(Merging),
    /// Products, and then the best approximation of a rank. Of [`Merging::Linear`] it is that of the sum.
    Svd(Merging),
}

/// What becomes of several tensors of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merging {
    /// Their weighted sum.
    Linear,
    /// The largest elements of each; of these, the mean of those that have the sign of most (TIES, arXiv 2306.01708).
    Ties,
    /// Random elements of each, scaled up to make good for the others (DARE, arXiv 2311.03099), summed.
    DareLinear,
    /// The same with the signs and the mean of TIES.
    DareTies,
    /// The largest elements of each, summed.
    MagnitudePrune,
}

impl Merging {
    /// Whether elements are left out, so that there is a density.
    pub fn prunes(self) -> bool {
        self != Self::Linear
    }
}

/// How the sign of most is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MajoritySign {
    /// The sign of the sum.
    #[default]
    Total,
    /// The sign that more of them have.
    Frequency,
}

impl Method {
    /// All of them with PEFT's names.
    pub const NAMES: [(&'static str, Self); 11] = [
        ("linear", Self::Factors(Merging::Linear)),
        ("cat", Self::Cat),
        ("svd", Self::Svd(Merging::Linear)),
        ("ties", Self::Factors(Merging::Ties)),
        ("ties_svd", Self::Svd(Merging::Ties)),
        ("dare_linear", Self::Factors(Merging::DareLinear)),
        ("dare_linear_svd", Self::Svd(Merging::DareLinear)),
        ("dare_ties", Self::Factors(Merging::DareTies)),
        ("dare_ties_svd", Self::Svd(Merging::DareTies)),
        ("magnitude_prune", Self::Factors(Merging::MagnitudePrune)),
        ("magnitude_prune_svd", Self::Svd(Merging::MagnitudePrune)),
    ];

    /// Whether elements are left out, so that there is a density.
    pub fn prunes(self) -> bool {
        match self {
            Self::Cat => false,
            Self::Factors(merging) | Self::Svd(merging) => merging.prunes(),
        }
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, method)| *method)
            .ok_or_else(|| Error::unknown("method", name, Self::NAMES.map(|(name, _)| name)))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, method)| method == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}
