//! Plots of a report, as SVG and PNG: spectra, energy against rank, a map of modules and layers.

mod chart;
mod drawing;
mod font;
mod heat_map;
mod layers;
mod palette;
mod raster;
mod svg;

use std::path::Path;

use chart::{Chart, Scale, Series};
use heat_map::HeatMap;

pub use drawing::{Anchor, Color, Drawing, Mark};
pub use raster::to_png;
pub use svg::to_svg;

use super::report::{RankReport, TensorRank};
use crate::hub::write_atomically;
use crate::{Error, Result};

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The singular values over the largest, against their number, on a logarithmic axis.
    Spectrum,
    /// The part of the energy that is kept, against the rank.
    Energy,
    /// A value of each matrix, modules against layers; of one pair's overlap, `φ(i, j)` itself.
    HeatMap(Measure),
}

/// The value of a matrix that a heat map shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The numerical rank.
    Rank,
    /// The stable rank.
    StableRank,
    /// The effective rank.
    EffectiveRank,
    /// The rank that keeps the part of the energy that was asked for.
    RankForEnergy,
    /// The overlap with the other adapter.
    Overlap,
    /// The amplification of what of the base lies where the update does.
    Amplification,
}

/// Singular values below this part of the largest are rounding, and are not drawn.
const SMALLEST: f64 = 1e-9;
/// The most rows or columns of a heat map.
const MOST_CELLS: usize = 1000;

/// The format that a file's name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Scalable vector graphics.
    Svg,
    /// A picture of pixels, two for one of the drawing's in each direction.
    Png,
}

impl Format {
    /// The format of a file's ending.
    ///
    /// # Errors
    /// If it is neither `.svg` nor `.png`.
    pub fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "svg" => Ok(Self::Svg),
            "png" => Ok(Self::Png),
            _ => {
                Err(Error::setting("plot", format!("{}: a plot's file ends in .svg or .png", path.display())))
            }
        }
    }
}

/// Draws a report.
///
/// # Errors
/// If there is nothing to draw, or too much for a heat map.
pub fn draw(report: &RankReport, kind: Kind) -> Result<Drawing> {
    if report.tensors.is_empty() {
        return Err(Error::file(&report.file, "it holds no matrix to plot"));
    }
    match kind {
        Kind::Spectrum => Ok(spectra(report).draw()),
        Kind::Energy => Ok(energies(report).draw()),
        Kind::HeatMap(measure) => {
            let map = heat_map(report, measure)?;
            if map.rows.len().max(map.columns.len()) > MOST_CELLS {
                let (rows, columns) = (map.rows.len(), map.columns.len());
                let reason = format!(
                    "{rows} rows and {columns} columns are too many for a heat map; name some tensors"
                );
                return Err(Error::setting("kind", reason));
            }
            Ok(map.draw())
        }
    }
}

/// Writes a drawing in the format of the file's ending.
///
/// # Errors
/// If the ending is another, or the file cannot be written.
pub fn save(drawing: &Drawing, path: &Path) -> Result<()> {
    let bytes = match Format::of(path)? {
        Format::Svg => to_svg(drawing).into_bytes(),
        Format::Png => to_png(drawing).map_err(|error| Error::file(path, error.to_string()))?,
    };
    write_atomically(path, |file| file.write_all(&bytes))
}

/// What the title names: the matrix if there is one, else the file.
fn subject(report: &RankReport) -> String {
    match &report.tensors[..] {
        [tensor] => chart::shortened(&tensor.name, 60),
        _ => {
            let name = report.file.file_name().unwrap_or(report.file.as_os_str());
            chart::shortened(&name.to_string_lossy(), 60)
        }
    }
}

fn lines(report: &RankReport, points: impl Fn(&TensorRank) -> Vec<[f64; 2]>) -> Vec<Series> {
    let line = |tensor: &TensorRank| Series { name: tensor.name.clone(), points: points(tensor) };
    report.tensors.iter().map(line).collect()
}

/// The ends of an axis of ranks.
fn ranks(series: &[Series]) -> [f64; 2] {
    let last = series.iter().filter_map(|series| series.points.last()).map(|[x, _]| *x);
    [
        series.iter().filter_map(|series| series.points.first()).map(|[x, _]| *x).fold(1.0, f64::min),
        last.fold(2.0, f64::max),
    ]
}

fn spectra(report: &RankReport) -> Chart {
    let series = lines(report, |tensor| {
        let relative = tensor.singular_values.iter().map(|value| value / tensor.spectral_norm);
        // A matrix of zeros has no line.
        let shown = relative.take_while(|value| *value >= SMALLEST);
        shown.enumerate().map(|(index, value)| [(index + 1) as f64, value]).collect()
    });
    let smallest = series.iter().flat_map(|series| &series.points).map(|[_, y]| *y).fold(0.1, f64::min);
    Chart {
        title: format!("Singular values of {}", subject(report)),
        x_label: "number of the singular value".to_owned(),
        y_label: "over the largest".to_owned(),
        y_scale: Scale::Logarithmic,
        x_range: ranks(&series),
        y_range: [10.0_f64.powf(smallest.log10().floor()), 1.0],
        series,
    }
}

fn energies(report: &RankReport) -> Chart {
    let series = lines(report, |tensor| {
        let kept = tensor.energies().enumerate().map(|(index, energy)| [(index + 1) as f64, energy]);
        let none = if tensor.spectral_norm > 0.0 { 0.0 } else { 1.0 };
        [[0.0, none]].into_iter().chain(kept).collect()
    });
    Chart {
        title: format!("Energy kept of {}", subject(report)),
        x_label: "rank".to_owned(),
        y_label: "part of the energy".to_owned(),
        y_scale: Scale::Linear,
        x_range: ranks(&series),
        y_range: [0.0, 1.0],
        series,
    }
}

fn heat_map(report: &RankReport, measure: Measure) -> Result<HeatMap> {
    if let ([tensor], Measure::Overlap) = (&report.tensors[..], measure)
        && let Some(overlap) = &tensor.overlap
    {
        let numbers = |count: usize| (1..=count).map(|number| number.to_string()).collect();
        return Ok(HeatMap {
            title: format!("Overlap of {}", chart::shortened(&tensor.name, 60)),
            row_label: "i".to_owned(),
            column_label: "j, of the other adapter".to_owned(),
            rows: numbers(overlap.shape[0]),
            columns: numbers(overlap.shape[1]),
            cells: overlap.values.iter().map(|row| row.iter().copied().map(Some).collect()).collect(),
        });
    }
    let value = |tensor: &TensorRank| match measure {
        Measure::Rank => Some(tensor.rank as f64),
        Measure::StableRank => Some(tensor.stable_rank),
        Measure::EffectiveRank => Some(tensor.effective_rank),
        Measure::RankForEnergy => Some(tensor.rank_for_energy as f64),
        Measure::Overlap => tensor.overlap.as_ref()?.whole(),
        Measure::Amplification => tensor.base.as_ref()?.amplification,
    };
    let (word, needed) = match measure {
        Measure::Rank => ("Rank".to_owned(), None),
        Measure::StableRank => ("Stable rank".to_owned(), None),
        Measure::EffectiveRank => ("Effective rank".to_owned(), None),
        Measure::RankForEnergy => {
            let energy = 100.0 * report.tensors.first().map_or(0.0, |tensor| tensor.energy);
            (format!("Rank for {}% of the energy", super::table::shortest(energy)), None)
        }
        Measure::Overlap => ("Overlap".to_owned(), Some("another adapter (with)")),
        Measure::Amplification => ("Amplification".to_owned(), Some("a base model (base)")),
    };
    if let Some(needed) = needed.filter(|_| !report.tensors.iter().any(|tensor| value(tensor).is_some())) {
        return Err(Error::setting("measure", format!("there is nothing to show of it; it takes {needed}")));
    }
    let grid = layers::grid(report.tensors.iter().map(|tensor| (tensor.name.as_str(), value(tensor))));
    Ok(HeatMap {
        title: format!("{word} of {}", subject(report)),
        row_label: "module".to_owned(),
        column_label: "layer".to_owned(),
        rows: grid.modules,
        columns: grid.layers,
        cells: grid.cells,
    })
}
