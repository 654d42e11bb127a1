//! Files of kohya's sd-scripts: layers by their names with underscores for dots.
//!
//! # Source
//! `networks/lora.py` of sd-scripts: `alpha/r · lora_up·lora_down`, and without an `alpha` of the file `r` in its place.

use std::collections::BTreeMap;
use std::path::Path;

use super::base::Base;
use super::parts::{Halves, Parts, Side, matrix, values};
use crate::hub::Checkpoint;
use crate::{Error, Result};

/// The ends of the keys of `A` and `B`.
pub(super) const DOWN: &str = ".lora_down.weight";
pub(super) const UP: &str = ".lora_up.weight";
const ALPHA: &str = ".alpha";
/// What stands before a layer's name: which of a pipeline's models it is in.
const PREFIXES: [&str; 7] =
    ["lora_te1_", "lora_te2_", "lora_te3_", "lora_te_", "lora_unet_", "lora_transformer_", "lycoris_"];

/// Reads a file.
pub(super) fn read(path: &Path, base: Option<&Base>) -> Result<Parts> {
    let Some(base) = base else {
        let reason =
            "kohya's files write layers with underscores for dots: --model M says whose layers they are";
        return Err(Error::setting("model", reason));
    };
    let names = Names::new(base);
    let file = Checkpoint::open_file(path)?;
    let mut halves = Halves::new(path, Some(base));
    let mut alphas = BTreeMap::new();
    for key in file.names() {
        if let Some(module) = key.strip_suffix(ALPHA) {
            let alpha = values(&file, key)?.to_f32_vec();
            let [alpha] = alpha[..] else {
                return Err(halves.error(key, "it is not one number"));
            };
            alphas.insert(names.find(path, key, module)?, (key, f64::from(alpha)));
            continue;
        }
        let half = [(DOWN, Side::A), (UP, Side::B)]
            .iter()
            .find_map(|(end, side)| key.strip_suffix(end).map(|module| (module, *side)));
        let Some((module, side)) = half else {
            let reason = "it is neither lora_down, lora_up nor alpha of a layer: the file is of a variant of LoRA that \
                          cannot be converted";
            return Err(halves.error(key, reason));
        };
        halves.add(names.find(path, key, module)?, side, key, matrix(&file, key)?)?;
    }
    let mut pairs = Vec::new();
    for found in halves.pairs()? {
        let r = found.a.shape().rows() as f64;
        // As the scripts do: 0 means that nothing is scaled.
        let alpha =
            alphas.remove(&*found.written).map_or(r, |(_, alpha)| if alpha == 0.0 { r } else { alpha });
        pairs.push(halves.checked(found, alpha)?);
    }
    match alphas.values().next() {
        None => Ok(Parts { pairs, ..Parts::default() }),
        Some((key, _)) => Err(halves.error(key, "its layer has no lora_down and lora_up")),
    }
}

/// Layers by their names with underscores.
struct Names<'a> {
    base: &'a Base,
    flat: BTreeMap<String, Vec<&'a str>>,
}

impl<'a> Names<'a> {
    fn new(base: &'a Base) -> Self {
        let mut flat: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (written, name) in base.names() {
            let layers = flat.entry(written.replace('.', "_")).or_default();
            if !layers.contains(&name) {
                layers.push(name);
            }
        }
        Self { base, flat }
    }

    /// The one layer that a key means.
    fn find(&self, file: &Path, key: &str, written: &str) -> Result<&'a str> {
        let name = PREFIXES.iter().find_map(|prefix| written.strip_prefix(prefix)).unwrap_or(written);
        match self.flat.get(name).map(Vec::as_slice) {
            Some([layer]) => Ok(layer),
            Some(layers) => {
                Err(Error::tensor(file, key, format!("it may mean any of the layers {}", layers.join(", "))))
            }
            None => Err(self.base.unknown(file, key, name)),
        }
    }
}
