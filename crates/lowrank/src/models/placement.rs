//! Where a model's weights are kept: packed, in 8 bits, or in their file.

use std::collections::HashSet;

use lowrank_kernels::gemm::Weight;
use lowrank_kernels::{Compute, memory};

use super::Model;
use super::initialise::is_inside;
use super::keys::Keys;
use crate::hub::{Checkpoint, StoredDtype};
use crate::nn::{for_each_linear, for_each_parameter, for_each_parameter_mut};
use crate::tape::Queue;
use crate::{Error, Result};

/// The environment variable that says how much memory to plan with, in bytes.
pub const MEMORY: &str = "LOWRANK_MEMORY";

/// What a model's weights are loaded as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadIn {
    /// The checkpoint's type where that fits in memory, else 8 bits, else the checkpoint's type in its file.
    #[default]
    Auto,
    /// 8 bits.
    Int8,
    /// The checkpoint's type, in its file: what holds two models at once, and no name in a run file asks for.
    Mapped,
}

impl LoadIn {
    /// Every way, under its name in a run file.
    pub const NAMES: [(&'static str, Self); 2] = [("auto", Self::Auto), ("int8", Self::Int8)];

    /// The name in a run file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Int8 => "int8",
            Self::Mapped => "mapped",
        }
    }
}

/// What the products with frozen weights are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operands {
    /// Numbers of the rows' type.
    #[default]
    Rows,
    /// Whole numbers: the weights that [`quantizable`] names in 8 bits, and rows that are rounded to 16 on the way.
    Int8,
}

/// Where the weights of linear layers are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// In memory, packed for the kernels at their first use.
    #[default]
    Packed,
    /// In memory in 8 bits, decoded in every product; those that [`quantizable`] leaves out as the checkpoint has them.
    Int8,
    /// In the checkpoint's mapped files, brought into the kernels' form in every product.
    Mapped,
}

/// The shortest side of a weight that is brought into 8 bits: the side of the blocks that the kernels decode.
const SHORTEST_SIDE: usize = 16;

/// The weights that may be brought into 8 bits: those of linear layers that are stored as matrices with sides of 16 or
/// more, outside of the head, the layer before a language model's logits, and what is another name of a table.
pub fn quantizable(model: &dyn Model) -> HashSet<String> {
    let info = model.info();
    let mut names = HashSet::new();
    for_each_linear(model, |path, linear| {
        let weight = &linear.weight;
        let sides = linear.inputs().min(linear.outputs());
        let in_head = info.head.iter().chain(&info.output).any(|module| is_inside(weight.name(), module));
        if weight.tie().is_none() && weight.is_matrix() && sides >= SHORTEST_SIDE && !in_head {
            names.insert(format!("{path}.weight"));
        }
    });
    names
}

/// The bytes that a model takes under each placement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Packed.
    pub packed: u64,
    /// In 8 bits.
    pub int8: u64,
    /// What the transposes of weights that are multiplied in whole numbers add, where they are kept.
    pub transposes: u64,
}

impl Needs {
    /// Counts shapes and the checkpoint's bytes, or those of f32 where there is no checkpoint; nothing is read. In training,
    /// weights are multiplied in both directions.
    pub fn of(
        model: &dyn Model,
        checkpoint: Option<&Checkpoint>,
        (compute, operands): (Compute, Operands),
        training: bool,
    ) -> Self {
        let keys = checkpoint.map(|checkpoint| Keys::new(model.info(), checkpoint));
        let eight = quantizable(model);
        let multiplied = multiplied(model);
        let in_whole_numbers = |path: &str| operands == Operands::Int8 && eight.contains(path);
        let mut needs = Self::default();
        for_each_parameter(model, |path, parameter| {
            if parameter.tie().is_some() {
                return;
            }
            let elements = parameter.shape().elements() as u64;
            let found = keys.as_ref().map_or_else(Vec::new, |keys| keys.find_all(path));
            let bytes = found.iter().map(|(_, view)| view.bytes.len() as u64).sum();
            let stored = if found.is_empty() { 4 * elements } else { bytes };
            let is_int8 = found.iter().any(|(_, view)| view.dtype == StoredDtype::I8);
            let value_bytes = if in_whole_numbers(path) { 1 } else { Weight::value_bytes(compute, training) };
            let packed = if multiplied.contains(path) { value_bytes as u64 * elements } else { 0 };
            // A table that is also a head is read in both forms.
            let own = if packed == 0 || !eight.contains(path) { stored } else { 0 };
            // What is in 8 bits is decoded as it is read, or packed beside it.
            let beside = if operands == Operands::Int8 { packed } else { 0 };
            needs.packed += if is_int8 { stored + beside } else { packed + own };
            // One column in a hundred in bf16, and the scales.
            let small = elements + elements / 50;
            let kept = if is_int8 || !eight.contains(path) { stored } else { small };
            needs.int8 += kept + if eight.contains(path) { beside } else { 0 };
            needs.transposes += if in_whole_numbers(path) { elements } else { 0 };
        });
        needs
    }

    /// Whether there is room for the transposes beside the weights, packed or in 8 bits.
    pub fn keeps_transposes(self, placement: Placement, available: Option<u64>) -> bool {
        let weights = if placement == Placement::Int8 { self.int8 } else { self.packed };
        available.is_none_or(|available| fits(weights + self.transposes, available))
    }

    /// The placement that fits of those that leave the weights as the checkpoint has them.
    pub fn choose_unchanged(self, available: Option<u64>) -> Placement {
        if self.choose(available).0 == Placement::Packed { Placement::Packed } else { Placement::Mapped }
    }

    /// The placement that fits, and the sentence that tells of it where it is not the usual one.
    pub fn choose(self, available: Option<u64>) -> (Placement, Option<String>) {
        let Some(available) = available else { return (Placement::Packed, None) };
        let fits = |bytes: u64| fits(bytes, available);
        let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
        let (packed, int8) = (gb(self.packed), gb(self.int8));
        let reason =
            format!("the weights would take {packed} of memory, and {} are available", gb(available));
        if fits(self.packed) {
            (Placement::Packed, None)
        } else if fits(self.int8) {
            (Placement::Int8, Some(format!("{reason}: they are loaded in 8 bits, which take {int8}")))
        } else {
            let note = format!(
                "{reason}, too few even for 8 bits ({int8}): they are read from their file in every pass"
            );
            (Placement::Mapped, Some(note))
        }
    }
}

/// Whether so many bytes leave a fifth of those available to everything else.
fn fits(bytes: u64, available: u64) -> bool {
    bytes <= available / 5 * 4
}

/// How much memory to plan with: what `LOWRANK_MEMORY` says, or what the system and this process's control group leave.
///
/// # Errors
/// If the variable holds something else than a number of bytes.
pub fn planned_memory() -> Result<Option<u64>> {
    match std::env::var(MEMORY) {
        Ok(text) if !text.is_empty() => {
            let reason = || format!("it is {text:?}; it must be a number of bytes");
            text.parse().map(Some).map_err(|_| Error::setting(MEMORY, reason()))
        }
        _ => Ok(memory::available_bytes()),
    }
}

/// The parameters that matrices are multiplied by: linear layers' own weights, and tables that are one's.
fn multiplied(model: &dyn Model) -> HashSet<String> {
    let mut names = HashSet::new();
    for_each_linear(model, |path, linear| {
        names.insert(linear.weight.tie().map_or_else(|| format!("{path}.weight"), str::to_owned));
    });
    names
}

/// Has every weight of a loaded model read where it is, in the order of the layers.
pub(super) fn stream(model: &mut dyn Model) {
    let names = multiplied(&*model);
    let mut order = Vec::new();
    for_each_parameter(&*model, |path, parameter| {
        if let Some(leaf) = parameter.base().filter(|_| names.contains(path)) {
            order.extend(leaf.tensors().cloned());
        }
    });
    let mut places = Queue::places(order);
    for_each_parameter_mut(model, |path, parameter| {
        if let Some(leaf) = parameter.base_mut().filter(|_| names.contains(path)) {
            leaf.stream(&mut places);
        }
    });
}

/// Has the frozen weights that may be brought into 8 bits multiplied in whole numbers by rows of `compute`, except floating
/// ones that are streamed, and gives their number. With `keep_transposes`, they keep these as in
/// [`Int8Weight::keeping_transpose`](lowrank_kernels::gemm::Int8Weight::keeping_transpose).
///
/// # Errors
/// Names a weight that holds a value that is not finite.
pub(crate) fn multiply_in_int8(
    model: &mut dyn Model,
    compute: Compute,
    keep_transposes: bool,
) -> Result<usize> {
    let names = quantizable(&*model);
    let mut count = Ok(0);
    for_each_parameter_mut(model, |path, parameter| {
        if let (Ok(sum), Some(leaf)) = (&mut count, parameter.base_mut().filter(|_| names.contains(path))) {
            match leaf.multiply_in_int8(compute, keep_transposes) {
                Some(weights) => *sum += weights,
                None => {
                    let reason = "it holds a value that is not finite, and cannot be multiplied in 8 bits";
                    count = Err(Error::Usage(format!("{path}: {reason}")));
                }
            }
        }
    });
    count
}

#[cfg(test)]
mod tests {
    use super::super::{HeadSpec, ModelConfig, from_config};
    use super::*;

    #[test]
    fn transposes_are_counted_where_products_are_of_whole_numbers() {
        let config = serde_json::json!({
            "model_type": "bert", "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 12,
        });
        let config = ModelConfig::from_json(&config).unwrap();
        let model = from_config(&config, HeadSpec::new(config.usual_head(), 2)).unwrap();
        let needs = |operands| Needs::of(&*model, None, (Compute::F32, operands), true);
        let (whole, rows) = (needs(Operands::Int8), needs(Operands::Rows));
        // Queries, keys, values and outputs of attention, and two layers, in each of two; beside them the pooler.
        let elements = 2 * (4 * 16 * 16 + 2 * 16 * 24) + 16 * 16;
        assert_eq!((whole.transposes, rows.transposes), (elements, 0));
        assert_eq!((whole.packed + 3 * elements, whole.int8), (rows.packed, rows.int8 + elements));
    }

    #[test]
    fn what_fits_is_chosen_and_a_fifth_is_left() {
        let needs = Needs { packed: 4_000_000_000, int8: 1_000_000_000, transposes: 1_000_000_000 };
        let chosen = |available| needs.choose(Some(available)).0;
        assert_eq!(needs.choose(None), (Placement::Packed, None));
        assert_eq!(needs.choose(Some(5_000_000_000)), (Placement::Packed, None));
        assert_eq!(chosen(4_900_000_000), Placement::Int8);
        assert_eq!(chosen(1_250_000_000), Placement::Int8);
        assert_eq!(chosen(1_200_000_000), Placement::Mapped);
        assert_eq!(needs.choose_unchanged(Some(5_000_000_000)), Placement::Packed);
        assert_eq!(needs.choose_unchanged(Some(4_900_000_000)), Placement::Mapped);
        let keeps = |placement, available| needs.keeps_transposes(placement, Some(available));
        assert!(keeps(Placement::Packed, 6_250_000_000) && !keeps(Placement::Packed, 6_200_000_000));
        assert!(keeps(Placement::Int8, 2_500_000_000) && !keeps(Placement::Int8, 2_400_000_000));
        assert!(needs.keeps_transposes(Placement::Packed, None));
        let note = needs.choose(Some(2_000_000_000)).1;
        let expected = "the weights would take 4.0 GB of memory, and 2.0 GB are available: they are loaded in 8 bits, \
                        which take 1.0 GB";
        assert_eq!(note.as_deref(), Some(expected));
    }
}
