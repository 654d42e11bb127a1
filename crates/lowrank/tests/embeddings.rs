//! Adapters on embeddings, tied tables, and adapters merged into the base.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Case, alone, bert_config, difference, load, random_batch, random_model};
use lowrank::adapter::{self, Adapted, AdapterFile, LoraConfig, Plan, Targets};
use lowrank::data::{BatchSource, Labels};
use lowrank::hub::{Checkpoint, Tensors, to_tensor, write_tensors};
use lowrank::models::{self, HeadSpec};
use lowrank::nn::{for_each_parameter, for_each_trained_mut};
use lowrank::tape::{AdapterId, Gradients, Tape};
use lowrank::tensor::{DType, Tensor};
use lowrank::train::{AdaptedModel, loss};
use lowrank_kernels::Compute;
use lowrank_kernels::random::Philox;

const A: AdapterId = AdapterId(0);
const B: AdapterId = AdapterId(1);

fn config(targets: &[&str], r: usize) -> LoraConfig {
    let names = targets.iter().map(|name| (*name).to_owned()).collect();
    LoraConfig { r, target_modules: Some(Targets::Names(names)), ..LoraConfig::default() }
}

fn attach(adapted: &mut AdaptedModel, config: &LoraConfig, adapter: AdapterId) -> Plan {
    let info = adapted.model().info().clone();
    adapter::attach(adapted.model_mut(), &info, config, adapter, 9).unwrap()
}

/// Moves all of an adapter off its start.
fn perturb(adapted: &mut AdaptedModel, adapter: AdapterId) {
    let random = &mut Philox::new(40 + u64::from(adapter.0), 0);
    adapter::for_each_leaf_mut(adapted.model_mut(), adapter, |_, leaf| {
        leaf.value_mut().iter_mut().for_each(|value| *value += 0.1 * random.normal_f32());
    });
}

fn assert_near(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let (off, scale) = difference(actual, expected);
    assert!(off <= tolerance * scale.max(1.0), "{what}: off by {off:e} of {scale}");
}

/// PEFT's `reset_lora_parameters`: `A` zero, `B` standard normal.
#[test]
fn a_fresh_adapter_of_embeddings_starts_as_pefts_and_answers_as_the_base() {
    let mut adapted = random_model(&bert_config(2), 3, Compute::F32);
    let batch = random_batch(&[7, 1, 12], 84, 3);
    let base = adapted.logits(&batch, None).unwrap();
    let config = config(&["word_embeddings", "token_type_embeddings", "query"], 8);
    let plan = attach(&mut adapted, &config, A);
    let embeddings: Vec<&str> = Adapted::paths(&plan.targets.embeddings).collect();
    assert_eq!(embeddings, ["bert.embeddings.word_embeddings", "bert.embeddings.token_type_embeddings"]);
    assert_eq!(plan.targets.linears.len(), 2);
    let mut pairs = 0;
    adapter::for_each_leaf_mut(adapted.model_mut(), A, |name, leaf| {
        let values = leaf.value().to_f32_vec();
        if name.ends_with("lora_embedding_A") {
            assert!(values.iter().all(|value| *value == 0.0), "{name}");
            pairs += 1;
        } else if name.ends_with("lora_embedding_B") {
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let square = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
            assert!(mean.abs() < 0.2 && (square - 1.0).abs() < 0.3, "{name}: {mean}, {square}");
        }
    });
    assert_eq!(pairs, 2);
    assert_eq!(adapted.logits(&batch, Some(A)).unwrap(), base);
    perturb(&mut adapted, A);
    assert_ne!(adapted.logits(&batch, Some(A)).unwrap(), base);
    assert!(adapter::is_attached(adapted.model(), A));
    adapter::detach(adapted.model_mut(), A);
    assert!(!adapter::is_attached(adapted.model(), A));
    assert_eq!(adapted.logits(&batch, Some(A)).unwrap(), base);
}

#[test]
fn a_batch_of_several_adapters_of_embeddings_answers_as_each_alone() {
    for compute in [Compute::F32, Compute::Bf16] {
        let mut adapted = random_model(&bert_config(2), 3, compute);
        attach(&mut adapted, &config(&["word_embeddings", "value"], 3), A);
        attach(&mut adapted, &config(&["position_embeddings", "word_embeddings"], 5), B);
        perturb(&mut adapted, A);
        perturb(&mut adapted, B);
        let batch = random_batch(&[7, 1, 12, 5], 84, 3);
        let adapters = [Some(B), None, Some(A), Some(B)];
        let tape = &mut Tape::inference(compute);
        let mixed = adapted.forward_adapters(tape, &batch, &adapters, None).unwrap().value().to_f32_vec();
        let each: Vec<f32> = (adapters.into_iter().enumerate())
            .flat_map(|(sequence, adapter)| adapted.logits(&alone(&batch, sequence), adapter).unwrap())
            .collect();
        assert_near(&mixed, &each, 2e-6, "mixed");
        let under = |adapter| adapted.logits(&alone(&batch, 0), adapter).unwrap();
        let (first, second, base) = (under(Some(A)), under(Some(B)), under(None));
        assert!(first != second && first != base && second != base, "the adapters differ");
    }
}

#[test]
fn the_gradient_of_a_touches_only_the_batchs_ids_and_not_padding() {
    let mut adapted = random_model(&bert_config(1), 2, Compute::F32);
    attach(&mut adapted, &config(&["word_embeddings"], 3), A);
    perturb(&mut adapted, A);
    let mut batch = random_batch(&[5, 9], 84, 2);
    let BatchSource::Tokens(text) = &mut batch.source else { panic!("it is text") };
    text.ids[3] = 0;
    let ids = text.ids.clone();
    let mut tape = Tape::evaluation(Compute::F32);
    let logits = adapted.forward(&mut tape, &batch, Some(A)).unwrap();
    let loss = loss(&mut tape, &logits, &batch.labels, 2.0).unwrap();
    let mut gradients = Gradients::new();
    tape.backward(&loss, &mut gradients).unwrap();
    let mut seen = false;
    for_each_trained_mut(adapted.model_mut(), |name, leaf| {
        if name == "bert.embeddings.word_embeddings.lora_embedding_A" {
            seen = true;
            let gradient = gradients.get(leaf).unwrap();
            for (place, value) in gradient.iter().enumerate() {
                let id = (place % 84) as u32;
                assert_eq!(*value != 0.0, id != 0 && ids.contains(&id), "id {id}");
            }
        }
    });
    assert!(seen);
}

#[test]
fn what_is_trained_of_two_adapters_has_names_of_its_own() {
    let mut adapted = random_model(&bert_config(1), 2, Compute::F32);
    attach(&mut adapted, &config(&["word_embeddings"], 3), A);
    attach(&mut adapted, &config(&["word_embeddings"], 5), B);
    let mut names = BTreeMap::new();
    for_each_trained_mut(adapted.model_mut(), |name, leaf| {
        assert_eq!(names.insert(name.to_owned(), leaf.value().shape()), None, "{name} is there twice");
    });
    let table = "bert.embeddings.word_embeddings";
    assert_eq!(names[&format!("{table}.lora_embedding_A")].dims(), [3, 84]);
    assert_eq!(names[&format!("{table}.1.lora_embedding_A")].dims(), [5, 84]);
    assert_eq!(names[&format!("{table}.1.lora_embedding_B")].dims(), [33, 5]);
}

#[test]
fn a_saved_adapter_of_embeddings_loads_and_is_saved_with_the_same_bytes() {
    let config = config(&["word_embeddings", "position_embeddings", "key"], 3);
    let batch = random_batch(&[7, 1, 12], 84, 3);
    let mut first = random_model(&bert_config(2), 3, Compute::F32);
    let info = first.model().info().clone();
    let plan = attach(&mut first, &config, A);
    perturb(&mut first, A);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    adapter::save(first.model_mut(), &info, A, &plan, &config, "someone/base", folders[0].path()).unwrap();
    let file = Checkpoint::open_adapter(folders[0].path()).unwrap();
    let key = "base_model.model.bert.embeddings.word_embeddings.lora_embedding_A";
    assert_eq!(file.get(key).unwrap().shape, [3, 84]);

    let mut second = random_model(&bert_config(2), 3, Compute::F32);
    let file = AdapterFile::open(folders[0].path()).unwrap();
    assert_eq!(file.attach(second.model_mut(), &info, A).unwrap(), plan);
    assert_eq!(second.logits(&batch, Some(A)).unwrap(), first.logits(&batch, Some(A)).unwrap());
    adapter::save(second.model_mut(), &info, A, &plan, &config, "someone/base", folders[1].path()).unwrap();
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let read = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read(&folders[0]), read(&folders[1]), "{name}");
    }
}

/// PEFT copies a tied table that it trains whole, and leaves the head on the old one.
#[test]
fn a_head_that_is_tied_to_a_table_keeps_the_base_models_value() {
    let (mut adapted, mut batch) = load(&Case::named("gpt2_save_embeddings"), Compute::F32);
    batch.labels = Labels::None;
    adapter::for_each_leaf_mut(adapted.model_mut(), A, |name, leaf| {
        if name == "transformer.wte.weight" {
            leaf.value_mut().fill(0.0);
        }
    });
    let logits = adapted.logits(&batch, Some(A)).unwrap();
    assert!(logits.iter().any(|value| value.abs() > 1e-3), "the head reads the base's table");
}

#[test]
fn a_merged_adapter_answers_as_before_and_unmerging_restores_every_bit() {
    for name in [
        "bert_adapted_embeddings",
        "bert_save_everything",
        "roberta_bias_all",
        "gpt2_embeddings",
        "gpt2_lm_head",
        "gpt2_save_embeddings",
        "t5_embeddings",
    ] {
        let (mut adapted, mut batch) = load(&Case::named(name), Compute::F32);
        batch.labels = Labels::None;
        let answers = |adapted: &AdaptedModel, adapter| adapted.logits(&batch, adapter).unwrap();
        let (base, before) = (answers(&adapted, None), answers(&adapted, Some(A)));
        assert_ne!(base, before, "{name}");
        let merged = adapter::merge(adapted.model_mut(), A).unwrap();
        assert!(!adapter::is_attached(adapted.model(), A), "{name}");
        assert_near(&answers(&adapted, None), &before, 2e-5, name);
        merged.unmerge(adapted.model_mut()).unwrap();
        assert_eq!(answers(&adapted, None), base, "{name}");
        assert_eq!(answers(&adapted, Some(A)), before, "{name}");
    }
}

#[test]
fn a_merge_that_would_not_be_finite_changes_nothing() {
    let (mut adapted, batch) = load(&Case::named("bert_adapted_embeddings"), Compute::F32);
    let base = adapted.logits(&batch, None).unwrap();
    adapter::for_each_leaf_mut(adapted.model_mut(), A, |name, leaf| {
        if name.contains("position_embeddings.lora_embedding_A") {
            leaf.value_mut()[1] = f32::NAN;
        }
    });
    let error = adapter::merge(adapted.model_mut(), A).unwrap_err().to_string();
    assert!(error.contains("bert.embeddings.position_embeddings.weight would not be finite"), "{error}");
    assert_eq!(adapted.logits(&batch, None).unwrap(), base);
    assert!(adapter::is_attached(adapted.model(), A));
}

#[test]
fn an_adapter_is_unmerged_only_from_the_model_that_it_was_merged_into() {
    let mut adapted = random_model(&bert_config(2), 3, Compute::F32);
    attach(&mut adapted, &config(&["word_embeddings"], 3), A);
    let merged = adapter::merge(adapted.model_mut(), A).unwrap();
    let (mut other, _) = load(&Case::named("gpt2_embeddings"), Compute::F32);
    let error = merged.unmerge(other.model_mut()).unwrap_err().to_string();
    assert!(error.contains("not that of the model"), "{error}");
}

#[test]
fn embeddings_are_adapted_where_they_are_named_and_nowhere_else() {
    let adapted = random_model(&bert_config(1), 2, Compute::F32);
    let plan = |config: &LoraConfig| adapter::plan(adapted.model(), adapted.model().info(), config);
    let all = LoraConfig { target_modules: Some(Targets::AllLinear), ..LoraConfig::default() };
    assert!(plan(&all).unwrap().targets.embeddings.is_empty(), "all-linear means linear layers");
    let error = plan(&config(&["embeddings"], 2)).unwrap_err().to_string();
    assert!(error.contains("no linear layer and no embedding"), "{error}");
    let pattern = LoraConfig {
        target_modules: Some(Targets::Pattern(r".*\.(word|position)_embeddings".into())),
        ..LoraConfig::default()
    };
    assert_eq!(plan(&pattern).unwrap().targets.embeddings.len(), 2);

    let config_of_t5 = models::read_config(Case::named("t5_embeddings").model().as_ref()).unwrap();
    let spec = HeadSpec::new(lowrank::models::Head::Seq2SeqLm, 2);
    let t5 = models::from_config(&config_of_t5, spec).unwrap();
    let error = adapter::plan(&*t5, t5.info(), &config(&["relative_attention_bias"], 2)).unwrap_err();
    assert!(error.to_string().contains("this program cannot"), "{error}");
}

fn rewritten(case: &Case, folder: &Path, change: impl FnOnce(&mut Tensors)) {
    let source = case.adapter().unwrap();
    let file = Checkpoint::open_adapter(&source).unwrap();
    let mut tensors: Tensors = file
        .names()
        .map(|name| (name.to_owned(), to_tensor(name, &file.get(name).unwrap()).unwrap()))
        .collect();
    change(&mut tensors);
    write_tensors(&folder.join("adapter_model.safetensors"), &tensors).unwrap();
    std::fs::copy(Path::new(&source).join("adapter_config.json"), folder.join("adapter_config.json"))
        .unwrap();
}

/// PEFT writes the base's own table beside an adapter of it.
#[test]
fn a_copy_of_the_bases_table_is_checked_for_shape_and_ignored() {
    let case = Case::named("llama_embeddings");
    let (adapted, mut batch) = load(&case, Compute::F32);
    batch.labels = Labels::None;
    let expected = adapted.logits(&batch, Some(A)).unwrap();
    let key = "base_model.model.model.embed_tokens.base_layer.weight";
    let folder = tempfile::tempdir().unwrap();
    let load = |folder: &Path| {
        AdaptedModel::load(&case.model(), folder.to_str(), case.options(Compute::F32))
            .map_err(|e| e.to_string())
    };
    rewritten(&case, folder.path(), |tensors| {
        drop(tensors.insert(key.to_owned(), Tensor::zeros([53, 24], DType::F32)));
    });
    assert_eq!(load(folder.path()).unwrap().logits(&batch, Some(A)).unwrap(), expected, "other values");
    rewritten(&case, folder.path(), |tensors| {
        drop(tensors.insert(key.to_owned(), Tensor::zeros([54, 24], DType::F32)));
    });
    let error = load(folder.path()).err().unwrap();
    assert!(error.contains(key) && error.contains("[54, 24]"), "{error}");
    rewritten(&case, folder.path(), |tensors| {
        let layer = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight";
        drop(tensors.insert(layer.to_owned(), Tensor::zeros([24, 24], DType::F32)));
    });
    let error = load(folder.path()).err().unwrap();
    assert!(error.contains("q_proj.base_layer.weight") && error.contains("binds to nothing"), "{error}");
}

/// PEFT wraps every module whose name ends with an entry: the count and what is trained follow.
#[test]
fn norm_means_every_norm_of_a_llama() {
    let case = Case::named("llama_save_norm");
    let (adapted, _) = load(&case, Compute::F32);
    let norms = adapted.adapters()[0].plan.replaced.iter().filter(|path| path.contains("norm")).count();
    let mut all = 0;
    for_each_parameter(adapted.model(), |path, _| all += usize::from(path.contains("norm")));
    assert_eq!((norms, all), (5, 5));
}
