//! Adapters merged into the base model, and taken out again.

use std::collections::{BTreeMap, BTreeSet};

use lowrank_kernels::{Rows, RowsMut, elementwise, low_rank, magnitude};

use super::base_values::BaseValues;
use crate::nn::{
    Module, for_each_embedding, for_each_embedding_mut, for_each_linear, for_each_linear_mut,
    for_each_parameter, for_each_parameter_mut, join,
};
use crate::tape::{AdapterId, Leaf, Lora, TokenRows, is_finite};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// An adapter that is merged into a model: what it takes to undo that.
#[derive(Debug)]
pub struct Merged {
    adapter: AdapterId,
    /// The base model's values before; none where there was none.
    before: BTreeMap<String, Option<Leaf>>,
    changes: Changes,
}

/// What an adapter changes in a model's parameters, by their names.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The low-rank pairs that are added to a weight.
    pub pairs: BTreeMap<String, Vec<Pair>>,
    /// What stands in for a value of the base model's.
    pub replacements: BTreeMap<String, Leaf>,
    /// What stands in for rows of tables, and of what is tied to them.
    pub rows: BTreeMap<String, TokenRows>,
}

/// A low-rank pair.
#[derive(Debug)]
pub(crate) struct Pair {
    lora: Lora,
    added_to: AddedTo,
}

/// What a pair is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddedTo {
    /// A weight `[outputs, inputs]`: `B·A`.
    Linear,
    /// The same, of which a pair began as a part, which its own adapter has anyway.
    TakenOff,
    /// A table `[entries, width]`: `Aᵀ·Bᵀ`.
    Embedding,
    /// A bias: the pair's own.
    Bias,
}

/// Puts `W + s·B·A`, or `m∘(W + s·B·A)/‖W + s·B·A‖` where the adapter has a magnitude, in the place of each weight that an
/// adapter changes, and the values that it brought along in the place of the base model's. The adapter is then off the
/// model, which answers with it in every batch, at the cost of the base alone. Other adapters add to what is merged.
///
/// A weight keeps its type: in bf16 or f16, the sum is rounded to that. One in 8 bits becomes f32, as no 8 bits hold the
/// sum of its decoded values and the product. What was never packed is not packed afterwards either. A weight that is
/// another name of a changed one keeps its old value, so that the answers are those of the adapter.
///
/// # Errors
/// If a weight has no value, or would not be finite, or a pair is on a convolution in groups; the model is then as it was.
pub fn merge(model: &mut dyn Module, adapter: AdapterId) -> Result<Merged> {
    let changes = Changes::of(&*model, adapter)?;
    let mut before = BTreeMap::new();
    let bases = BaseValues::of(&*model);
    let changed: BTreeSet<&String> = changes.pairs.keys().chain(changes.replacements.keys()).collect();
    let mut values = BTreeMap::new();
    let mut result = Ok(());
    for_each_parameter(&*model, |path, parameter| {
        let pairs = changes.pairs.get(path).map_or(&[][..], Vec::as_slice);
        let shares = parameter.shares();
        let loses_its_value = shares.is_some_and(|name| changed.iter().any(|path| *path == name));
        let rows = changes.rows.get(path);
        let is_changed = changed.contains(&path.to_owned()) || loses_its_value || rows.is_some();
        if result.is_ok() && is_changed {
            let start = parameter.replacement(adapter).map_or_else(|| bases.get(parameter), Ok);
            let kept = |value: Tensor| match bases.find(parameter) {
                Some(base) => base.with_value(value),
                None => Leaf::frozen(value),
            };
            result = start.and_then(|leaf| sum(path, leaf, pairs)).map(|mut value| {
                if let Some(rows) = rows {
                    value = with_rows(&value, rows);
                }
                values.insert(path.to_owned(), kept(value));
            });
        }
    });
    result?;
    let mut result = Ok(());
    for_each_parameter_mut(model, |path, parameter| {
        if let Some(value) = values.remove(path).filter(|_| result.is_ok()) {
            before.insert(path.to_owned(), parameter.base().cloned());
            result = parameter.set_base(value);
        }
    });
    result?;
    super::detach(model, adapter);
    Ok(Merged { adapter, before, changes })
}

impl Changes {
    /// Those of an adapter.
    ///
    /// # Errors
    /// If a pair has a bias, and its layer none to add that to; if one is on a convolution in groups.
    pub fn of(model: &dyn Module, adapter: AdapterId) -> Result<Self> {
        let mut changes = Self::default();
        let mut result = Ok(());
        let mut add = |path: &str, lora: &Lora, added_to| {
            let name = if added_to == AddedTo::Bias { "bias" } else { "weight" };
            let pair = Pair { lora: lora.clone(), added_to };
            changes.pairs.entry(join(path, name)).or_default().push(pair);
        };
        for_each_linear(model, |path, linear| {
            for lora in linear.lora.iter().filter(|lora| lora.adapter == adapter) {
                if linear.groups() > 1 {
                    let reason = "is a convolution in groups, and its pair reads the channels of all of them: no weight of \
                                  such a layer holds the sum; keep the adapter beside the model";
                    result = Err(Error::Usage(format!("{path} {reason}")));
                    continue;
                }
                add(path, lora, AddedTo::Linear);
                if let Some(lora) = lora.taken_off() {
                    add(path, &lora, AddedTo::TakenOff);
                }
                if lora.bias.is_some() && linear.bias.is_none() {
                    let reason = "has no bias that the adapter's own could be merged into";
                    result = Err(Error::Usage(format!("{path} {reason}")));
                } else if lora.bias.is_some() {
                    add(path, lora, AddedTo::Bias);
                }
            }
        });
        for_each_embedding(model, |path, embedding| {
            let own = embedding.lora.iter().filter(|lora| lora.adapter == adapter);
            own.for_each(|lora| add(path, lora, AddedTo::Embedding));
        });
        result?;
        for_each_parameter(model, |path, parameter| {
            let leaf = parameter.replacement(adapter).cloned();
            changes.replacements.extend(leaf.map(|leaf| (path.to_owned(), leaf)));
            changes.rows.extend(parameter.rows(adapter).map(|rows| (path.to_owned(), rows.clone())));
        });
        Ok(changes)
    }
}

/// A weight with the products of pairs added, in its floating type.
pub(crate) fn sum(path: &str, leaf: &Leaf, pairs: &[Pair]) -> Result<Tensor> {
    let weight = leaf.float();
    if pairs.is_empty() {
        return Ok(weight);
    }
    let (rows, width) = weight.rows_and_width();
    let mut sum = weight.to_dtype(DType::F32);
    for pair in pairs {
        pair.product(false, leaf).apply(0, RowsMut::dense(sum.make_mut::<f32>(), rows, width));
    }
    let sum = sum.to_dtype(weight.dtype());
    if is_finite(&sum) { Ok(sum) } else { Err(not_finite(path)) }
}

/// A table with an adapter's rows in the place of its own, in its type.
fn with_rows(table: &Tensor, rows: &TokenRows) -> Tensor {
    let (entries, width) = table.rows_and_width();
    let mut made = table.to_dtype(DType::F32);
    write_rows(rows, 0, RowsMut::dense(made.make_mut::<f32>(), entries, width));
    made.to_dtype(table.dtype())
}

/// Puts an adapter's rows in the place of those of a table, of which `table` has the rows from `first` on.
pub(crate) fn write_rows(rows: &TokenRows, first: usize, mut table: RowsMut<'_, f32>) {
    let width = table.cols();
    let values = rows.values.value().as_slice::<f32>();
    for (id, value) in rows.ids.iter().zip(values.chunks_exact(width.max(1))) {
        if let Some(row) = (*id as usize).checked_sub(first).filter(|row| *row < table.rows()) {
            table.row(row).copy_from_slice(value);
        }
    }
}

/// The error of a sum that is not finite.
pub(crate) fn not_finite(path: &str) -> Error {
    Error::Usage(format!("{path} would not be finite with the adapter merged into it"))
}

impl Pair {
    /// What is added to the weight, or to the transposed one; `weight` is not transposed in either case.
    pub fn product(&self, of_transposed: bool, weight: &Leaf) -> Product {
        let Lora { a, b, bias, scaling, .. } = &self.lora;
        let scaling = *scaling;
        if let Some(bias) = bias.as_ref().filter(|_| self.added_to == AddedTo::Bias) {
            let right = bias.value().reshape([bias.value().shape().elements(), 1]);
            let left = Tensor::from_slice([1, 1], &[1.0f32]);
            return Product { left, right, scaling, factors: None };
        }
        let (a, b) = (a.value().transposed(), b.value().clone());
        let is_embedding = self.added_to == AddedTo::Embedding;
        let (left, right) = if is_embedding == of_transposed { (b, a) } else { (a, b) };
        let norms = if is_embedding { Lora::table_norms } else { Lora::norms };
        let factors = self.lora.magnitude_and_norms(weight, norms).map(|(magnitude, norms)| {
            let factors = magnitude.factors(&norms);
            if is_embedding == of_transposed { Factors::OfRows(factors) } else { Factors::OfColumns(factors) }
        });
        Product { left, right, scaling, factors }
    }
}

/// A product `s·L·Rᵀ` that is added to a matrix, and what the sum is multiplied by.
pub(crate) struct Product {
    /// `[rows, r]`.
    left: Tensor,
    /// `[width, r]`.
    right: Tensor,
    scaling: f32,
    factors: Option<Factors>,
}

/// Factors of the rows or the columns of a matrix.
enum Factors {
    OfRows(Vec<f32>),
    OfColumns(Vec<f32>),
}

impl Product {
    /// Applies it to the rows from `first` on.
    ///
    /// # Shapes
    /// `rows`: `[N, width]`.
    pub fn apply(&self, first: usize, mut rows: RowsMut<'_, f32>) {
        let (r, count) = (self.left.shape().width(), rows.rows());
        let left = &self.left.as_slice::<f32>()[first * r..(first + count) * r];
        let right = self.right.as_slice::<f32>();
        low_rank::up(Rows::dense(left, count, r), right, self.scaling, rows.reborrow());
        match &self.factors {
            None => {}
            Some(Factors::OfColumns(factors)) => magnitude::scale_columns(factors, None, rows),
            Some(Factors::OfRows(factors)) => {
                for (row, factor) in factors[first..first + count].iter().enumerate() {
                    elementwise::scale(rows.row(row), *factor);
                }
            }
        }
    }
}

impl Merged {
    /// Takes the adapter out of the model's weights, which are then those from before to the last bit, and puts it back
    /// on the model as it was.
    ///
    /// # Errors
    /// If it is not the model that the adapter was merged into.
    pub fn unmerge(mut self, model: &mut dyn Module) -> Result<()> {
        let mut shapes = BTreeMap::new();
        for_each_parameter(&*model, |path, parameter| shapes.extend([(path.to_owned(), parameter.shape())]));
        let before = self.before.iter().filter_map(|(path, leaf)| Some((path, leaf.as_ref()?)));
        for (path, leaf) in before.chain(&self.changes.replacements) {
            if shapes.get(path) != Some(&leaf.shape()) {
                let reason = format!("{path} is not that of the model that the adapter was merged into");
                return Err(Error::Usage(reason));
            }
        }
        let mut result = Ok(());
        for_each_parameter_mut(model, |path, parameter| {
            let back = match self.before.remove(path) {
                Some(Some(leaf)) => parameter.set_base(leaf),
                Some(None) => {
                    parameter.clear_base();
                    Ok(())
                }
                None => Ok(()),
            };
            let replaced = self.changes.replacements.remove(path);
            let rows = self.changes.rows.remove(path);
            let back = back
                .and_then(|()| rows.map_or(Ok(()), |rows| parameter.set_rows(self.adapter, rows)))
                .and_then(|()| replaced.map_or(Ok(()), |leaf| parameter.set_replacement(self.adapter, leaf)));
            if result.is_ok() {
                result = back;
            }
        });
        for_each_linear_mut(model, |path, linear| {
            let pairs = self.changes.pairs.remove(&join(path, "weight"));
            let pairs = pairs.into_iter().flatten().filter(|pair| pair.added_to == AddedTo::Linear);
            linear.lora.extend(pairs.map(|pair| pair.lora));
        });
        for_each_embedding_mut(model, |path, embedding| {
            let pairs = self.changes.pairs.remove(&join(path, "weight"));
            embedding.lora.extend(pairs.into_iter().flatten().map(|pair| pair.lora));
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Linear;
    use crate::tape::Queue;
    use crate::tensor::Quantized;

    const A: AdapterId = AdapterId(0);

    /// A layer of 16 by 16 under an adapter of rank 1 that adds 0.5 to each weight.
    fn layer(base: Leaf) -> Linear {
        let mut layer = Linear::new(16, 16, false);
        layer.weight.set_base(base).unwrap();
        let ones = |shape: [usize; 2]| Leaf::frozen(Tensor::from_slice(shape, &[1.0f32; 16]));
        layer.lora.push(Lora::new(A, ones([1, 16]), ones([16, 1]), 0.5));
        layer
    }

    fn weight() -> Tensor {
        Tensor::from_slice([16, 16], &(0..256).map(|i| i as f32 / 64.0 - 2.0).collect::<Vec<f32>>())
    }

    #[test]
    fn a_weight_of_any_type_is_merged_and_comes_back() {
        for dtype in [DType::F32, DType::Bf16, DType::F16, DType::I8] {
            let leaf = match dtype {
                DType::I8 => Leaf::quantized(Quantized::from_float(&weight()).unwrap()),
                float => Leaf::frozen(weight().to_dtype(float)),
            };
            let before = leaf.float().to_f32_vec();
            let mut layer = layer(leaf.clone());
            let merged = merge(&mut layer, A).unwrap();
            let value = layer.weight.base().unwrap().value().clone();
            let expected = if dtype == DType::I8 { DType::F32 } else { dtype };
            assert_eq!(value.dtype(), expected);
            for (after, before) in value.to_f32_vec().into_iter().zip(before) {
                assert!((after - before - 0.5).abs() < 1e-2, "{dtype}: {before} became {after}");
            }
            merged.unmerge(&mut layer).unwrap();
            assert_eq!(layer.weight.base().unwrap().id(), leaf.id(), "{dtype}");
        }
    }

    #[test]
    fn what_is_not_finite_in_f16_is_not_merged() {
        let mut layer = layer(Leaf::frozen(weight().to_dtype(DType::F16)));
        layer.lora[0].scaling = 1e6;
        assert!(merge(&mut layer, A).unwrap_err().to_string().contains("would not be finite"));
    }

    #[test]
    fn a_weight_that_is_never_packed_is_not_packed_once_it_is_merged() {
        let mut leaf = Leaf::frozen(weight());
        leaf.stream(&mut Queue::places(vec![weight()]));
        let mut layer = layer(leaf);
        merge(&mut layer, A).unwrap();
        assert!(layer.weight.base().unwrap().queue().is_some());
    }
}
