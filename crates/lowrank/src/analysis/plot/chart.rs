//! Lines over two axes.

use super::drawing::{Anchor, Color, Drawing, FAINT, INK};
use super::font;
use super::palette;

/// The whole drawing.
const SIZE: [usize; 2] = [960, 540];
/// The upper left corner of the plane.
const TOP_LEFT: [f64; 2] = [76.0, 64.0];
/// The height of the plane, and its width beside a list of names and without one.
const HEIGHT: f64 = 410.0;
const WIDTHS: [f64; 2] = [600.0, 840.0];
/// The size of labels.
pub(super) const SMALL: f64 = 12.0;
/// The size of titles.
pub(super) const LARGE: f64 = 16.0;
/// The most lines that are told apart by name.
const NAMED: usize = 16;
/// The longest name beside a line, in letters.
const LONGEST: usize = 30;

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm; values must be above zero.
    Logarithmic,
}

/// A line: its name and its points.
pub struct Series {
    /// What it is of.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<[f64; 2]>,
}

/// Lines over two axes.
pub struct Chart {
    /// Stands above.
    pub title: String,
    /// Stands below the horizontal axis.
    pub x_label: String,
    /// Stands above the vertical axis.
    pub y_label: String,
    /// How the vertical axis goes.
    pub y_scale: Scale,
    /// The ends of the horizontal axis.
    pub x_range: [f64; 2],
    /// The ends of the vertical axis.
    pub y_range: [f64; 2],
    /// The lines.
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart as a drawing.
    pub fn draw(&self) -> Drawing {
        let named = self.series.len() <= NAMED && self.series.len() > 1;
        let width = if named { WIDTHS[0] } else { WIDTHS[1] };
        let mut drawing = Drawing::new(SIZE[0], SIZE[1]);
        let [left, top] = TOP_LEFT;
        drawing.text([left, 24.0], Anchor::Start, LARGE, &self.title, INK);
        drawing.text([left - 60.0, top - 14.0], Anchor::Start, SMALL, &self.y_label, INK);
        let below = top + HEIGHT + 42.0;
        drawing.text([left + width / 2.0, below], Anchor::Middle, SMALL, &self.x_label, INK);
        self.draw_axes(&mut drawing, width);
        for (index, series) in self.series.iter().enumerate() {
            let color = palette::of_line(index, self.series.len());
            let points: Vec<[f64; 2]> = series.points.iter().map(|point| self.place(*point, width)).collect();
            if points.len() <= 40 {
                for [x, y] in &points {
                    drawing.line(vec![[*x, *y]], 5.0, color);
                }
            }
            drawing.line(points, 1.6, color);
            if named {
                self.draw_name(&mut drawing, index, &series.name, left + width + 16.0, color);
            }
        }
        if self.series.len() > NAMED {
            let text = format!("{} lines, from the first (dark) to the last (light)", self.series.len());
            drawing.text([left + width, 24.0], Anchor::End, SMALL, text, INK);
        }
        drawing
    }

    fn draw_name(&self, drawing: &mut Drawing, index: usize, name: &str, x: f64, color: Color) {
        let y = TOP_LEFT[1] + 10.0 + 20.0 * index as f64;
        drawing.line(vec![[x, y - 4.0], [x + 18.0, y - 4.0]], 2.5, color);
        drawing.text([x + 26.0, y], Anchor::Start, SMALL, shortened(name, LONGEST), INK);
    }

    fn draw_axes(&self, drawing: &mut Drawing, width: f64) {
        let [left, top] = TOP_LEFT;
        for value in ticks(self.y_range, self.y_scale) {
            let [_, y] = self.place([self.x_range[0], value], width);
            drawing.line(vec![[left, y], [left + width, y]], 1.0, FAINT);
            drawing.text([left - 8.0, y + 4.0], Anchor::End, SMALL, label(value), INK);
        }
        // Ranks and numbers are whole.
        for value in ticks(self.x_range, Scale::Linear).into_iter().filter(|value| value.fract() == 0.0) {
            let [x, _] = self.place([value, self.y_range[0]], width);
            drawing.line(vec![[x, top + HEIGHT], [x, top + HEIGHT + 5.0]], 1.0, INK);
            drawing.text([x, top + HEIGHT + 20.0], Anchor::Middle, SMALL, label(value), INK);
        }
        drawing.line(vec![[left, top], [left, top + HEIGHT], [left + width, top + HEIGHT]], 1.0, INK);
    }

    fn place(&self, [x, y]: [f64; 2], width: f64) -> [f64; 2] {
        let part = |value: f64, [low, high]: [f64; 2]| {
            if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
        };
        let y = match self.y_scale {
            Scale::Linear => part(y, self.y_range),
            Scale::Logarithmic => part(y.log10(), self.y_range.map(f64::log10)),
        };
        [TOP_LEFT[0] + width * part(x, self.x_range), TOP_LEFT[1] + HEIGHT * (1.0 - y)]
    }
}

/// The end of a name that is too long, where names of tensors differ most.
pub(super) fn shortened(name: &str, longest: usize) -> String {
    let letters = name.chars().count();
    if letters <= longest {
        return name.to_owned();
    }
    "..".chars().chain(name.chars().skip(letters + 2 - longest)).collect()
}

/// Round values between the ends, at most about eight.
fn ticks([low, high]: [f64; 2], scale: Scale) -> Vec<f64> {
    match scale {
        Scale::Logarithmic => {
            let (first, last) = (low.log10().ceil() as i32, high.log10().floor() as i32);
            let step = ((last - first) / 8 + 1).max(1) as usize;
            (first..=last).step_by(step).map(|power| 10.0_f64.powi(power)).collect()
        }
        Scale::Linear => {
            let span = (high - low).max(f64::MIN_POSITIVE);
            let unit = 10.0_f64.powf((span / 8.0).log10().ceil());
            let step =
                [unit / 5.0, unit / 2.0, unit].into_iter().find(|step| span / step <= 8.0).unwrap_or(unit);
            let first = (low / step).ceil() as i64;
            (first..)
                .map(|index| index as f64 * step)
                .take_while(|value| *value <= high * (1.0 + 1e-9))
                .collect()
        }
    }
}

/// A value as a label.
pub(super) fn label(value: f64) -> String {
    if value == 0.0 || (1e-2..1e5).contains(&value.abs()) {
        crate::analysis::table::shortest(value)
    } else {
        format!("{value:.0e}")
    }
}

/// The width of a text of the size of labels.
pub(super) fn label_width(text: &str) -> f64 {
    font::width(text, SMALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        assert_eq!(ticks([0.0, 1.0], Scale::Linear), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks([1.0, 16.0], Scale::Linear), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0]);
        assert_eq!(ticks([5e-4, 2.0], Scale::Logarithmic), [1e-3, 1e-2, 1e-1, 1.0]);
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        assert_eq!(shortened("encoder.layer.0.query", 9), "..0.query");
        assert_eq!(shortened("query", 5), "query");
    }
}
