//! A report as a table: columns for people, comma-separated values for programs.

use std::fmt;
use std::path::Path;

use super::report::{RankReport, TensorRank};
use crate::hub::write_atomically;
use crate::text::{LINE, cell, number, write_columns};
use crate::{Error, Result};

/// The singular values of a single matrix that are printed.
const VALUES_SHOWN: usize = 16;

/// A column: its heading, its name in a file, and the value of a matrix.
struct Column {
    heading: String,
    name: &'static str,
    value: fn(&TensorRank) -> Option<Number>,
}

/// A number in a table.
enum Number {
    Count(usize),
    Real(f64),
}

impl RankReport {
    /// The columns that at least one matrix has a value for.
    fn columns(&self) -> Vec<Column> {
        use Number::{Count, Real};
        let energy = self.tensors.first().map_or(0.0, |tensor| tensor.energy);
        let k = self.tensors.iter().find_map(|tensor| Some(tensor.approximation?.k)).unwrap_or(0);
        let column = |heading: &str, name, value| Column { heading: heading.to_owned(), name, value };
        let all = [
            column("r", "r", |t| t.r.map(Count)),
            column("rank", "rank", |t| Some(Count(t.rank))),
            column("stable", "stable_rank", |t| Some(Real(t.stable_rank))),
            column("eff.", "effective_rank", |t| Some(Real(t.effective_rank))),
            column(&format!("{}%", shortest(100.0 * energy)), "rank_for_energy", |t| {
                Some(Count(t.rank_for_energy))
            }),
            column("σ₁", "spectral_norm", |t| Some(Real(t.spectral_norm))),
            column("Frob.", "frobenius_norm", |t| Some(Real(t.frobenius_norm))),
            column(&format!("kept by {k}"), "approximation_energy", |t| Some(Real(t.approximation?.energy))),
            column("off (Frob.)", "approximation_frobenius_error", |t| {
                Some(Real(t.approximation?.error.frobenius))
            }),
            column("off (σ₁)", "approximation_spectral_error", |t| {
                Some(Real(t.approximation?.error.spectral))
            }),
            column("overlap (1, 1)", "overlap_first", |t| t.overlap.as_ref()?.first().map(Real)),
            column("overlap (all)", "overlap", |t| t.overlap.as_ref()?.whole().map(Real)),
            column("at random", "overlap_random", |t| Some(Real(t.overlap.as_ref()?.random))),
            column("base", "base_norm", |t| Some(Real(t.base.as_ref()?.base_norm))),
            column("base there", "projected_norm", |t| Some(Real(t.base.as_ref()?.projected_norm))),
            column("at most", "base_top_norm", |t| Some(Real(t.base.as_ref()?.base_top_norm))),
            column("at random", "random_norm", |t| Some(Real(t.base.as_ref()?.random_norm))),
            column("amplified", "amplification", |t| t.base.as_ref()?.amplification.map(Real)),
            column("above it", "base_values_above", |t| Some(Count(t.base.as_ref()?.base_values_above))),
        ];
        all.into_iter()
            .filter(|column| self.tensors.iter().any(|tensor| (column.value)(tensor).is_some()))
            .collect()
    }

    /// Writes a line for each matrix, under a header.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let columns = self.columns();
        let mut rows = vec![vec!["name".to_owned(), "rows".to_owned(), "columns".to_owned()]];
        rows[0].extend(columns.iter().map(|column| column.name.to_owned()));
        for tensor in &self.tensors {
            let mut row = vec![tensor.name.clone(), tensor.shape[0].to_string(), tensor.shape[1].to_string()];
            row.extend(columns.iter().map(|column| match (column.value)(tensor) {
                Some(Number::Count(count)) => count.to_string(),
                Some(Number::Real(value)) => value.to_string(),
                None => String::new(),
            }));
            rows.push(row);
        }
        write(path, &rows)
    }

    /// Writes a line for each singular value: its matrix, its number from 1, and the energy that is kept with it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_values(&self, path: &Path) -> Result<()> {
        let mut rows = vec![["name", "k", "singular_value", "energy"].map(str::to_owned).to_vec()];
        for tensor in &self.tensors {
            for (index, (value, energy)) in tensor.singular_values.iter().zip(tensor.energies()).enumerate() {
                rows.push(vec![
                    tensor.name.clone(),
                    (index + 1).to_string(),
                    value.to_string(),
                    energy.to_string(),
                ]);
            }
        }
        write(path, &rows)
    }
}

fn write(path: &Path, rows: &[Vec<String>]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = rows.iter().try_for_each(|row| writer.write_record(row));
    let bytes = written
        .map_err(|error| error.to_string())
        .and_then(|()| writer.into_inner().map_err(|error| error.to_string()));
    let bytes = bytes.map_err(|reason| Error::file(path, reason))?;
    write_atomically(path, |file| file.write_all(&bytes))
}

/// A number without the digits that its rounding in binary adds.
pub(super) fn shortest(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Real(value) => f.write_str(&cell(*value)),
        }
    }
}

impl fmt::Display for RankReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns();
        let mut lines = vec![vec!["tensor".to_owned(), "shape".to_owned()]];
        lines[0].extend(columns.iter().map(|column| column.heading.clone()));
        for tensor in &self.tensors {
            let [rows, width] = tensor.shape;
            // A name comes from a file, and may hold what a terminal obeys.
            let name = tensor.name.escape_debug().to_string();
            let mut line = vec![name, format!("{rows}x{width}")];
            let value = |column: &Column| (column.value)(tensor).map_or("-".to_owned(), |v| v.to_string());
            line.extend(columns.iter().map(value));
            lines.push(line);
        }
        write_columns(f, &lines)?;
        if let [tensor] = &self.tensors[..] {
            write_singular_values(f, tensor)?;
        }
        let count = self.tensors.len();
        write!(f, "{count} {}", if count == 1 { "matrix" } else { "matrices" })?;
        let skipped = self.skipped;
        let kinds = [
            (skipped.vectors, "vectors and scalars"),
            (skipped.not_floating, "tensors of other types"),
            (skipped.companions, "tensors beside weights in 8 bits"),
        ];
        let told: Vec<_> = kinds.iter().filter(|(count, _)| *count > 0).collect();
        if !told.is_empty() {
            write!(f, "\nleft out:")?;
        }
        for (index, (count, what)) in told.into_iter().enumerate() {
            write!(f, "{} {count} {what}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

fn write_singular_values(f: &mut fmt::Formatter<'_>, tensor: &TensorRank) -> fmt::Result {
    let shown = tensor.singular_values.iter().take(VALUES_SHOWN).map(|value| number(*value));
    let more = tensor.singular_values.len().saturating_sub(VALUES_SHOWN);
    let rest = (more > 0).then(|| format!("and {more} more"));
    let mut line = "singular values:".to_owned();
    for word in shown.chain(rest) {
        if line.chars().count() + 1 + word.chars().count() > LINE {
            writeln!(f, "{line}")?;
            line = " ".to_owned();
        }
        line = format!("{line} {word}");
    }
    writeln!(f, "{line}")?;
    writeln!(f, "those above {} count", number(tensor.tolerance))
}
