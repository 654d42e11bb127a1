//! Training a part of what is there: one matrix of each pair, one adapter of several.
#![allow(clippy::unwrap_used)]

mod common;

use common::{attach_perturbed, bert_config, random_batch, random_classifier};
use lowrank::adapter::{self, LoraConfig, Targets};
use lowrank::tape::AdapterId;
use lowrank::train::{AdamW, AdamWConfig, Classifier, Schedule, ScheduleKind, Trainer};
use lowrank_kernels::Compute;

fn trainer() -> Trainer {
    let (kind, base_learning_rate) = (ScheduleKind::Constant, 1e-2);
    let schedule = Schedule { kind, warmup_steps: 0, total_steps: 99, base_learning_rate };
    Trainer::new(AdamW::new(AdamWConfig::default()), schedule, 6)
}

/// Every tensor of an adapter by its name.
fn values(classifier: &mut Classifier, adapter: AdapterId) -> Vec<(String, Vec<f32>)> {
    let mut values = Vec::new();
    adapter::for_each_leaf_mut(classifier.model_mut(), adapter, |name, leaf| {
        values.push((name.to_owned(), leaf.value().to_f32_vec()));
    });
    values
}

/// LoRA-FA (Zhang et al., arXiv 2308.03303) trains `B` alone.
#[test]
fn of_each_pair_what_is_not_frozen_is_trained() {
    for (frozen, trained) in [("lora_A", "lora_B"), ("lora_B", "lora_A")] {
        let mut classifier = random_classifier(&bert_config(2), 3, Compute::F32);
        let target_modules = Some(Targets::AllLinear);
        attach_perturbed(&mut classifier, &LoraConfig { r: 3, target_modules, ..LoraConfig::default() });
        adapter::for_each_leaf_mut(classifier.model_mut(), AdapterId(0), |name, leaf| {
            leaf.set_trainable(!name.contains(frozen));
        });
        let before = values(&mut classifier, AdapterId(0));
        let batch = random_batch(&[5, 9], 84, 3);
        trainer().step(&mut classifier, Some(AdapterId(0)), &[batch]).unwrap();
        for ((name, after), (_, before)) in values(&mut classifier, AdapterId(0)).iter().zip(&before) {
            assert_eq!(after != before, !name.contains(frozen), "{name} where {trained} is trained");
        }
    }
}
