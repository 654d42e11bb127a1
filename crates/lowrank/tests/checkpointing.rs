//! Layers that are run again in the backward pass.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Case, bert_config, load, random_batch, random_model};
use lowrank::adapter::{LoraConfig, attach, set_trainable};
use lowrank::data::Batch;
use lowrank::nn::for_each_trained_mut;
use lowrank::tape::{AdapterId, Gradients, Tape};
use lowrank::train::AdaptedModel;
use lowrank_kernels::Compute;

/// The bits of every gradient of a training step, by name, and how many operations were recorded.
fn gradients(
    adapted: &mut AdaptedModel,
    batch: &Batch,
    checkpointing: bool,
) -> (BTreeMap<String, Vec<u32>>, usize) {
    let mut gradients = Gradients::new();
    let mut tape = Tape::training(adapted.compute(), 7, 3).checkpointing(checkpointing);
    let loss = adapted.loss(&mut tape, batch, adapted.first_adapter(), 5.0).unwrap();
    let recorded = tape.recorded();
    tape.backward(&loss, &mut gradients).unwrap();
    let mut bits = BTreeMap::new();
    for_each_trained_mut(adapted.model_mut(), |name, leaf| {
        // What these inputs do not reach has none in either.
        let gradient = gradients.get(leaf).unwrap_or_default();
        bits.insert(name.to_owned(), gradient.iter().map(|value| value.to_bits()).collect());
    });
    (bits, recorded)
}

/// With dropout, of every architecture.
#[test]
fn gradients_have_the_same_bits_when_layers_are_run_again() {
    let mut architectures = BTreeMap::new();
    for case in Case::all() {
        for compute in [Compute::F32, Compute::Bf16] {
            let (mut adapted, batch) = load(&case, compute);
            if adapted.first_adapter().is_none() || batch.labels.is_empty() {
                continue;
            }
            set_trainable(adapted.model_mut(), AdapterId(0), true);
            let (kept, all) = gradients(&mut adapted, &batch, false);
            let (again, fewer) = gradients(&mut adapted, &batch, true);
            assert!(fewer < all, "{}: {fewer} of {all} operations recorded", case.name);
            assert!(kept.values().flatten().any(|bits| *bits != 0), "{}", case.name);
            assert!(kept == again, "{}, {compute:?}", case.name);
            *architectures.entry(adapted.model().info().architecture.clone()).or_insert(0) += 1;
        }
    }
    for name in ["Bert", "Roberta", "DistilBert", "ViT", "GPT2", "Llama", "Qwen3", "Mixtral", "T5"] {
        assert!(architectures.keys().any(|architecture| architecture.starts_with(name)), "{name}");
    }
}

#[test]
fn what_is_kept_does_not_grow_with_what_a_layer_computes() {
    let recorded = |layers: usize, checkpointing: bool| {
        let mut adapted = random_model(&bert_config(layers), 2, Compute::F32);
        let info = adapted.model().info().clone();
        attach(adapted.model_mut(), &info, &LoraConfig::default(), AdapterId(0), 3).unwrap();
        let batch = random_batch(&[5, 9], 84, 2);
        let mut tape = Tape::training(Compute::F32, 7, 3).checkpointing(checkpointing);
        adapted.loss(&mut tape, &batch, Some(AdapterId(0)), 2.0).unwrap();
        tape.recorded()
    };
    assert_eq!(recorded(5, true) - recorded(4, true), 1, "a layer is one entry");
    assert!(recorded(5, false) - recorded(4, false) > 5);
}

/// Below the lowest layer with an adapter nothing is kept, and nothing is run again.
#[test]
fn layers_without_gradients_are_not_run_again() {
    let recorded = |lowest: usize| {
        let mut adapted = random_model(&bert_config(5), 2, Compute::F32);
        let info = adapted.model().info().clone();
        let config = LoraConfig { layers_to_transform: Some((lowest..5).collect()), ..LoraConfig::default() };
        attach(adapted.model_mut(), &info, &config, AdapterId(0), 3).unwrap();
        let mut tape = Tape::training(Compute::F32, 7, 3).checkpointing(true);
        adapted.loss(&mut tape, &random_batch(&[5, 9], 84, 2), Some(AdapterId(0)), 2.0).unwrap();
        tape.recorded()
    };
    assert_eq!(recorded(0) - recorded(3), 3);
}
