//! Image files as pictures.
//!
//! # Source
//! `PIL.Image.open` and Transformers 5's `convert_to_rgb`: the first picture of a file, as it is stored (the rotation
//! that its EXIF data asks for is not done), grey made of three equal colours, transparency laid over white
//! (Transformers 4 left the alpha away). PNG and lossless WebP come out to the bit; JPEG within two steps of a byte,
//! by which decoders differ.

mod jpeg;
mod png;
mod webp;

use std::path::Path;

use super::picture::Picture;
use crate::{Error, Result};

/// Reads an image file.
///
/// # Errors
/// [`Error::Io`], and as [`decode`] with the file's name.
pub fn read_picture(path: impl AsRef<Path>) -> Result<Picture> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    decode(&bytes).map_err(|reason| Error::file(path, reason))
}

/// The picture of a file's bytes; its first ones tell whether they are PNG, JPEG or WebP.
///
/// # Errors
/// A sentence that says what is wrong: none of these formats, torn, or larger than such a file can be.
pub fn decode(bytes: &[u8]) -> Result<Picture, String> {
    match Kind::of(bytes) {
        Some(Kind::Png) => png::decode(bytes),
        Some(Kind::Jpeg) => jpeg::decode(bytes),
        Some(Kind::WebP) => webp::decode(bytes),
        None if bytes.is_empty() => Err("it is empty".to_owned()),
        None => Err("not an image that can be read: PNG, JPEG or WebP is needed".to_owned()),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Png,
    Jpeg,
    WebP,
}

impl Kind {
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            _ => None,
        }
    }
}

/// The bytes of memory that a picture of these sizes takes, if a file of `bytes` may ask for as many.
///
/// A small file that says it is huge is not believed: the room is made before the pixels are seen.
fn room(width: usize, height: usize, channels: usize, bytes: &[u8]) -> Result<usize, String> {
    /// What any file may ask for: a picture of some 2,000 × 2,000.
    const ALWAYS: usize = 16 << 20;
    /// What none may ask for.
    const NEVER: usize = 1 << 30;
    /// More than deflate and JPEG can make of a byte.
    const RATIO: usize = 2048;
    let most = bytes.len().saturating_mul(RATIO).clamp(ALWAYS, NEVER);
    match width.checked_mul(height).and_then(|area| area.checked_mul(channels)) {
        Some(0) => Err("it has no pixels".to_owned()),
        Some(room) if room <= most => Ok(room),
        _ => Err(format!("a picture of {width} × {height} in {} bytes is not believed", bytes.len())),
    }
}

/// Pixels of one to four channels as three colours: grey repeated, alpha laid over white.
fn colours(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> Result<Picture, String> {
    let pixels = match channels {
        1 => pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
        2 => pixels.chunks_exact(2).flat_map(|pixel| [over_white(pixel[0], pixel[1]); 3]).collect(),
        4 => pixels
            .chunks_exact(4)
            .flat_map(|pixel| [0, 1, 2].map(|channel| over_white(pixel[channel], pixel[3])))
            .collect(),
        _ => pixels,
    };
    Picture::new(width, height, pixels).map_err(|error| error.to_string())
}

/// Pillow's `alpha_composite` over opaque white, in its fixed-point numbers.
fn over_white(value: u8, alpha: u8) -> u8 {
    const BITS: u32 = 7;
    let alpha = u32::from(alpha);
    let share = alpha << BITS;
    let rest = (255 << BITS) - share;
    let sum = u32::from(value) * share + 255 * rest + (0x80 << BITS);
    ((((sum >> 8) + sum) >> 8) >> BITS) as u8
}
