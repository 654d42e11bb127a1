//! JPEG.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{colours, room};
use crate::data::image::Picture;

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, String> {
    // Some of its sentences end with a line break.
    let torn = |error: zune_jpeg::errors::DecodeErrors| {
        format!("not a whole JPEG: {}", error.to_string().trim_end())
    };
    let options = DecoderOptions::default().set_strict_mode(false).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(torn)?;
    let info = decoder.info().ok_or("a JPEG without a header")?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    room(width, height, Picture::CHANNELS, bytes)?;
    // What is missing at a file's end would be decoded as grey. A thumbnail within has an end of its own.
    let last = bytes.windows(2).rev().find(|marker| matches!(marker, [0xff, 0xd9 | 0xda]));
    if last != Some(&[0xff, 0xd9]) {
        return Err("not a whole JPEG: its end is missing".to_owned());
    }
    let pixels = decoder.decode().map_err(torn)?;
    colours(width, height, Picture::CHANNELS, pixels)
}
