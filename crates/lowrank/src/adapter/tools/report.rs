//! What a made adapter lacks of what it was to be.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::text::{cell, number, write_columns};

/// A layer of a made adapter, beside the product that it stands for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MadeLayer {
    /// Its name.
    pub name: String,
    /// The shape of the product.
    pub shape: [usize; 2],
    /// Its rank.
    pub r: usize,
    /// The Frobenius norm of the product that it stands for.
    pub norm: f64,
    /// The Frobenius norm of what it lacks, in f32 as it is written.
    pub error: f64,
    /// The same as a part of the norm; not a number that JSON has if that is 0 and the error is not.
    pub relative_error: f64,
}

impl MadeLayer {
    pub(crate) fn new(name: &str, shape: [usize; 2], r: usize, norm: f64, error: f64) -> Self {
        Self { name: name.to_owned(), shape, r, norm, error, relative_error: relative(error, norm) }
    }
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MadeReport {
    /// The folder.
    pub out: PathBuf,
    /// The layers, in the order of their names.
    pub layers: Vec<MadeLayer>,
    /// The error of all layers together, as a part of the norm of all.
    pub relative_error: f64,
    /// How many tensors are in it beside the pairs: heads and other modules to save, biases.
    pub kept: usize,
    /// What there is to say of it, a sentence each.
    pub notes: Vec<String>,
}

impl MadeReport {
    pub(crate) fn new(out: PathBuf, layers: Vec<MadeLayer>, kept: usize, notes: Vec<String>) -> Self {
        let all = |value: fn(&MadeLayer) -> f64| {
            layers.iter().map(|layer| value(layer).powi(2)).sum::<f64>().sqrt()
        };
        let relative_error = relative(all(|layer| layer.error), all(|layer| layer.norm));
        Self { out, layers, relative_error, kept, notes }
    }
}

fn relative(error: f64, norm: f64) -> f64 {
    if error == 0.0 { 0.0 } else { error / norm }
}

impl fmt::Display for MadeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines =
            vec![["layer", "shape", "r", "norm", "error", "relative"].map(str::to_owned).to_vec()];
        for layer in &self.layers {
            let [rows, columns] = layer.shape;
            // A name comes from a file, and may hold what a terminal obeys.
            let name = layer.name.escape_debug().to_string();
            let numbers = [layer.norm, layer.error, layer.relative_error].map(cell);
            lines.push(
                [vec![name, format!("{rows}x{columns}"), layer.r.to_string()], numbers.to_vec()].concat(),
            );
        }
        write_columns(f, &lines)?;
        for note in &self.notes {
            writeln!(f, "{}", note.escape_debug())?;
        }
        let (layers, kept, off) = (self.layers.len(), self.kept, number(self.relative_error));
        write!(
            f,
            "{layers} layers, off by {off} of their norm; {kept} other tensors, in {}",
            self.out.display()
        )
    }
}
