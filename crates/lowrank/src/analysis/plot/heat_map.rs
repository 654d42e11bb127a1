//! Cells whose colors are values.

use super::chart::{LARGE, SMALL, label, label_width, shortened};
use super::drawing::{Anchor, Drawing, FAINT, INK};
use super::font;
use super::palette;

/// What the cells share, and the least and the most that one has.
const AREA: [f64; 2] = [880.0, 600.0];
const LEAST: [f64; 2] = [8.0, 8.0];
const MOST: [f64; 2] = [72.0, 30.0];
/// The upper edge of the cells.
const TOP: f64 = 76.0;
/// The longest label of a row, in letters.
const LONGEST: usize = 44;
/// The width of the scale beside the cells.
const SCALE_WIDTH: f64 = 110.0;

/// Cells in rows and columns.
pub struct HeatMap {
    /// Stands above.
    pub title: String,
    /// Stands above the rows' names.
    pub row_label: String,
    /// Stands above the columns.
    pub column_label: String,
    /// The rows' names.
    pub rows: Vec<String>,
    /// The columns' names.
    pub columns: Vec<String>,
    /// A value for each row and column; none where there is nothing to show.
    pub cells: Vec<Vec<Option<f64>>>,
}

impl HeatMap {
    /// The map as a drawing.
    pub fn draw(&self) -> Drawing {
        let counts = [self.columns.len(), self.rows.len()].map(|count| count.max(1) as f64);
        let cell: [f64; 2] = std::array::from_fn(|i| (AREA[i] / counts[i]).clamp(LEAST[i], MOST[i]).floor());
        let names: Vec<String> = self.rows.iter().map(|name| shortened(name, LONGEST)).collect();
        let widest = names.iter().chain([&self.row_label]).map(|name| label_width(name));
        let left = widest.fold(60.0, f64::max) + 24.0;
        let [width, height] = [cell[0] * counts[0], cell[1] * counts[1]];
        let whole = (left + width + SCALE_WIDTH).max(font::width(&self.title, LARGE) + 32.0);
        let mut drawing =
            Drawing::new(whole.ceil() as usize, (TOP + height.max(120.0) + 24.0).ceil() as usize);
        drawing.text([16.0, 26.0], Anchor::Start, LARGE, &self.title, INK);
        drawing.text([left - 8.0, TOP - 8.0], Anchor::End, SMALL, &self.row_label, INK);
        drawing.text([left, TOP - 26.0], Anchor::Start, SMALL, &self.column_label, INK);
        let range = self.range();
        self.draw_cells(&mut drawing, left, cell, range);
        // Labels that would run into each other are left out.
        let every_row = (1.2 * SMALL / cell[1]).ceil() as usize;
        for (row, name) in names.iter().enumerate().step_by(every_row) {
            let y = TOP + cell[1] * (row as f64 + 0.5) + 4.0;
            drawing.text([left - 8.0, y], Anchor::End, SMALL, name, INK);
        }
        let widest = self.columns.iter().map(|name| label_width(name)).fold(0.0, f64::max);
        let every_column = ((widest + 6.0) / cell[0]).ceil().max(1.0) as usize;
        for (column, name) in self.columns.iter().enumerate().step_by(every_column) {
            let x = left + cell[0] * (column as f64 + 0.5);
            drawing.text([x, TOP - 8.0], Anchor::Middle, SMALL, name, INK);
        }
        draw_scale(&mut drawing, left + width + 20.0, range);
        drawing
    }

    fn range(&self) -> [f64; 2] {
        let values = || self.cells.iter().flatten().copied().flatten();
        let (low, high) =
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        if low <= high { [low, high] } else { [0.0, 0.0] }
    }

    fn draw_cells(&self, drawing: &mut Drawing, left: f64, cell: [f64; 2], range: [f64; 2]) {
        for (row, values) in self.cells.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                let at = [left + cell[0] * column as f64, TOP + cell[1] * row as f64];
                let size = cell.map(|side| side - 1.0);
                let Some(value) = value else {
                    drawing.rectangle(at, size, FAINT);
                    continue;
                };
                let color = palette::of_part(part(*value, range));
                drawing.rectangle(at, size, color);
                let text = short(*value);
                if label_width(&text) + 4.0 <= cell[0] && cell[1] >= 1.3 * SMALL {
                    let ink = if palette::is_light(color) { INK } else { [255, 255, 255] };
                    let middle = [at[0] + size[0] / 2.0, at[1] + size[1] / 2.0 + 4.0];
                    drawing.text(middle, Anchor::Middle, SMALL, text, ink);
                }
            }
        }
    }
}

/// The colors from the least value, below, to the greatest.
fn draw_scale(drawing: &mut Drawing, x: f64, range: [f64; 2]) {
    const STEPS: usize = 30;
    const STEP: f64 = 4.0;
    for step in 0..STEPS {
        let color = palette::of_part(1.0 - step as f64 / (STEPS - 1) as f64);
        drawing.rectangle([x, TOP + STEP * step as f64], [16.0, STEP], color);
    }
    drawing.text([x + 22.0, TOP + 10.0], Anchor::Start, SMALL, short(range[1]), INK);
    drawing.text([x + 22.0, TOP + STEP * STEPS as f64], Anchor::Start, SMALL, short(range[0]), INK);
}

fn part(value: f64, [low, high]: [f64; 2]) -> f64 {
    if high > low { (value - low) / (high - low) } else { 0.5 }
}

/// Three digits, roughly.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        small if small < 0.01 => return label(value),
        below if below < 10.0 => 2,
        below if below < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
