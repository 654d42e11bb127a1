//! From a picture to what a vision model reads, as the model's `preprocessor_config.json` says.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::picture::Picture;
use super::resize::{Filter, resize};
use crate::{Error, Result};

/// The file in a model's folder that says how its images are made ready.
pub const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";

/// The kinds of processor that are known; what they do is the same.
const KNOWN: [&str; 4] =
    ["ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil", "ViTFeatureExtractor"];
/// The largest side that a configuration may ask for.
const LARGEST: u64 = 1 << 14;

/// What is done to each picture: resized, cropped, scaled and normalised, each if it is asked for.
///
/// # Source
/// Transformers' `ViTImageProcessor`, of the PIL backend (`ViTImageProcessorPil` in version 5), to the bit. That of
/// torchvision resizes with other fixed-point numbers: some bytes are off by one.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// The size that pictures are brought to; none: they stay as they are.
    pub size: Option<Size>,
    /// How.
    pub filter: Filter,
    /// Height and width of the middle that is then taken.
    pub crop: Option<(usize, usize)>,
    /// What each byte is multiplied with.
    pub scale: Option<f64>,
    /// What is taken from each channel, and what the rest is divided by.
    pub normal: Option<[(f32, f32); Picture::CHANNELS]>,
}

/// A size to resize to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// This height and width.
    Exact(usize, usize),
    /// The shorter side is as long as this; the other keeps the proportion.
    ShortestEdge(usize),
}

impl ImageProcessor {
    /// ViT's own for square pictures: bilinear, from -1 to 1.
    pub fn square(side: usize) -> Self {
        Self {
            size: Some(Size::Exact(side, side)),
            filter: Filter::Bilinear,
            crop: None,
            scale: Some(1.0 / 255.0),
            normal: Some([(0.5, 0.5); Picture::CHANNELS]),
        }
    }

    /// The processor of a model's folder.
    ///
    /// # Errors
    /// The folder has no such file; it is not JSON; its processor is unknown, or a value of it wrong.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self> {
        let path = folder.as_ref().join(PREPROCESSOR_CONFIG);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| Error::file(&path, format!("it is not JSON: {error}")))?;
        Self::from_json(&value).map_err(|reason| Error::file(&path, reason))
    }

    /// The processor that a configuration describes. What it leaves out is as in [`square`](Self::square) of 224.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let config = Config(value.as_object().ok_or("it is not a JSON object")?);
        let name = config.get("image_processor_type").or_else(|| config.get("feature_extractor_type"));
        if let Some(name) = name.filter(|name| !KNOWN.iter().any(|known| *name == known)) {
            return Err(format!("unknown image processor {name}; the known ones are {}", KNOWN.join(", ")));
        }
        let usual = Self::square(224);
        let filter = match config.get("resample") {
            None => usual.filter,
            Some(number) => number.as_u64().and_then(Filter::of_number).ok_or_else(|| {
                format!(
                    "resample is {number}; it may be 0 (nearest), 1 (lanczos), 2 (bilinear) or 3 (bicubic)"
                )
            })?,
        };
        let size = match (config.flag("do_resize", true)?, config.get("size")) {
            (false, _) => None,
            (true, None) => usual.size,
            (true, Some(size)) => Some(read_size("size", size)?),
        };
        let crop = match (config.flag("do_center_crop", false)?, config.get("crop_size")) {
            (false, _) => None,
            (true, None) => return Err("do_center_crop is set, but there is no crop_size".to_owned()),
            (true, Some(size)) => match read_size("crop_size", size)? {
                Size::Exact(height, width) => Some((height, width)),
                Size::ShortestEdge(_) => return Err("crop_size needs height and width".to_owned()),
            },
        };
        let scale = config.number("rescale_factor", 1.0 / 255.0)?;
        let means = config.channels("image_mean", 0.5)?;
        let deviations = config.channels("image_std", 0.5)?;
        if deviations.contains(&0.0) {
            return Err("image_std has a 0, by which nothing can be divided".to_owned());
        }
        let normal = std::array::from_fn(|channel| (means[channel], deviations[channel]));
        Ok(Self {
            size,
            filter,
            crop,
            scale: config.flag("do_rescale", true)?.then_some(scale),
            normal: config.flag("do_normalize", true)?.then_some(normal),
        })
    }

    /// The configuration that describes it, as Transformers writes it.
    pub fn to_json(&self) -> Value {
        self.to_json_of(Picture::CHANNELS)
    }

    /// As [`to_json`](Self::to_json) for a model of this many colours.
    pub fn to_json_of(&self, channels: usize) -> Value {
        let sides = |(height, width): (usize, usize)| json!({"height": height, "width": width});
        let normal = self.normal.unwrap_or([(0.5, 0.5); Picture::CHANNELS]);
        let colours =
            |values: [f64; Picture::CHANNELS]| values.into_iter().take(channels).collect::<Vec<f64>>();
        let mut config = json!({
            "do_normalize": self.normal.is_some(),
            "do_rescale": self.scale.is_some(),
            "do_resize": self.size.is_some(),
            "image_mean": colours(normal.map(|(mean, _)| f64::from(mean))),
            "image_processor_type": KNOWN[0],
            "image_std": colours(normal.map(|(_, deviation)| f64::from(deviation))),
            "resample": self.filter.number(),
            "rescale_factor": self.scale.unwrap_or(1.0 / 255.0),
            "size": match self.size {
                None => sides((224, 224)),
                Some(Size::Exact(height, width)) => sides((height, width)),
                Some(Size::ShortestEdge(edge)) => json!({"shortest_edge": edge}),
            },
        });
        if let Some(crop) = self.crop {
            config["do_center_crop"] = json!(true);
            config["crop_size"] = sides(crop);
        }
        config
    }

    /// Height and width of what comes out; none where it depends on the picture.
    pub fn output_size(&self) -> Option<(usize, usize)> {
        match (self.crop, self.size) {
            (Some(crop), _) => Some(crop),
            (None, Some(Size::Exact(height, width))) => Some((height, width)),
            _ => None,
        }
    }

    /// Resizes and crops.
    ///
    /// # Errors
    /// The picture is so long and thin that it cannot be resized in its proportion.
    pub fn shape(&self, picture: &Picture) -> Result<Picture, String> {
        let (old_height, old_width) = (picture.height(), picture.width());
        let resized = match self.size {
            None => Cow::Borrowed(picture),
            Some(Size::Exact(height, width)) => Cow::Owned(resize(picture, width, height, self.filter)),
            Some(Size::ShortestEdge(edge)) => {
                let (short, long) = (old_width.min(old_height), old_width.max(old_height));
                let long = (edge as f64 * long as f64 / short as f64) as usize;
                if long as u64 > 8 * LARGEST {
                    return Err(format!(
                        "a picture of {old_width} × {old_height} would be {long} pixels long with a shortest edge of \
                         {edge}"
                    ));
                }
                let (width, height) = if old_width <= old_height { (edge, long) } else { (long, edge) };
                Cow::Owned(resize(picture, width, height, self.filter))
            }
        };
        match self.crop {
            Some((height, width)) => {
                let middle = |old: usize, new: usize| (old as isize - new as isize).div_euclid(2);
                let (left, top) = (middle(resized.width(), width), middle(resized.height(), height));
                Ok(resized.window(left, top, width, height))
            }
            None => Ok(resized.into_owned()),
        }
    }

    /// Appends the values of the picture's brightness to `values`, normalised as the first channel.
    ///
    /// # Shapes
    /// `[1, height, width]`.
    ///
    /// # Source
    /// Pillow's `convert("L")`.
    pub fn write_grey(&self, picture: &Picture, values: &mut Vec<f32>) {
        let table = self.table(0);
        values.extend(picture.pixels().chunks_exact(Picture::CHANNELS).map(|pixel| {
            let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
            let grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
            table[grey as usize & 0xff]
        }));
    }

    /// The value of each byte of a channel: there are few.
    fn table(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|byte| {
            let value = self.scale.map_or(byte as f32, |scale| (byte as f64 * scale) as f32);
            self.normal.map_or(value, |normal| (value - normal[channel].0) / normal[channel].1)
        })
    }

    /// Appends the picture's values to `values`.
    ///
    /// # Shapes
    /// `[3, height, width]`.
    pub fn write_values(&self, picture: &Picture, values: &mut Vec<f32>) {
        for channel in 0..Picture::CHANNELS {
            let table = self.table(channel);
            let bytes = picture.pixels().iter().skip(channel).step_by(Picture::CHANNELS);
            values.extend(bytes.map(|&byte| table[usize::from(byte)]));
        }
    }
}

fn read_size(key: &str, value: &Value) -> Result<Size, String> {
    let side = |value: &Value| match value.as_u64() {
        Some(side @ 1..=LARGEST) => Ok(side as usize),
        _ => Err(format!("{key} has the side {value}; it must be a whole number from 1 to {LARGEST}")),
    };
    match value {
        Value::Number(_) => side(value).map(|side| Size::Exact(side, side)),
        Value::Array(sides) => match sides.as_slice() {
            [height, width] => Ok(Size::Exact(side(height)?, side(width)?)),
            _ => Err(format!("{key} is {value}; as a list it must be a height and a width")),
        },
        Value::Object(sides) => {
            let sides: Vec<(&str, &Value)> = sides
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.as_str(), value))
                .collect();
            match sides.as_slice() {
                [("height", height), ("width", width)] | [("width", width), ("height", height)] => {
                    Ok(Size::Exact(side(height)?, side(width)?))
                }
                [("shortest_edge", edge)] => Ok(Size::ShortestEdge(side(edge)?)),
                _ => Err(format!("{key} is {value}; it must have height and width, or shortest_edge")),
            }
        }
        _ => Err(format!("{key} is {value}; it must be a number, or an object with height and width")),
    }
}

/// The keys of a configuration; null is none.
struct Config<'a>(&'a Map<String, Value>);

impl<'a> Config<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn flag(&self, key: &str, usual: bool) -> Result<bool, String> {
        match self.get(key) {
            None => Ok(usual),
            Some(value) => {
                value.as_bool().ok_or_else(|| format!("{key} is {value}; it must be true or false"))
            }
        }
    }

    fn number(&self, key: &str, usual: f64) -> Result<f64, String> {
        match self.get(key) {
            None => Ok(usual),
            Some(value) => value.as_f64().ok_or_else(|| format!("{key} is {value}; it must be a number")),
        }
    }

    fn channels(&self, key: &str, usual: f32) -> Result<[f32; Picture::CHANNELS], String> {
        let wrong = |value: &Value| format!("{key} is {value}; it must be a number, or one for each channel");
        match self.get(key) {
            None => Ok([usual; Picture::CHANNELS]),
            // Of a model that sees grey.
            Some(Value::Array(numbers)) if numbers.len() == 1 => match numbers[0].as_f64() {
                Some(number) => Ok([number as f32; Picture::CHANNELS]),
                None => Err(wrong(&self.0[key])),
            },
            Some(Value::Array(numbers)) => {
                let numbers: Option<Vec<f32>> =
                    numbers.iter().map(|number| number.as_f64().map(|number| number as f32)).collect();
                let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
                numbers.ok_or_else(|| wrong(&self.0[key]))
            }
            Some(value) => match value.as_f64() {
                Some(number) => Ok([number as f32; Picture::CHANNELS]),
                None => Err(wrong(value)),
            },
        }
    }
}
