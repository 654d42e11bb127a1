//! An adapter beside the model: taken off with all of its tensors, and put back as it was.

use std::collections::BTreeMap;

use crate::Result;
use crate::nn::{Module, for_each_embedding_mut, for_each_linear_mut, for_each_parameter_mut};
use crate::tape::{AdapterId, Leaf, Lora, TokenRows};

/// An adapter that was taken off a model. Its tensors are the same leaves, trained or not.
#[derive(Debug, Default)]
pub struct Held {
    linears: BTreeMap<String, Vec<Lora>>,
    embeddings: BTreeMap<String, Vec<Lora>>,
    replacements: BTreeMap<String, Leaf>,
    rows: BTreeMap<String, TokenRows>,
}

/// Takes an adapter off a model, to be put back by [`Held::put`]: a model can then be trained under several in turn, of
/// which each is the only one on it.
pub fn hold(model: &mut dyn Module, adapter: AdapterId) -> Held {
    let mut held = Held::default();
    let take = |lora: &mut Vec<Lora>| -> Vec<Lora> {
        let (own, others) = std::mem::take(lora).into_iter().partition(|lora| lora.adapter == adapter);
        *lora = others;
        own
    };
    for_each_linear_mut(model, |path, linear| {
        held.linears.insert(path.to_owned(), take(&mut linear.lora));
    });
    for_each_embedding_mut(model, |path, embedding| {
        held.embeddings.insert(path.to_owned(), take(&mut embedding.lora));
    });
    for_each_parameter_mut(model, |path, parameter| {
        held.replacements.extend(parameter.replacement(adapter).map(|leaf| (path.to_owned(), leaf.clone())));
        held.rows.extend(parameter.rows(adapter).map(|rows| (path.to_owned(), rows.clone())));
        parameter.remove_replacement(adapter);
        parameter.remove_rows(adapter);
    });
    held
}

impl Held {
    /// Puts the adapter on the model that it was taken off, under the same id.
    ///
    /// # Errors
    /// If it is another model, with parameters of other shapes.
    pub fn put(mut self, model: &mut dyn Module, adapter: AdapterId) -> Result<()> {
        for_each_linear_mut(model, |path, linear| {
            linear.lora.extend(self.linears.remove(path).into_iter().flatten());
        });
        for_each_embedding_mut(model, |path, embedding| {
            embedding.lora.extend(self.embeddings.remove(path).into_iter().flatten());
        });
        let mut result = Ok(());
        for_each_parameter_mut(model, |path, parameter| {
            let leaf = self.replacements.remove(path);
            let rows = self.rows.remove(path);
            if result.is_ok() {
                result = leaf
                    .map_or(Ok(()), |leaf| parameter.set_replacement(adapter, leaf))
                    .and_then(|()| rows.map_or(Ok(()), |rows| parameter.set_rows(adapter, rows)));
            }
        });
        result
    }
}
