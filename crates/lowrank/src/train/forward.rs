//! The bridge to Python: tensors in, tensors out, no tokeniser.

use std::path::Path;

use super::adapted_model::{AdaptedModel, loss};
use super::padded::read_padded;
use crate::adapter::{self, AdapterFile};
use crate::data::Labels;
use crate::hub::Tensors;
use crate::models::Head;
use crate::tape::{AdapterId, Gradients, Tape};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};

/// Runs the model in evaluation mode on the tensors of a safetensors file, named as in Transformers: `logits`, and
/// `loss` where there are labels, as f32. With `gradients`, also `grad.KEY` for every tensor `KEY` of that adapter
/// file, which must be the adapter with the id `adapter`.
///
/// # Errors
/// As [`read_padded`]; if gradients are asked for without labels, without an adapter, or under one that is not of
/// [`AdaptedModel::adapters`].
pub fn forward(
    adapted: &mut AdaptedModel,
    inputs: &Path,
    adapter: Option<AdapterId>,
    gradients: Option<&AdapterFile>,
) -> Result<Tensors> {
    let plan = match gradients.and(adapter) {
        Some(id) => Some(adapted.adapter(id)?.plan.clone()),
        None => None,
    };
    let info = adapted.model().info().clone();
    let padded = read_padded(inputs, &info)?;
    let batch = &padded.batch;
    let mut outputs = Tensors::new();
    let mut tape = match (gradients, adapter) {
        (None, _) => Tape::inference(adapted.compute()),
        (Some(_), None) => {
            return Err(Error::Usage("gradients are those of an adapter's tensors: name one".into()));
        }
        (Some(_), Some(id)) => {
            adapter::set_trainable(adapted.model_mut(), id, true);
            Tape::evaluation(adapted.compute())
        }
    };
    let logits = adapted.forward(&mut tape, batch, adapter)?;
    let values = padded.pad(logits.value());
    if info.kind == Head::QuestionAnswering {
        for (column, name) in ["start_logits", "end_logits"].into_iter().enumerate() {
            outputs.insert(name.to_owned(), column_of(&values, column));
        }
    } else {
        outputs.insert("logits".to_owned(), values);
    }
    if batch.labels == Labels::None {
        if gradients.is_some() {
            let name = if info.kind == Head::QuestionAnswering { "start_positions" } else { "labels" };
            return Err(Error::tensor(inputs, name, "it is missing; gradients are those of a loss"));
        }
        return Ok(outputs);
    }
    let loss = loss(&mut tape, &logits, &batch.labels, batch.labels.len() as f32)?;
    outputs.insert("loss".to_owned(), loss.value().reshape(Shape::from([])));
    if let (Some(file), Some(id), Some(plan)) = (gradients, adapter, plan) {
        let mut sums = Gradients::new();
        tape.backward(&loss, &mut sums)?;
        let mut own = Tensors::new();
        adapter::for_each_leaf_mut(adapted.model_mut(), id, |name, leaf| {
            let shape = leaf.value().shape();
            let gradient = match sums.get(leaf) {
                Some(gradient) => Tensor::from_slice(shape, gradient),
                None => Tensor::zeros(shape, DType::F32),
            };
            own.insert(name.to_owned(), gradient);
        });
        let key = |name: &str| file.key_of(name, &info, &plan);
        let of_layers = file.take_layers_of_experts(&mut own, &info, &plan);
        let others = adapter::in_file(adapted.model(), id, &plan, own, key);
        for (key, gradient) in others.into_iter().chain(of_layers) {
            for alias in file.aliases(&key) {
                outputs.insert(format!("grad.{alias}"), gradient.clone());
            }
            outputs.insert(format!("grad.{key}"), gradient);
        }
        adapter::set_trainable(adapted.model_mut(), id, false);
    }
    Ok(outputs)
}

/// One column of the outputs of a head on spans, `[B, T]`.
fn column_of(values: &Tensor, column: usize) -> Tensor {
    let shape = values.shape();
    let &[rows, columns, width] = shape.dims() else { return values.clone() };
    let values = values.as_slice::<f32>().iter().skip(column).step_by(width);
    Tensor::from_slice([rows, columns], &values.copied().collect::<Vec<f32>>())
}
