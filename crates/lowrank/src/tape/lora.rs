//! The low-rank pair of a layer.

use super::layout::AdapterId;
use super::parameter::Leaf;

/// The low-rank pair that an adapter adds to a linear layer, or to an embedding, whose inputs are its entries.
///
/// # Source
/// Hu et al., LoRA (arXiv 2106.09685), section 4.1; names and shapes as in PEFT.
#[derive(Clone, Debug)]
pub struct Lora {
    /// The adapter that it belongs to.
    pub adapter: AdapterId,
    /// `A`: `[r, inputs]`.
    pub a: Leaf,
    /// `B`: `[outputs, r]`. Of a linear layer, it is zero before training; of an embedding, `A` is.
    pub b: Leaf,
    /// What is added to `B·A·x` before the scaling, `[outputs]`: PEFT's `lora_bias`. Embeddings have none.
    pub bias: Option<Leaf>,
    /// What multiplies `B·A·x`: `alpha/r`, or `alpha/√r`.
    pub scaling: f32,
    /// The probability with which an element of this branch's input is dropped in training; an embedding's ids are not.
    pub dropout: f32,
}

impl Lora {
    /// The rank `r`.
    pub fn rank(&self) -> usize {
        self.a.value().shape().rows()
    }

    /// The tensors of a linear layer's pair, by their names below the layer.
    pub fn leaves(&self) -> impl Iterator<Item = (&'static str, &Leaf)> {
        let bias = self.bias.iter().map(|bias| ("lora_B.bias", bias));
        [("lora_A.weight", &self.a), ("lora_B.weight", &self.b)].into_iter().chain(bias)
    }

    /// As [`Lora::leaves`], for changes.
    pub fn leaves_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Leaf)> {
        let bias = self.bias.iter_mut().map(|bias| ("lora_B.bias", bias));
        [("lora_A.weight", &mut self.a), ("lora_B.weight", &mut self.b)].into_iter().chain(bias)
    }
}
