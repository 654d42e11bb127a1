//! Whether an adapter does anything.

use super::base_values::BaseValues;
use crate::nn::{Module, for_each_embedding, for_each_linear, for_each_parameter};
use crate::tape::{AdapterId, Leaf, Lora, Magnitude};
use crate::tensor::DType;

/// How far a magnitude may be from the length that the weight has, as a part of that, and still be it.
const ROUNDING: f32 = 1e-5;

/// Whether the model answers under an adapter as it does without: of every pair a factor is zero, and whatever the adapter
/// has in the place of the base model's values is the same. So it is before training, but for an orthogonal beginning,
/// where the product alone is zero.
pub fn changes_nothing(model: &dyn Module, adapter: AdapterId) -> bool {
    let mut changes = false;
    let values = BaseValues::of(model);
    for_each_linear(model, |_, linear| {
        let mut own = linear.lora.iter().filter(|lora| lora.adapter == adapter);
        changes = changes
            || own.any(|lora| {
                let lengths = || Some(lora.norms(values.find(&linear.weight)?));
                is_felt(lora, lengths)
            });
    });
    for_each_embedding(model, |_, embedding| {
        let mut own = embedding.lora.iter().filter(|lora| lora.adapter == adapter);
        changes = changes
            || own.any(|lora| {
                let lengths = || Some(lora.table_norms(values.find(&embedding.weight)?));
                is_felt(lora, lengths)
            });
    });
    for_each_parameter(model, |_, parameter| {
        if changes {
            return;
        }
        let is_own = parameter.replacement(adapter).is_some() || parameter.rows(adapter).is_some();
        let base = parameter.base().filter(|_| is_own).map(|leaf| leaf.float().to_dtype(DType::F32));
        if let Some(leaf) = parameter.replacement(adapter) {
            changes |= base.as_ref().is_none_or(|base| base.to_f32_vec() != leaf.float().to_f32_vec());
        }
        if let Some((rows, base)) = parameter.rows(adapter).zip(base) {
            let width = base.shape().width();
            let row = |id: &u32| &base.as_slice::<f32>()[*id as usize * width..(*id as usize + 1) * width];
            let values = rows.values.value().as_slice::<f32>().chunks_exact(width.max(1));
            changes |= rows.ids.iter().zip(values).any(|(id, values)| row(id) != values);
        }
    });
    !changes
}

fn is_felt(lora: &Lora, lengths: impl FnOnce() -> Option<Vec<f32>>) -> bool {
    let is_zero = |leaf: &Leaf| leaf.value().as_slice::<f32>().iter().all(|value| *value == 0.0);
    let is_same = |one: &Leaf, other: &Leaf| one.value().to_f32_vec() == other.value().to_f32_vec();
    let product = match &lora.initial {
        Some(initial) => !(is_same(&lora.a, &initial.a) && is_same(&lora.b, &initial.b)),
        None => !is_zero(&lora.a) && !is_zero(&lora.b),
    };
    let moved = |magnitude: &Magnitude| {
        let vector = magnitude.vector.value().to_f32_vec();
        lengths().is_none_or(|lengths| {
            vector.iter().zip(lengths).any(|(m, length)| (m - length).abs() > ROUNDING * length.abs())
        })
    };
    let bias = lora.bias.as_ref().is_some_and(|bias| !is_zero(bias));
    product || bias || lora.magnitude.as_ref().is_some_and(moved)
}
