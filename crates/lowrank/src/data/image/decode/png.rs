//! PNG.

use std::io::Cursor;

use png::{Decoder, Limits, Transformations};

use super::{colours, room};
use crate::data::image::Picture;

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, String> {
    let torn = |error: png::DecodingError| format!("not a whole PNG: {error}");
    let mut decoder = Decoder::new(Cursor::new(bytes));
    let info = decoder.read_header_info().map_err(torn)?;
    let (width, height) = (info.width as usize, info.height as usize);
    // What is decoded has at most four channels of two bytes, before they are made one.
    let most = room(width, height, 4, bytes)?;
    decoder.set_limits(Limits { bytes: most.saturating_mul(2).saturating_add(1 << 20) });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Palettes and transparent colours become colours and alpha; of two bytes the high one is taken, as Pillow does.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(torn)?;
    let channels = reader.output_color_type().0.samples();
    let mut pixels = vec![0; room(width, height, channels, bytes)?];
    if reader.output_buffer_size() != Some(pixels.len()) {
        return Err("its pixels are not of the size that its header says".to_owned());
    }
    reader.next_frame(&mut pixels).map_err(torn)?;
    colours(width, height, channels, pixels)
}
