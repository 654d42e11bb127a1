//! Ranks, spectra and subspaces, against what NumPy and PyTorch make of the same matrices.
#![allow(clippy::unwrap_used, missing_docs)]

mod files;
mod golden;
mod plots;
mod properties;
