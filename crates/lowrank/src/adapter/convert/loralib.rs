//! What `lora_state_dict` of Microsoft's loralib gives, saved by `torch.save`.
//!
//! # Source
//! `loralib/layers.py`: `lora_alpha/r · B·A`. A `MergedLinear` has one `A` `[G·R, inputs]` for all of its `G` parts that
//! are adapted, and of each part `B` `[outputs/parts, R]`, one below the other: part `g` is `B_g·A_g`.

use std::path::Path;

use super::base::Base;
use super::parts::{Found, Halves, Parts, Side, matrix, values};
use crate::hub::Checkpoint;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The ends of the keys of the factors.
pub(super) const A: &str = ".lora_A";
pub(super) const B: &str = ".lora_B";
/// What `DistributedDataParallel` puts before every key.
const DISTRIBUTED: &str = "module.";

/// Reads a file, of which `lora_alpha` and the parts of merged layers must be told.
pub(super) fn read(
    path: &Path,
    base: Option<&Base>,
    lora_alpha: Option<f64>,
    enable_lora: &[bool],
) -> Result<Parts> {
    let Some(lora_alpha) = lora_alpha else {
        let reason =
            "loralib's files do not say it: give the one that the layers were made with, --lora-alpha";
        return Err(Error::setting("lora_alpha", reason));
    };
    let file = Checkpoint::open_file(path)?;
    let distributed = file.names().all(|key| key.starts_with(DISTRIBUTED));
    let mut halves = Halves::new(path, base);
    let mut parts = Parts::default();
    for key in file.names() {
        let name = key.strip_prefix(DISTRIBUTED).filter(|_| distributed).unwrap_or(key);
        let half = [(A, Side::A), (B, Side::B)]
            .iter()
            .find_map(|(end, side)| name.strip_suffix(end).map(|module| (module, *side)));
        if let Some((module, side)) = half {
            halves.add(module, side, key, matrix(&file, key)?)?;
        } else if base.is_some_and(|base| is_of_head(base, name)) {
            parts.saved.insert(name.to_owned(), values(&file, key)?);
        } else if let Some(bias) = bias_of(base, name) {
            if parts.biases.insert(bias, values(&file, key)?).is_some() {
                return Err(halves.error(key, "its layer has another bias already"));
            }
        } else {
            let reason = "it is neither lora_A nor lora_B of a layer, nor a bias of the model, nor of the head of \
                          --model M";
            return Err(halves.error(key, reason));
        }
    }
    for found in halves.pairs()? {
        let groups = groups(&found, &halves)?;
        let found = if groups == 1 { found } else { spread(found, groups, enable_lora, &halves)? };
        // The scaling is by the rank of a part, and PEFT's by that of all together.
        parts.pairs.push(halves.checked(found, lora_alpha * groups as f64)?);
    }
    Ok(parts)
}

/// The name of a bias, which a model, if there is one, must have.
fn bias_of(base: Option<&Base>, name: &str) -> Option<String> {
    let is_bias = name.ends_with(".bias");
    is_bias.then(|| base.map_or(Some(name.to_owned()), |base| base.parameter(name))).flatten()
}

fn is_of_head(base: &Base, name: &str) -> bool {
    let inside = |module: &&str| name.strip_prefix(*module).is_some_and(|rest| rest.starts_with('.'));
    base.info().head.iter().any(inside)
}

/// How many parts of a layer a pair is for.
fn groups(found: &Found, halves: &Halves<'_>) -> Result<usize> {
    let (all, r) = (found.a.shape().rows(), found.b.shape().width());
    if r == 0 || !all.is_multiple_of(r) || all == 0 {
        let reason = format!("it has {all} rows, no multiple of the {r} columns of lora_B");
        return Err(halves.error(&found.key, &reason));
    }
    Ok(all / r)
}

/// The pair of a merged layer as one of the rank of all parts together: `B_g` in the rows of its part and the columns of
/// its rows of `A`, zero elsewhere.
fn spread(found: Found, groups: usize, enable_lora: &[bool], halves: &Halves<'_>) -> Result<Found> {
    let (rows, r) = (found.b.shape().rows(), found.b.shape().width());
    let enabled = enable_lora.iter().filter(|enabled| **enabled).count();
    if enabled != groups {
        let given =
            if enable_lora.is_empty() { "is absent".to_owned() } else { format!("enables {enabled}") };
        let reason = format!(
            "its pair is for {groups} parts of a merged layer, and --enable-lora, which says which of all parts they \
             are, {given}; queries and values are --enable-lora true,false,true"
        );
        return Err(halves.error(&found.key, &reason));
    }
    if !rows.is_multiple_of(groups) {
        let reason = format!("lora_B has {rows} rows, which are not {groups} parts");
        return Err(halves.error(&found.key, &reason));
    }
    let (part, width) = (rows / groups, groups * r);
    let from = found.b.to_f32_vec();
    let mut to = vec![0.0; enable_lora.len() * part * width];
    let places = enable_lora.iter().enumerate().filter(|(_, enabled)| **enabled).map(|(place, _)| place);
    for (group, place) in places.enumerate() {
        for row in 0..part {
            let from = &from[(group * part + row) * r..][..r];
            to[(place * part + row) * width + group * r..][..r].copy_from_slice(from);
        }
    }
    Ok(Found { b: Tensor::from_slice([enable_lora.len() * part, width], &to), ..found })
}
