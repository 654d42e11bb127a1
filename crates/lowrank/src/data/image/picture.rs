//! A decoded picture.

use crate::{Error, Result};

/// An image of three colours, a byte each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// The bytes of a pixel: red, green, blue.
    pub const CHANNELS: usize = 3;

    /// A picture of these pixels.
    ///
    /// # Shapes
    /// `pixels` is `[height, width, 3]`.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no pixel, or there are not as many as the sizes say.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        let wanted = width.checked_mul(height).and_then(|area| area.checked_mul(Self::CHANNELS));
        if pixels.is_empty() || wanted != Some(pixels.len()) {
            let bytes = pixels.len();
            return Err(Error::Usage(format!("{bytes} bytes do not make a picture of {width} × {height}")));
        }
        Ok(Self { width, height, pixels })
    }

    /// A picture of one plane of grey, or of a plane of each colour.
    ///
    /// # Shapes
    /// `planes` is `[1 or 3, height, width]`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_planes(width: usize, height: usize, planes: &[u8]) -> Result<Self> {
        let area = width.saturating_mul(height);
        let grey = planes.len() == area;
        let plane = |channel: usize| if grey { 0 } else { channel * area };
        if !grey && area.checked_mul(Self::CHANNELS) != Some(planes.len()) {
            return Self::new(width, height, planes.to_vec());
        }
        let pixels =
            (0..area).flat_map(|at| (0..Self::CHANNELS).map(move |channel| planes[plane(channel) + at]));
        Self::new(width, height, pixels.collect())
    }

    /// How many pixels a row has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many rows there are.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The part of this size whose first pixel is at `left`, `top`, either of which may be outside; what is not in the
    /// picture is black.
    #[must_use]
    pub fn window(&self, left: isize, top: isize, width: usize, height: usize) -> Self {
        let mut pixels = vec![0; width * height * Self::CHANNELS];
        // The columns of the window that the picture has.
        let first = left.min(0).unsigned_abs().min(width);
        let from = left.max(0).unsigned_abs().min(self.width);
        let count = (width - first).min(self.width - from) * Self::CHANNELS;
        for (row, line) in pixels.chunks_exact_mut(width * Self::CHANNELS).enumerate() {
            let Some(source) = top.checked_add_unsigned(row).and_then(|row| usize::try_from(row).ok()) else {
                continue;
            };
            if source < self.height {
                let start = (source * self.width + from) * Self::CHANNELS;
                let at = first * Self::CHANNELS;
                line[at..at + count].copy_from_slice(&self.pixels[start..start + count]);
            }
        }
        Self { width, height, pixels }
    }

    /// The mirror image, left for right.
    #[must_use]
    pub fn mirrored(&self) -> Self {
        let rows = self.pixels.chunks_exact(self.width * Self::CHANNELS);
        let pixels = rows.flat_map(|row| row.chunks_exact(Self::CHANNELS).rev().flatten().copied()).collect();
        Self { width: self.width, height: self.height, pixels }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn numbered(width: usize, height: usize) -> Picture {
        let area = width * height;
        let planes: Vec<u8> = (0..3 * area).map(|at| (1 + at % area + 50 * (at / area)) as u8).collect();
        Picture::from_planes(width, height, &planes).unwrap()
    }

    fn reds(picture: &Picture) -> Vec<u8> {
        picture.pixels().iter().step_by(3).copied().collect()
    }

    #[test]
    fn planes_become_pixels() {
        let picture = numbered(2, 2);
        assert_eq!(picture.pixels(), [1, 51, 101, 2, 52, 102, 3, 53, 103, 4, 54, 104]);
        assert_eq!(Picture::from_planes(2, 1, &[7, 9]).unwrap().pixels(), [7, 7, 7, 9, 9, 9]);
        for (width, height, bytes) in [(2, 2, 5), (0, 0, 0), (usize::MAX, 3, 9), (1, 3, 6)] {
            assert!(Picture::from_planes(width, height, &vec![0; bytes]).is_err());
        }
    }

    #[test]
    fn a_window_beyond_the_edge_is_black_there() {
        let picture = numbered(3, 2);
        assert_eq!(reds(&picture.window(0, 0, 3, 2)), [1, 2, 3, 4, 5, 6]);
        assert_eq!(reds(&picture.window(-1, -1, 3, 2)), [0, 0, 0, 0, 1, 2]);
        assert_eq!(reds(&picture.window(2, 1, 2, 2)), [6, 0, 0, 0]);
        assert_eq!(reds(&picture.window(-1, 0, 5, 1)), [0, 1, 2, 3, 0]);
        assert_eq!(reds(&picture.window(9, -9, 2, 1)), [0, 0]);
    }

    #[test]
    fn a_mirror_image_keeps_the_colours_of_a_pixel() {
        let picture = numbered(3, 2);
        assert_eq!(reds(&picture.mirrored()), [3, 2, 1, 6, 5, 4]);
        assert_eq!(picture.mirrored().pixels()[..3], [3, 53, 103]);
        assert_eq!(picture.mirrored().mirrored(), picture);
    }
}
