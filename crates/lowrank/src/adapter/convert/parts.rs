//! An adapter of whatever form, taken apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::base::Base;
use crate::hub::{Checkpoint, TensorView, Tensors, to_tensor};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// What an adapter is made of, in PEFT's terms.
#[derive(Default)]
pub(super) struct Parts {
    /// In the order of their modules.
    pub pairs: Vec<Pair>,
    /// Tensors of modules that are saved whole.
    pub saved: Tensors,
    /// Biases.
    pub biases: Tensors,
    /// The base model, where the source names it.
    pub base_model: Option<String>,
    pub dropout: f32,
}

/// A low-rank pair: `lora_alpha/r · B·A`.
pub(super) struct Pair {
    pub module: String,
    /// `[R, inputs]`, or `[R, entries]` of an embedding.
    pub a: Tensor,
    /// `[outputs, R]`, or `[width, R]` of an embedding.
    pub b: Tensor,
    pub lora_alpha: f64,
    pub is_embedding: bool,
    /// `[outputs]`, of DoRA.
    pub magnitude: Option<Tensor>,
}

impl Pair {
    /// The rank.
    pub fn r(&self) -> usize {
        self.b.shape().width()
    }
}

/// Which factor of a pair.
#[derive(Clone, Copy)]
pub(super) enum Side {
    A,
    B,
}

/// Factors that are found one after the other, until each has its other half.
pub(super) struct Halves<'a> {
    file: PathBuf,
    base: Option<&'a Base>,
    /// By the names that the file has for modules.
    found: BTreeMap<String, [Option<(String, Tensor)>; 2]>,
    /// The modules that have their pair.
    done: BTreeSet<String>,
}

/// A pair with the key of its `A`, as the file has them.
pub(super) struct Found {
    pub written: String,
    pub key: String,
    pub a: Tensor,
    pub b: Tensor,
}

impl<'a> Halves<'a> {
    pub fn new(file: &Path, base: Option<&'a Base>) -> Self {
        Self { file: file.to_path_buf(), base, found: BTreeMap::new(), done: BTreeSet::new() }
    }

    /// Takes the tensor of a key as a factor of a module's pair. A second one is an error.
    pub fn add(&mut self, written: &str, side: Side, key: &str, value: Tensor) -> Result<()> {
        let pair = self.found.entry(written.to_owned()).or_default();
        match pair[side as usize].replace((key.to_owned(), value)) {
            None => Ok(()),
            Some((other, _)) => {
                Err(self.error(key, &format!("{other} is the same factor of the same layer")))
            }
        }
    }

    /// All pairs. The first half without another is an error.
    pub fn pairs(&mut self) -> Result<Vec<Found>> {
        let mut pairs = Vec::new();
        for (written, halves) in std::mem::take(&mut self.found) {
            match halves {
                [Some((key, a)), Some((_, b))] => pairs.push(Found { written, key, a, b }),
                [Some((key, _)), None] | [None, Some((key, _))] => {
                    return Err(self.error(&key, "the other factor of its pair is missing"));
                }
                [None, None] => {}
            }
        }
        Ok(pairs)
    }

    /// A pair under the name of its module in the model, with its sizes checked. Where there is no model, the name is
    /// the file's, and the last part of it tells if it is an embedding's.
    pub fn checked(&mut self, found: Found, lora_alpha: f64) -> Result<Pair> {
        let Found { written, key, a, b } = found;
        let (r, outputs_r) = (a.shape().dims()[0], b.shape().dims()[1]);
        if r == 0 || r != outputs_r {
            let reason = format!("its rank is {r}, where that of the other factor is {outputs_r}");
            return Err(self.error(&key, &reason));
        }
        if !(lora_alpha.is_finite() && lora_alpha > 0.0) {
            return Err(self.error(&key, &format!("its lora_alpha would be {lora_alpha}, not above 0")));
        }
        let Some(base) = self.base else {
            let is_embedding = is_embedding(&written);
            return Ok(Pair { module: written, a, b, lora_alpha, is_embedding, magnitude: None });
        };
        let (module, layer) = base.find(&written).ok_or_else(|| base.unknown(&self.file, &key, &written))?;
        let (inputs, outputs) = (a.shape().width(), b.shape().dims()[0]);
        if [inputs, outputs] != [layer.inputs, layer.outputs] {
            let (to, from) = (layer.outputs, layer.inputs);
            let reason = format!("its pair is for {outputs} by {inputs}, where {module} is {to} by {from}");
            return Err(self.error(&key, &reason));
        }
        if !self.done.insert(module.to_owned()) {
            return Err(self.error(&key, &format!("{module} has another pair already")));
        }
        let is_embedding = layer.is_embedding;
        Ok(Pair { module: module.to_owned(), a, b, lora_alpha, is_embedding, magnitude: None })
    }

    /// The error of a key.
    pub fn error(&self, key: &str, reason: &str) -> Error {
        Error::tensor(&self.file, key, reason)
    }
}

/// Whether a layer is a table of words, by what it is called.
pub(super) fn is_embedding(module: &str) -> bool {
    let names = ["embed_tokens", "wte", "wpe", "shared", "word_embeddings", "tok_embeddings"];
    names.contains(&module.rsplit('.').next().unwrap_or(module))
}

/// A tensor of a file as an f32 matrix.
pub(super) fn matrix(file: &Checkpoint, key: &str) -> Result<Tensor> {
    let tensor = values(file, key)?;
    if tensor.shape().rank() != 2 {
        let reason = format!("its shape is {:?}, that of no matrix", tensor.shape().dims());
        return Err(Error::tensor(file.path(), key, reason));
    }
    Ok(tensor)
}

/// A tensor of a file as f32.
pub(super) fn values(file: &Checkpoint, key: &str) -> Result<Tensor> {
    let view: Option<TensorView<'_>> = file.get(key);
    let view = view.ok_or_else(|| Error::tensor(file.path(), key, "it is missing"))?;
    Ok(to_tensor(key, &view)?.to_dtype(DType::F32))
}
