//! Training step by step: as PyTorch does it, in parts of a batch, and what it refuses.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{
    Case, attach_perturbed, bert_config, difference, fixtures, load, part, random_batch, random_model,
    read_tensors,
};
use lowrank::adapter::{self, LoraConfig, Targets};
use lowrank::data::Batch;
use lowrank::hub::{Checkpoint, TensorToWrite, write_safetensors};
use lowrank::models::{Architecture, Inputs, Model, ModelConfig, ModelInfo};
use lowrank::nn::{Embedding, Linear, Module, assign_names, for_each_parameter_mut, for_each_trained_mut};
use lowrank::tape::{AdapterId, Gradients, Leaf, Tape, Var, ops};
use lowrank::tensor::{DType, Tensor};
use lowrank::train::{
    AdamW, AdamWConfig, AdaptedModel, LearningRates, LoadOptions, Schedule, ScheduleKind, Trainer, loss,
    read_batch,
};
use lowrank::{Error, Result, module};
use lowrank_kernels::Compute;
use serde_json::Value;

const ADAPTER: Option<AdapterId> = Some(AdapterId(0));

fn schedule(kind: ScheduleKind, base_learning_rate: f64) -> Schedule {
    Schedule { kind, warmup_steps: 3, total_steps: 12, base_learning_rate }
}

/// The tensors of one step of the golden run as a batch.
fn golden_batch(all: &Checkpoint, step: usize, folder: &Path, info: &ModelInfo) -> Batch {
    let prefix = format!("step{step}.");
    let views: Vec<_> =
        all.names().filter_map(|name| Some((name.strip_prefix(&prefix)?, all.get(name)?))).collect();
    let tensors: Vec<TensorToWrite<'_>> = views
        .iter()
        .map(|(name, v)| TensorToWrite { name, dtype: v.dtype, shape: v.shape, bytes: v.bytes })
        .collect();
    let path = folder.join("step.safetensors");
    write_safetensors(&path, &tensors, &[]).unwrap();
    read_batch(&path, info).unwrap()
}

#[test]
fn twelve_steps_of_adamw_with_schedule_and_clipping_are_pytorchs() {
    let golden = fixtures().join("training");
    let inputs = Checkpoint::open_file(golden.join("inputs.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, kind) in [
        ("linear", ScheduleKind::Linear),
        ("cosine", ScheduleKind::Cosine),
        ("loraplus", ScheduleKind::Linear),
    ] {
        let text = std::fs::read_to_string(golden.join(format!("{name}.json"))).unwrap();
        let facts: Value = serde_json::from_str(&text).unwrap();
        let number = |value: &Value, key: &str| value[key].as_f64().unwrap();
        let model = fixtures().join("models").join(facts["model"].as_str().unwrap());
        let start = golden.join("start");
        let options = LoadOptions { compute: Some(Compute::F32), ..LoadOptions::default() };
        let mut adapted = AdaptedModel::load(model.to_str().unwrap(), start.to_str(), options).unwrap();
        adapter::set_trainable(adapted.model_mut(), AdapterId(0), true);
        let mut optimizer = AdamW::new(AdamWConfig {
            weight_decay: number(&facts, "weight_decay"),
            max_grad_norm: number(&facts, "max_grad_norm"),
            ..AdamWConfig::default()
        });
        let rates = LearningRates {
            learning_rate: number(&facts, "learning_rate"),
            loraplus_lr_ratio: facts["loraplus_lr_ratio"].as_f64().unwrap_or(1.0),
            ..LearningRates::default()
        };
        optimizer.set_rates(adapted.model_mut(), &rates).unwrap();
        let mut trainer = Trainer::new(optimizer, schedule(kind, rates.learning_rate), 0);
        let mut clipped = 0;
        for (index, expected) in facts["log"].as_array().unwrap().iter().enumerate() {
            let batch = golden_batch(&inputs, index, folder.path(), adapted.model().info());
            let step = trainer.step(&mut adapted, ADAPTER, &[batch]).unwrap();
            clipped += u32::from(step.grad_norm > 1.0);
            for (key, value, tolerance) in [
                ("loss", step.loss, 2e-5),
                ("grad_norm", step.grad_norm, 2e-4),
                ("learning_rate", step.learning_rate, 1e-12),
            ] {
                let off = (value - number(expected, key)).abs();
                assert!(off <= tolerance, "{name} step {index}: {key} is {value}, off by {off:e}");
            }
        }
        assert!((2..12).contains(&clipped), "some steps are clipped and some not");
        let plan = adapted.adapters()[0].plan.clone();
        let tensors = adapter::tensors(adapted.model_mut(), AdapterId(0), &plan);
        let expected = read_tensors(&golden.join(format!("{name}.safetensors")));
        assert_eq!(tensors.len(), expected.len());
        for (key, expected) in expected {
            let (off, scale) = difference(&tensors[&key].to_f32_vec(), &expected);
            assert!(off <= 1e-4 * scale.max(1.0), "{name}: {key} is off by {off:e}");
        }
    }
}

/// In its first step AdamW moves whatever has a gradient by its learning rate.
#[test]
fn a_module_moves_at_the_learning_rate_of_its_pattern() {
    let mut adapted = random_model(&bert_config(2), 3, Compute::F32);
    let names = ["query", "word_embeddings"].map(str::to_owned).to_vec();
    let config = LoraConfig { r: 3, target_modules: Some(Targets::Names(names)), ..LoraConfig::default() };
    attach_perturbed(&mut adapted, &config);
    let rates = LearningRates {
        learning_rate: 1e-2,
        loraplus_lr_ratio: 2.0,
        loraplus_lr_embedding: 1e-3,
        patterns: vec![("layer.1".into(), 5e-3), ("classifier|layer.0.*lora_A".into(), 1e-4)],
    };
    let values = |adapted: &mut AdaptedModel| {
        let mut values = Vec::new();
        for_each_trained_mut(adapted.model_mut(), |name, leaf| {
            values.push((name.to_owned(), leaf.value().to_f32_vec()));
        });
        values
    };
    let mut optimizer = AdamW::new(AdamWConfig::default());
    optimizer.set_rates(adapted.model_mut(), &rates).unwrap();
    let constant =
        Schedule { kind: ScheduleKind::Constant, warmup_steps: 0, total_steps: 9, base_learning_rate: 1e-2 };
    let before = values(&mut adapted);
    Trainer::new(optimizer, constant, 0)
        .step(&mut adapted, ADAPTER, &[random_batch(&[5, 9], 84, 2)])
        .unwrap();
    for ((name, after), (_, before)) in values(&mut adapted).iter().zip(&before) {
        let expected = match &**name {
            name if name.contains("layer.1.") => 5e-3,
            name if name.starts_with("classifier") || name.contains("lora_A.") => 1e-4,
            name if name.contains("lora_embedding") => 1e-3,
            _ => 2e-2,
        };
        let moved = after.iter().zip(before).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!((moved / expected - 1.0).abs() < 1e-2, "{name} moved by {moved}, not {expected}");
    }
    for (pattern, reason) in [("layer.7", "means nothing that is trained"), ("(", "no regular expression")] {
        let rates = LearningRates { patterns: vec![(pattern.into(), 1.0)], ..rates.clone() };
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let error = optimizer.set_rates(adapted.model_mut(), &rates).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// The loss and all gradients of a batch that is cut into parts.
fn accumulate(adapted: &mut AdaptedModel, batches: &[Batch]) -> (f64, Vec<(String, Vec<f32>)>) {
    let targets: usize = batches.iter().map(Batch::sequences).sum();
    let (mut sums, mut total) = (Gradients::new(), 0.0);
    for batch in batches {
        let mut tape = Tape::training(Compute::F32, 4, 2);
        let logits = adapted.forward(&mut tape, batch, ADAPTER).unwrap();
        let loss = loss(&mut tape, &logits, &batch.labels, targets as f32).unwrap();
        total += f64::from(loss.value().as_slice::<f32>()[0]);
        tape.backward(&loss, &mut sums).unwrap();
    }
    let mut gradients = Vec::new();
    for_each_trained_mut(adapted.model_mut(), |name, leaf| {
        gradients.push((name.to_owned(), sums.get(leaf).unwrap().to_vec()));
    });
    (total, gradients)
}

#[test]
fn accumulated_gradients_are_those_of_the_big_batch_dropout_included() {
    let mut adapted = random_model(&bert_config(2), 3, Compute::F32);
    let Architecture::Encoder(sizes) = &adapted.config().architecture else { panic!("an encoder") };
    assert!(sizes.hidden_dropout_prob > 0.0);
    let target_modules = Some(Targets::AllLinear);
    let config = LoraConfig { r: 3, target_modules, lora_dropout: 0.3, ..LoraConfig::default() };
    attach_perturbed(&mut adapted, &config);
    let whole = random_batch(&[9, 2, 31, 17, 5, 12, 1], 84, 3);
    let (loss, gradients) = accumulate(&mut adapted, std::slice::from_ref(&whole));
    for cuts in [&[0, 3, 7][..], &[0, 1, 5, 7], &[0, 1, 2, 3, 4, 5, 6, 7]] {
        let parts: Vec<Batch> = cuts.windows(2).map(|cut| part(&whole, cut[0]..cut[1])).collect();
        let (summed, accumulated) = accumulate(&mut adapted, &parts);
        assert!((summed - loss).abs() <= 2e-6, "{cuts:?}: {summed} is not {loss}");
        for ((name, sum), (_, expected)) in accumulated.iter().zip(&gradients) {
            let (off, scale) = difference(sum, expected);
            assert!(off <= 2e-6 * scale.max(1.0), "{cuts:?}: {name} is off by {off:e}");
        }
    }
}

#[test]
fn a_trainer_steps_on_parts_of_a_batch_as_on_the_whole() {
    let train = |cuts: &[usize]| {
        let (mut adapted, whole) = load(&Case::named("bert_regression"), Compute::F32);
        adapter::set_trainable(adapted.model_mut(), AdapterId(0), true);
        let parts: Vec<Batch> = cuts.windows(2).map(|cut| part(&whole, cut[0]..cut[1])).collect();
        let mut trainer =
            Trainer::new(AdamW::new(AdamWConfig::default()), schedule(ScheduleKind::Linear, 1e-2), 3);
        let steps = (0..5).map(|_| trainer.step(&mut adapted, ADAPTER, &parts).unwrap());
        steps.map(|step| (step.loss, step.grad_norm, step.tokens, step.examples)).collect::<Vec<_>>()
    };
    let whole = train(&[0, 4]);
    for (part, whole) in train(&[0, 1, 4]).into_iter().zip(&whole) {
        let (loss, norm) = ((part.0 - whole.0).abs() / whole.0, (part.1 - whole.1).abs() / whole.1);
        assert!(loss < 1e-5 && norm < 1e-5, "{part:?} is not {whole:?}");
        assert_eq!((part.2, part.3), (whole.2, whole.3));
    }
}

/// A model of a user's own, one layer of which its forward pass forgets.
struct Forgetful {
    words: Embedding,
    adapted: Linear,
    unused: Linear,
    info: ModelInfo,
}

module!(Forgetful { "words" => words, "classifier" => adapted, "unused" => unused });

impl Model for Forgetful {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn info_mut(&mut self) -> &mut ModelInfo {
        &mut self.info
    }

    fn forward(&self, tape: &mut Tape, inputs: &Inputs<'_>) -> Result<Var> {
        let text = inputs.text()?;
        let x = ops::embedding(tape, &[self.words.lookup(text.ids)], &text.layout)?;
        let first = ops::first_token(tape, &x)?;
        self.adapted.forward(tape, &first)
    }
}

#[test]
fn a_trained_tensor_that_no_gradient_reaches_is_named_before_anything_moves() {
    let bert = random_model(&bert_config(1), 2, Compute::F32);
    let info = bert.model().info().clone();
    let config = ModelConfig::from_json(&bert_config(1)).unwrap();
    let mut model = Forgetful {
        words: Embedding::new(84, 5),
        adapted: Linear::new(5, 2, true),
        unused: Linear::new(5, 5, false),
        info,
    };
    assign_names(&mut model);
    for_each_parameter_mut(&mut model, |_, parameter| {
        let mut value = Tensor::zeros(parameter.shape(), DType::F32);
        value.make_mut::<f32>().fill(0.5);
        parameter.set_base(Leaf::trained(value)).unwrap();
    });
    let mut adapted = AdaptedModel::from_model(Box::new(model), config, Compute::F32);
    let mut trainer =
        Trainer::new(AdamW::new(AdamWConfig::default()), schedule(ScheduleKind::Constant, 1.0), 0);
    let batch = random_batch(&[3, 4], 84, 2);
    let error = trainer.step(&mut adapted, None, std::slice::from_ref(&batch)).unwrap_err();
    assert!(error.to_string().starts_with("unused.weight "), "{error}");
    for_each_parameter_mut(adapted.model_mut(), |path, parameter| {
        let values = parameter.base().unwrap().value().to_f32_vec();
        assert!(values.iter().all(|value| *value == 0.5), "{path} has not moved");
        parameter.base_mut().unwrap().set_trainable(path != "unused.weight");
    });
    trainer.step(&mut adapted, None, &[batch]).unwrap();
}

/// The step, the tensor and nothing moved.
#[test]
fn a_number_that_is_not_finite_stops_the_step_and_is_named() {
    let expect = |spoil: fn(&mut dyn Module), tensor: &str| {
        let (mut adapted, batch) = load(&Case::named("bert_query_value"), Compute::F32);
        adapter::set_trainable(adapted.model_mut(), AdapterId(0), true);
        spoil(adapted.model_mut());
        let before = lowrank::train::snapshot::take(adapted.model_mut());
        let mut trainer =
            Trainer::new(AdamW::new(AdamWConfig::default()), schedule(ScheduleKind::Constant, 1.0), 0);
        match trainer.step(&mut adapted, ADAPTER, &[batch]) {
            Err(Error::NotFinite { step: 1, tensor: found, .. }) => assert_eq!(found, tensor),
            other => panic!("{other:?} where {tensor} should be named"),
        }
        let after = lowrank::train::snapshot::take(adapted.model_mut());
        let bytes = |s: &lowrank::train::snapshot::Snapshot| s.values().map(|t| t.bytes().to_vec()).collect();
        let (before, after): (Vec<_>, Vec<_>) = (bytes(&before), bytes(&after));
        assert_eq!(before, after);
    };
    let adapter = |model: &mut dyn Module| {
        for_each_trained_mut(model, |name, leaf| {
            if name.contains("1.attention.self.value.lora_B") {
                leaf.value_mut()[3] = f32::NAN;
            }
        });
    };
    expect(adapter, "bert.encoder.layer.1.attention.self.value.lora_B.weight");
    let base = |model: &mut dyn Module| {
        for_each_parameter_mut(model, |path, parameter| {
            if path == "bert.encoder.layer.0.intermediate.dense.weight" {
                parameter.base_mut().unwrap().value_mut().fill(f32::INFINITY);
            }
        });
    };
    expect(base, "the output of bert.encoder.layer.0.intermediate.dense");
    // Finite queries and keys, whose products are not.
    let scores = |model: &mut dyn Module| {
        for_each_parameter_mut(model, |path, parameter| {
            if path.contains("layer.1.attention.self") && path.ends_with("bias") {
                parameter.base_mut().unwrap().value_mut().fill(1e25);
            }
        });
    };
    let module = |own: &str| format!("bert.encoder.layer.1.attention.self.{own}");
    let [query, key, value] = ["query", "key", "value"].map(module);
    expect(scores, &format!("the output of attention (after {query}, {key}, {value})"));
}

/// A model of a user's own whose one layer counts how often it is run.
struct Counting {
    words: Embedding,
    adapted: Linear,
    passes: Arc<AtomicUsize>,
    info: ModelInfo,
}

module!(Counting { "words" => words, "classifier" => adapted });

impl Model for Counting {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn info_mut(&mut self) -> &mut ModelInfo {
        &mut self.info
    }

    fn forward<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        let text = inputs.text()?;
        let x = ops::embedding(tape, &[self.words.lookup(text.ids)], &text.layout)?;
        tape.checkpoint(&[&x], |tape, x| {
            self.passes.fetch_add(1, Ordering::Relaxed);
            let first = ops::first_token(tape, &x[0])?;
            self.adapted.forward(tape, &first)
        })
    }
}

#[test]
fn a_trainer_runs_layers_again_if_it_is_told_to() {
    let info = random_model(&bert_config(1), 2, Compute::F32).model().info().clone();
    let config = ModelConfig::from_json(&bert_config(1)).unwrap();
    let mut losses = Vec::new();
    for (checkpointing, expected) in [(false, 4), (true, 8)] {
        let passes = Arc::new(AtomicUsize::new(0));
        let mut model = Counting {
            words: Embedding::new(84, 5),
            adapted: Linear::new(5, 2, true),
            passes: Arc::clone(&passes),
            info: info.clone(),
        };
        assign_names(&mut model);
        for_each_parameter_mut(&mut model, |_, parameter| {
            let values: Vec<f32> = (0..parameter.shape().elements()).map(|i| (i % 7) as f32 * 0.1).collect();
            parameter.set_base(Leaf::trained(Tensor::from_slice(parameter.shape(), &values))).unwrap();
        });
        let mut adapted = AdaptedModel::from_model(Box::new(model), config.clone(), Compute::F32);
        let constant = schedule(ScheduleKind::Constant, 1e-2);
        let mut trainer = Trainer::new(AdamW::new(AdamWConfig::default()), constant, 3)
            .with_gradient_checkpointing(checkpointing);
        let batch = random_batch(&[3, 4], 84, 2);
        let steps = [0, 1, 2, 3]
            .map(|_| trainer.step(&mut adapted, None, std::slice::from_ref(&batch)).unwrap().loss);
        assert_eq!(passes.load(Ordering::Relaxed), expected);
        losses.push(steps);
    }
    assert_eq!(losses[0], losses[1]);
    assert!(losses[0][3] < losses[0][0]);
}
