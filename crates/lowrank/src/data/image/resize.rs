//! Pictures of another size, to the bit as Pillow makes them.
//!
//! # Source
//! Pillow's `Resample.c` for 8-bit images, `ImagingScaleAffine` of `Geometry.c` for the nearest pixel. Transformers'
//! image processors of the PIL backend resize with these; those of the torchvision backend are off by one in places.

use super::picture::Picture;

/// How the value of a pixel comes from those around it; the numbers are Pillow's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// 0: the nearest pixel's.
    Nearest,
    /// 1: Lanczos over three pixels on either side.
    Lanczos,
    /// 2: linear between neighbours.
    Bilinear,
    /// 3: cubic over two pixels on either side.
    Bicubic,
}

impl Filter {
    /// The filter of this number in a `preprocessor_config.json`.
    pub fn of_number(number: u64) -> Option<Self> {
        [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic]
            .into_iter()
            .find(|filter| filter.number() == number)
    }

    /// Its number.
    pub fn number(self) -> u64 {
        match self {
            Self::Nearest => 0,
            Self::Lanczos => 1,
            Self::Bilinear => 2,
            Self::Bicubic => 3,
        }
    }

    /// The distance beyond which a pixel has no weight.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let sinc = |x: f64| {
            let x = x * std::f64::consts::PI;
            if x == 0.0 { 1.0 } else { x.sin() / x }
        };
        let distance = x.abs();
        match self {
            Self::Nearest => 0.0,
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Bicubic if distance < 1.0 => ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

/// The picture in another size.
///
/// # Panics
/// If a size is 0.
#[must_use]
pub fn resize(picture: &Picture, width: usize, height: usize, filter: Filter) -> Picture {
    assert!(width > 0 && height > 0, "a picture has pixels");
    let (old_width, old_height) = (picture.width(), picture.height());
    if filter == Filter::Nearest {
        let columns = nearest(old_width, width);
        let rows = nearest(old_height, height);
        let pixels = rows.iter().flat_map(|&row| columns.iter().map(move |&column| (row, column)));
        let pixels = pixels.flat_map(|(row, column)| match (row, column) {
            (Some(row), Some(column)) => {
                let at = (row * old_width + column) * C;
                [picture.pixels()[at], picture.pixels()[at + 1], picture.pixels()[at + 2]]
            }
            _ => [0; C],
        });
        return made(width, height, pixels.collect());
    }
    // Each pass rounds to bytes, so that their order shows; an axis that keeps its size is left as it is.
    let wide = |picture: &Picture| match width == old_width {
        true => picture.clone(),
        false => across(picture, &weights(old_width, width, filter)),
    };
    let tall = |picture: &Picture| match height == old_height {
        true => picture.clone(),
        false => down(picture, &weights(old_height, height, filter)),
    };
    if rows_first(old_width, old_height, width, height) { wide(&tall(picture)) } else { tall(&wide(picture)) }
}

/// Whether the height is changed before the width. Pillow does so since version 13 if the height loses more than twice
/// as many pixels as the width; before, it never did.
fn rows_first(old_width: usize, old_height: usize, width: usize, height: usize) -> bool {
    let lost_columns = old_width as i64 - width as i64;
    let lost_rows = old_height as i64 - height as i64;
    lost_rows > 0 && lost_rows > 2 * lost_columns
}

const C: usize = Picture::CHANNELS;
/// The bits of a weight's fraction.
const BITS: u32 = 32 - 8 - 2;

fn made(width: usize, height: usize, pixels: Vec<u8>) -> Picture {
    Picture::new(width, height, pixels).expect("as many pixels as the sizes say")
}

/// The pixels that each new one is made of: the first of them, and their weights.
struct Weights {
    first: usize,
    weights: Vec<i32>,
}

/// `precompute_coeffs` and `normalize_coeffs_8bpc`.
fn weights(old: usize, new: usize, filter: Filter) -> Vec<Weights> {
    let scale = old as f64 / new as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let one = f64::from(1 << BITS);
    let of_pixel = |place: usize| {
        let center = (place as f64 + 0.5) * scale;
        // As casts of C: towards zero; what is below 0 becomes 0.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(old);
        let raw: Vec<f64> =
            (first..end).map(|at| filter.weight((at as f64 - center + 0.5) * (1.0 / stretch))).collect();
        let sum: f64 = raw.iter().sum();
        let share = |weight: f64| if sum == 0.0 { weight } else { weight / sum };
        let fixed = |share: f64| (share * one + if share < 0.0 { -0.5 } else { 0.5 }) as i32;
        Weights { first, weights: raw.into_iter().map(share).map(fixed).collect() }
    };
    (0..new).map(of_pixel).collect()
}

/// What a sum of weighted bytes starts from, so that it is rounded.
const HALF: i32 = 1 << (BITS - 1);

fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Each row made as wide as there are weights.
fn across(picture: &Picture, weights: &[Weights]) -> Picture {
    let mut pixels = vec![0; weights.len() * picture.height() * C];
    let lines =
        pixels.chunks_exact_mut(weights.len() * C).zip(picture.pixels().chunks_exact(picture.width() * C));
    for (line, source) in lines {
        for (pixel, Weights { first, weights }) in line.chunks_exact_mut(C).zip(weights) {
            let mut sums = [HALF; C];
            for (values, weight) in source[first * C..].chunks_exact(C).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(values) {
                    *sum = sum.wrapping_add(i32::from(value) * weight);
                }
            }
            pixel.iter_mut().zip(sums).for_each(|(value, sum)| *value = byte(sum));
        }
    }
    made(weights.len(), picture.height(), pixels)
}

/// As many rows as there are weights.
fn down(picture: &Picture, weights: &[Weights]) -> Picture {
    let row = picture.width() * C;
    let mut pixels = vec![0; weights.len() * row];
    let mut sums = vec![0; row];
    for (line, Weights { first, weights }) in pixels.chunks_exact_mut(row).zip(weights) {
        sums.fill(HALF);
        for (source, weight) in picture.pixels()[first * row..].chunks_exact(row).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(source) {
                *sum = sum.wrapping_add(i32::from(value) * weight);
            }
        }
        line.iter_mut().zip(&sums).for_each(|(value, &sum)| *value = byte(sum));
    }
    made(picture.width(), weights.len(), pixels)
}

/// The old place of each new pixel. The places are added up as Pillow does, whose rounding shows in long rows; one that
/// comes out beyond the last pixel is none.
fn nearest(old: usize, new: usize) -> Vec<Option<usize>> {
    let step = old as f64 / new as f64;
    let places = std::iter::successors(Some(step * 0.5), |place| Some(place + step));
    places.map(|place| Some(place as usize).filter(|&place| place < old)).take(new).collect()
}
