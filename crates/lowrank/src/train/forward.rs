//! The bridge to Python: tensors in, tensors out, no tokeniser.

use std::path::Path;

use super::classifier::{Classifier, loss};
use super::padded::read_batch;
use crate::adapter::{self, AdapterFile};
use crate::data::Labels;
use crate::hub::Tensors;
use crate::tape::{AdapterId, Gradients, Tape};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};

/// Runs the model in evaluation mode on the tensors of a safetensors file, named as in Transformers: `logits`, and
/// `loss` where there are labels, as f32. With `gradients`, also `grad.KEY` for every tensor `KEY` of that adapter
/// file, which must be the adapter with the id `adapter`.
///
/// # Errors
/// As [`read_batch`]; if gradients are asked for without labels, without an adapter, or under one that is not of
/// [`Classifier::adapters`].
pub fn forward(
    classifier: &mut Classifier,
    inputs: &Path,
    adapter: Option<AdapterId>,
    gradients: Option<&AdapterFile>,
) -> Result<Tensors> {
    let plan = match gradients.and(adapter) {
        Some(id) => Some(classifier.adapter(id)?.plan.clone()),
        None => None,
    };
    let batch = read_batch(inputs, classifier.model().info())?;
    let mut outputs = Tensors::new();
    let mut tape = match (gradients, adapter) {
        (None, _) => Tape::inference(classifier.compute()),
        (Some(_), None) => {
            return Err(Error::Usage("gradients are those of an adapter's tensors: name one".into()));
        }
        (Some(_), Some(id)) => {
            adapter::set_trainable(classifier.model_mut(), id, true);
            Tape::evaluation(classifier.compute())
        }
    };
    let logits = classifier.forward(&mut tape, &batch, adapter)?;
    outputs.insert("logits".to_owned(), logits.value().to_dtype(DType::F32));
    if batch.labels == Labels::None {
        if gradients.is_some() {
            return Err(Error::tensor(inputs, "labels", "it is missing; gradients are those of a loss"));
        }
        return Ok(outputs);
    }
    let loss = loss(&mut tape, &logits, &batch.labels, batch.labels.len() as f32)?;
    outputs.insert("loss".to_owned(), loss.value().reshape(Shape::from([])));
    if let (Some(file), Some(id), Some(plan)) = (gradients, adapter, plan) {
        let mut sums = Gradients::new();
        tape.backward(&loss, &mut sums)?;
        adapter::for_each_leaf_mut(classifier.model_mut(), id, |name, leaf| {
            let key = adapter::peft_key(name, &plan);
            let shape = leaf.value().shape();
            let gradient = match sums.get(leaf) {
                Some(gradient) => Tensor::from_slice(shape, gradient),
                None => Tensor::zeros(shape, DType::F32),
            };
            for alias in file.aliases(&key) {
                outputs.insert(format!("grad.{alias}"), gradient.clone());
            }
            outputs.insert(format!("grad.{key}"), gradient);
        });
        adapter::set_trainable(classifier.model_mut(), id, false);
    }
    Ok(outputs)
}
