//! A drawing as PNG.

use super::drawing::{Anchor, Color, Drawing, Mark};
use super::font;

/// Pixels of the picture for one of the drawing: for screens that are dense, and for text that is small.
const SCALE: usize = 2;
/// The thickness of a letter's strokes, in its size.
const STROKE: f64 = 0.1;

/// The bytes of a PNG file; the same drawing gives the same bytes.
///
/// # Errors
/// If the encoder refuses, which it does for a drawing without pixels.
pub fn to_png(drawing: &Drawing) -> Result<Vec<u8>, png::EncodingError> {
    let mut canvas = Canvas::new(drawing.width * SCALE, drawing.height * SCALE);
    let scaled = |[x, y]: [f64; 2]| [x * SCALE as f64, y * SCALE as f64];
    for mark in &drawing.marks {
        match mark {
            Mark::Rectangle { at, size, color } => canvas.rectangle(scaled(*at), scaled(*size), *color),
            Mark::Line { points, width, color } => {
                let points: Vec<[f64; 2]> = points.iter().map(|point| scaled(*point)).collect();
                canvas.line(&points, width * SCALE as f64, *color);
            }
            Mark::Text { at, anchor, size, text, color } => {
                let width = font::width(text, *size);
                let before = match anchor {
                    Anchor::Start => 0.0,
                    Anchor::Middle => width / 2.0,
                    Anchor::End => width,
                };
                for stroke in font::strokes(text, *size) {
                    let points: Vec<[f64; 2]> =
                        stroke.iter().map(|[x, y]| scaled([x + at[0] - before, y + at[1]])).collect();
                    canvas.line(&points, STROKE * size * SCALE as f64, *color);
                }
            }
        }
    }
    canvas.encode()
}

struct Canvas {
    width: usize,
    height: usize,
    /// Three bytes a pixel.
    pixels: Vec<u8>,
    /// How much of each pixel the mark covers that is being drawn.
    cover: Vec<f32>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        let elements = width * height;
        Self { width, height, pixels: vec![255; 3 * elements], cover: vec![0.0; elements] }
    }

    /// The pixels from `from` to `to`, of which there are `limit`.
    fn clip(from: f64, to: f64, limit: usize) -> std::ops::Range<usize> {
        let limit = limit as f64;
        (from.floor().clamp(0.0, limit) as usize)..(to.ceil().clamp(0.0, limit) as usize)
    }

    fn rectangle(&mut self, [x, y]: [f64; 2], [width, height]: [f64; 2], color: Color) {
        let part = |pixel: usize, from: f64, to: f64| {
            (to.min(pixel as f64 + 1.0) - from.max(pixel as f64)).clamp(0.0, 1.0)
        };
        for row in Self::clip(y, y + height, self.height) {
            for column in Self::clip(x, x + width, self.width) {
                let cover = part(row, y, y + height) * part(column, x, x + width);
                self.blend(row * self.width + column, cover as f32, color);
            }
        }
    }

    /// Joints and crossings of a line are covered once, so that they are no darker than the rest.
    fn line(&mut self, points: &[[f64; 2]], width: f64, color: Color) {
        let reach = width / 2.0 + 1.0;
        let single = [points.first().copied().unwrap_or_default(); 2];
        let segments: Vec<[[f64; 2]; 2]> = match points.len() {
            0 => return,
            1 => vec![single],
            _ => points.windows(2).map(|pair| [pair[0], pair[1]]).collect(),
        };
        let mut touched = Vec::new();
        for [from, to] in segments {
            let rows = Self::clip(from[1].min(to[1]) - reach, from[1].max(to[1]) + reach, self.height);
            let columns = Self::clip(from[0].min(to[0]) - reach, from[0].max(to[0]) + reach, self.width);
            for row in rows {
                for column in columns.clone() {
                    let center = [column as f64 + 0.5, row as f64 + 0.5];
                    let cover = (width / 2.0 + 0.5 - distance(center, from, to)).clamp(0.0, 1.0) as f32;
                    let index = row * self.width + column;
                    if cover > self.cover[index] {
                        if self.cover[index] == 0.0 {
                            touched.push(index);
                        }
                        self.cover[index] = cover;
                    }
                }
            }
        }
        for index in touched {
            let cover = std::mem::take(&mut self.cover[index]);
            self.blend(index, cover, color);
        }
    }

    fn blend(&mut self, index: usize, cover: f32, color: Color) {
        for (pixel, color) in self.pixels[3 * index..].iter_mut().zip(color) {
            let mixed = f32::from(*pixel) * (1.0 - cover) + f32::from(color) * cover;
            *pixel = mixed.round() as u8;
        }
    }

    fn encode(self) -> Result<Vec<u8>, png::EncodingError> {
        let mut bytes = Vec::new();
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width), side(self.height));
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// The distance of a point from a segment.
fn distance(point: [f64; 2], from: [f64; 2], to: [f64; 2]) -> f64 {
    let along = [to[0] - from[0], to[1] - from[1]];
    let off = [point[0] - from[0], point[1] - from[1]];
    let length = along[0] * along[0] + along[1] * along[1];
    let part =
        if length > 0.0 { ((off[0] * along[0] + off[1] * along[1]) / length).clamp(0.0, 1.0) } else { 0.0 };
    (off[0] - part * along[0]).hypot(off[1] - part * along[1])
}

#[cfg(test)]
mod tests {
    use super::super::drawing::INK;
    use super::*;

    #[test]
    fn a_rectangle_covers_its_pixels_and_no_others() {
        let mut canvas = Canvas::new(4, 3);
        canvas.rectangle([1.0, 1.0], [2.0, 1.5], [0, 0, 0]);
        let grey: Vec<u8> = canvas.pixels.chunks(3).map(|pixel| pixel[0]).collect();
        assert_eq!(grey, [255, 255, 255, 255, 255, 0, 0, 255, 255, 128, 128, 255]);
    }

    #[test]
    fn a_line_that_crosses_itself_is_no_darker_there_and_may_leave_the_picture() {
        let mut canvas = Canvas::new(9, 9);
        canvas.line(&[[-9.0, 4.5], [4.5, 4.5], [4.5, 4.5], [99.0, 4.5]], 1.0, [100, 100, 100]);
        let row: Vec<u8> = canvas.pixels.chunks(3).skip(4 * 9).take(9).map(|pixel| pixel[0]).collect();
        assert_eq!(row, [100; 9]);
    }

    #[test]
    fn every_letter_leaves_a_mark_of_its_own() {
        let picture = |text: &str| {
            let mut drawing = Drawing::new(12, 14);
            drawing.text([1.0, 10.0], Anchor::Start, 12.0, text, INK);
            to_png(&drawing).unwrap()
        };
        let mut pictures: Vec<Vec<u8>> =
            (' '..='~').chain(['\u{3c3}']).map(|letter| picture(&letter.to_string())).collect();
        pictures.sort();
        let all = pictures.len();
        pictures.dedup();
        assert_eq!(pictures.len(), all);
    }
}
