//! The base model's bytes, looked at before and after training.

use std::collections::BTreeMap;

use crate::models::Model;
use crate::nn::for_each_parameter;
use crate::tape::Leaf;
use crate::{Error, Result};

/// A number for the bytes of each tensor that is frozen.
pub(super) struct Frozen(BTreeMap<String, u64>);

impl Frozen {
    /// Those of a model. Weights that run from their file as they are there are left out: they are mapped for reading, and
    /// the system lets nobody write there. Of a weight that was packed, the value is looked at and not the packed copy.
    pub fn of(model: &dyn Model) -> Self {
        let mut hashes = BTreeMap::new();
        for_each_parameter(model, |path, parameter| {
            if let Some(leaf) = parameter.base().filter(|leaf| is_looked_at(leaf)) {
                hashes.insert(path.to_owned(), hash_of(leaf));
            }
        });
        Self(hashes)
    }

    /// Checks that they are what they were.
    ///
    /// # Errors
    /// Names the first tensor that is not.
    pub fn check(&self, model: &dyn Model) -> Result<()> {
        let mut changed = None;
        for_each_parameter(model, |path, parameter| {
            let before = self.0.get(path).filter(|_| changed.is_none());
            if let Some((before, leaf)) = before.zip(parameter.base())
                && *before != hash_of(leaf)
            {
                changed = Some(path.to_owned());
            }
        });
        match changed {
            None => Ok(()),
            Some(path) => Err(Error::Usage(format!(
                "{path} is frozen, and its bytes are not those from before the training: the adapter that was trained \
                 beside it is not written"
            ))),
        }
    }
}

fn is_looked_at(leaf: &Leaf) -> bool {
    !leaf.is_trainable() && (leaf.queue().is_none() || leaf.as_quantized().is_some())
}

/// A number for a value, the scales and outliers of one in 8 bits included. Pages of a file are given back.
fn hash_of(leaf: &Leaf) -> u64 {
    let mut value = 0;
    for tensor in leaf.tensors() {
        value = u64::rotate_left(value, 1) ^ hash(tensor.bytes());
        tensor.release_pages();
    }
    leaf.as_quantized().map_or(value, |quantized| {
        let scales = hash(bytemuck::cast_slice(quantized.scales()));
        value ^ scales.rotate_left(17) ^ hash(bytemuck::cast_slice(quantized.outliers())).rotate_left(34)
    })
}

/// Four sums by turns, so that one multiplication need not wait for the other.
fn hash(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sums = [1u64, 2, 3, 4];
    let (words, rest) = bytes.as_chunks::<32>();
    for word in words {
        let (parts, _) = word.as_chunks::<8>();
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = (*sum ^ u64::from_le_bytes(*part)).wrapping_mul(FACTOR).rotate_left(29);
        }
    }
    let rest =
        rest.iter().fold(5u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(FACTOR).rotate_left(29));
    sums.into_iter().fold(rest, |sum, part| (sum ^ part).wrapping_mul(FACTOR).rotate_left(29))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{HeadSpec, ModelConfig, from_config, initialise};
    use crate::nn::for_each_parameter_mut;
    use crate::tensor::DType;

    #[test]
    fn one_bit_of_any_tensor_is_seen() {
        let config = serde_json::json!({
            "model_type": "bert", "vocab_size": 30, "hidden_size": 9, "num_hidden_layers": 1,
            "num_attention_heads": 3, "intermediate_size": 17, "max_position_embeddings": 12,
        });
        let config = ModelConfig::from_json(&config).unwrap();
        let mut model = from_config(&config, HeadSpec::classes(2)).unwrap();
        initialise(&mut *model, 1, DType::F32).unwrap();
        let frozen = Frozen::of(&*model);
        frozen.check(&*model).unwrap();
        let mut paths = Vec::new();
        for_each_parameter(&*model, |path, _| paths.push(path.to_owned()));
        assert_eq!(frozen.0.len(), paths.len());
        for (number, wanted) in paths.iter().enumerate() {
            let flip = |model: &mut dyn Model| {
                for_each_parameter_mut(model, |path, parameter| {
                    if path == wanted {
                        let values = parameter.base_mut().unwrap().value_mut();
                        let place = number * 7 % values.len();
                        values[place] = f32::from_bits(values[place].to_bits() ^ 1);
                    }
                });
            };
            flip(&mut *model);
            let error = frozen.check(&*model).unwrap_err().to_string();
            assert!(error.starts_with(wanted.as_str()), "{wanted}: {error}");
            flip(&mut *model);
        }
        frozen.check(&*model).unwrap();
    }
}
