//! Training a part of what is there: one matrix of each pair, one adapter of several.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{attach_perturbed, bert_config, random_batch, random_model};
use lowrank::adapter::{self, Bias, LoraConfig, Targets};
use lowrank::data::Batch;
use lowrank::nn::for_each_trained_mut;
use lowrank::tape::AdapterId;
use lowrank::train::{
    AdamW, AdamWConfig, AdaptedModel, Checkpoint, Schedule, ScheduleKind, State, Trainer, snapshot,
};
use lowrank_kernels::Compute;

fn trainer() -> Trainer {
    let (kind, base_learning_rate) = (ScheduleKind::Constant, 1e-2);
    let schedule = Schedule { kind, warmup_steps: 0, total_steps: 99, base_learning_rate };
    Trainer::new(AdamW::new(AdamWConfig::default()), schedule, 6)
}

/// Every tensor of an adapter by its name.
fn values(adapted: &mut AdaptedModel, adapter: AdapterId) -> Vec<(String, Vec<f32>)> {
    let mut values = Vec::new();
    adapter::for_each_leaf_mut(adapted.model_mut(), adapter, |name, leaf| {
        values.push((name.to_owned(), leaf.value().to_f32_vec()));
    });
    values
}

/// LoRA-FA (Zhang et al., arXiv 2308.03303) trains `B` alone.
#[test]
fn of_each_pair_what_is_not_frozen_is_trained() {
    for (frozen, trained) in [("lora_A", "lora_B"), ("lora_B", "lora_A")] {
        let mut adapted = random_model(&bert_config(2), 3, Compute::F32);
        let target_modules = Some(Targets::AllLinear);
        attach_perturbed(&mut adapted, &LoraConfig { r: 3, target_modules, ..LoraConfig::default() });
        adapter::for_each_leaf_mut(adapted.model_mut(), AdapterId(0), |name, leaf| {
            leaf.set_trainable(!name.contains(frozen));
        });
        let before = values(&mut adapted, AdapterId(0));
        let batch = random_batch(&[5, 9], 84, 3);
        trainer().step(&mut adapted, Some(AdapterId(0)), &[batch]).unwrap();
        for ((name, after), (_, before)) in values(&mut adapted, AdapterId(0)).iter().zip(&before) {
            assert_eq!(after != before, !name.contains(frozen), "{name} where {trained} is trained");
        }
    }
}

const A: AdapterId = AdapterId(0);
const B: AdapterId = AdapterId(1);

/// A model without dropout, whose masks depend on the number of the step, under these adapters: each of a rank of its
/// own, and with a head and biases of its own.
fn model(adapters: &[AdapterId]) -> AdaptedModel {
    let mut config = bert_config(2);
    for key in ["hidden_dropout_prob", "attention_probs_dropout_prob"] {
        config[key] = 0.0.into();
    }
    let mut adapted = random_model(&config, 3, Compute::F32);
    let info = adapted.model().info().clone();
    for &adapter in adapters {
        let r = 3 + 2 * usize::from(adapter.0);
        let config = LoraConfig { r, bias: Bias::LoraOnly, ..LoraConfig::default() };
        adapter::attach(adapted.model_mut(), &info, &config, adapter, 9).unwrap();
    }
    adapted
}

fn batch(number: usize) -> Batch {
    random_batch(&[5, 9 + number, 2], 84, 3)
}

/// Steps in which the adapters take turns, each with batches of its own.
fn take_turns(trainer: &mut Trainer, adapted: &mut AdaptedModel, adapters: &[AdapterId], steps: [usize; 2]) {
    for step in steps[0]..steps[1] {
        for adapter in adapters {
            let batch = batch(2 * step + usize::from(adapter.0));
            trainer.step(adapted, Some(*adapter), &[batch]).unwrap();
        }
    }
}

#[test]
fn adapters_trained_in_turn_become_what_each_becomes_alone() {
    let mut together = model(&[A, B]);
    take_turns(&mut trainer(), &mut together, &[A, B], [0, 4]);
    for adapter in [A, B] {
        let mut alone = model(&[adapter]);
        let start = values(&mut alone, adapter);
        take_turns(&mut trainer(), &mut alone, &[adapter], [0, 4]);
        let alone = values(&mut alone, adapter);
        assert!(start.iter().zip(&alone).all(|(start, end)| start != end), "everything moves");
        assert_eq!(values(&mut together, adapter), alone, "{adapter:?}");
    }
}

#[test]
fn a_checkpoint_tells_adapters_apart() {
    let mut unbroken = model(&[A, B]);
    let mut names = BTreeMap::new();
    for_each_trained_mut(unbroken.model_mut(), |name, leaf| {
        assert_eq!(names.insert(name.to_owned(), leaf.value().shape()), None, "{name} is there twice");
    });
    assert_eq!(names["bert.encoder.layer.0.attention.self.query.lora_A.weight"].dims(), [3, 33]);
    assert_eq!(names["bert.encoder.layer.0.attention.self.query.lora_A.1.weight"].dims(), [5, 33]);
    assert!(names.contains_key("classifier.weight") && names.contains_key("classifier.1.weight"));

    // A is two steps ahead of B.
    let mut first = trainer();
    take_turns(&mut first, &mut unbroken, &[A], [7, 9]);
    take_turns(&mut first, &mut unbroken, &[A, B], [0, 2]);
    let mut state = State::new(BTreeMap::new());
    state.step = first.steps() as usize;
    let (values_of, moments) =
        (snapshot::take(unbroken.model_mut()), first.optimizer().moments(unbroken.model_mut()));
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint { state, values: values_of, moments, best: None };
    checkpoint.write(folder.path(), 0).unwrap();
    take_turns(&mut first, &mut unbroken, &[A, B], [2, 4]);

    let checkpoint = Checkpoint::newest(folder.path()).unwrap().unwrap();
    let mut resumed = model(&[A, B]);
    snapshot::restore(resumed.model_mut(), &checkpoint.values).unwrap();
    let mut second = trainer();
    let steps = checkpoint.state.step as u64;
    second.optimizer_mut().restore(resumed.model_mut(), steps, checkpoint.moments.clone()).unwrap();
    take_turns(&mut second, &mut resumed, &[A, B], [2, 4]);
    for adapter in [A, B] {
        assert_eq!(values(&mut resumed, adapter), values(&mut unbroken, adapter), "{adapter:?}");
    }
    let mut other = model(&[A]);
    let error = second.optimizer_mut().restore(other.model_mut(), steps, checkpoint.moments).unwrap_err();
    assert!(error.to_string().contains(".1."), "{error}");
}
