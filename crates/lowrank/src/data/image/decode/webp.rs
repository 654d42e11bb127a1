//! WebP.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::{colours, room};
use crate::data::image::Picture;

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, String> {
    let torn = |error: image_webp::DecodingError| format!("not a whole WebP: {error}");
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(torn)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let size = room(width, height, channels, bytes)?;
    decoder.set_memory_limit(size.saturating_add(1 << 20));
    let mut pixels = vec![0; size];
    if decoder.output_buffer_size() != Some(size) {
        return Err("its pixels are not of the size that its header says".to_owned());
    }
    decoder.read_image(&mut pixels).map_err(torn)?;
    colours(width, height, channels, pixels)
}
