//! Frozen weights in 8 bits, and weights that run from their file.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Case, difference};
use lowrank::adapter::{self, AdapterFile, Init, LoraConfig, Targets};
use lowrank::hub::{Checkpoint, StoredDtype, TensorToWrite, Tensors, write_safetensors};
use lowrank::models::{self, LoadIn, Operands, Placement};
use lowrank::nn::for_each_parameter;
use lowrank::tape::AdapterId;
use lowrank::train::{AdaptedModel, LoadOptions, QuantizeOptions, forward, quantize, read_batch};
use lowrank_kernels::{Compute, Tier};

/// A case of each family, small ones with adapters on what is in 8 bits.
const CASES: [&str; 8] = [
    "bert_all_linear",
    "roberta_query_value",
    "distilbert_query_value",
    "gpt2_all_linear",
    "t5_query_value",
    "flan_t5_query_value",
    "llama_query_value",
    "vit_query_value",
];

fn outputs(case: &Case, adapted: &mut AdaptedModel) -> Tensors {
    let file = AdapterFile::open(case.adapter().unwrap().as_ref()).unwrap();
    let id = adapted.first_adapter();
    forward(adapted, &case.inputs(), id, Some(&file)).unwrap()
}

fn load(case: &Case, model: &str, load_in: LoadIn) -> AdaptedModel {
    let options = LoadOptions { load_in, ..case.options(Compute::F32) };
    AdaptedModel::load(model, case.adapter().as_deref(), options).unwrap()
}

fn in_eight_bits(adapted: &AdaptedModel) -> usize {
    let mut count = 0;
    for_each_parameter(adapted.model(), |_, parameter| {
        count += usize::from(parameter.base().is_some_and(|leaf| leaf.as_quantized().is_some()));
    });
    count
}

/// Of tiny random models, whose rows hold few values; a value of 8 bits is rounded about three times as far as one of
/// bf16, whose distance in PyTorch each case notes.
#[test]
fn in_8_bits_logits_and_gradients_are_about_as_near_to_pytorchs_f32_as_in_bf16() {
    for name in CASES {
        let case = Case::named(name);
        let mut adapted = load(&case, &case.model(), LoadIn::Int8);
        assert!(in_eight_bits(&adapted) > 4, "{name}: {} weights", in_eight_bits(&adapted));
        let outputs = outputs(&case, &mut adapted);
        let mut sums = BTreeMap::new();
        for (name, expected) in case.expected() {
            let (off, whole) = sums.entry(name.starts_with("grad.")).or_insert((0.0, 0.0));
            for (actual, expected) in outputs[&name].to_f32_vec().into_iter().zip(expected) {
                *off += f64::from(actual - expected).powi(2);
                *whole += f64::from(expected).powi(2);
            }
        }
        for (gradient, (off, whole)) in sums {
            let error = f64::sqrt(off / whole);
            println!("{name}, gradient {gradient}: {error:.5}");
            let what = if gradient { "gradient" } else { "logits" };
            let pytorch = case.facts["pytorch_bf16_error"][what].as_f64().unwrap();
            assert!(error <= (3.0 * pytorch).max(4.5e-2), "{name}, {what}: {error}, PyTorch {pytorch}");
            assert!(error > 1e-6, "{name}: nothing was in 8 bits");
        }
    }
}

/// The weights are the same, and rows have 13 bits: in f32 little else is left, in bf16 the rounding of rows on the way, and on
/// AMX rows of 8 bits.
#[test]
fn products_in_whole_numbers_are_those_of_the_decoded_weights() {
    for (name, compute) in CASES.into_iter().flat_map(|name| [Compute::F32, Compute::Bf16].map(|c| (name, c)))
    {
        let case = Case::named(name);
        let outputs = |load_in, operands| {
            let options = LoadOptions { load_in, operands, ..case.options(compute) };
            let mut adapted = AdaptedModel::load(&case.model(), case.adapter().as_deref(), options).unwrap();
            outputs(&case, &mut adapted)
        };
        let decoded = outputs(LoadIn::Int8, Operands::Rows);
        let error = |found: &Tensors| {
            let (mut off, mut whole) = (0.0, 0.0);
            for (key, tensor) in &decoded {
                for (found, wanted) in found[key].to_f32_vec().into_iter().zip(tensor.to_f32_vec()) {
                    off += f64::from(found - wanted).powi(2);
                    whole += f64::from(wanted).powi(2);
                }
            }
            f64::sqrt(off / whole)
        };
        // Weights of the checkpoint are brought into the same 8 bits.
        for load_in in [LoadIn::Int8, LoadIn::Auto] {
            let found = error(&outputs(load_in, Operands::Int8));
            println!("{name}, {compute:?}, {load_in:?}: {found:.2e}");
            let allowed = if compute == Compute::F32 { 5e-4 } else { 4e-2 };
            assert!(found > 0.0 && found < allowed, "{name}, {compute:?}, {load_in:?}: {found:e}");
        }
    }
}

/// The largest difference of any output, against the largest of its kind.
fn compare(name: &str, left: &Tensors, right: &Tensors) {
    assert_eq!(left.len(), right.len());
    for (key, tensor) in left {
        let (off, scale) = difference(&right[key].to_f32_vec(), &tensor.to_f32_vec());
        // Where a kernel of ours computes them, streamed products have the bits of packed ones.
        let own = cfg!(target_arch = "x86_64") && Tier::active() >= Tier::Avx512;
        let allowed = if own { 0.0 } else { 2e-6 * scale.max(1.0) };
        assert!(off <= allowed, "{name}: {key} is off by {off:e} of {scale}");
    }
}

#[test]
fn weights_that_run_from_their_file_give_what_packed_ones_give() {
    for name in CASES.into_iter().chain(["llama_tied_bf16_sharded", "gpt2_legacy", "bert_bare_bf16_sharded"])
    {
        let case = Case::named(name);
        let Some(adapter) = case.adapter() else { continue };
        let mut packed = load(&case, &case.model(), LoadIn::Auto);
        assert_eq!(packed.placement(), Placement::Packed);
        let config = models::read_config(case.model().as_ref()).unwrap();
        let mut model = models::from_config(&config, case.spec()).unwrap();
        let checkpoint = Checkpoint::open(case.model()).unwrap();
        models::load_as(&mut *model, &checkpoint, Placement::Mapped).unwrap();
        let mut mapped = AdaptedModel::from_model(model, config, Compute::F32);
        mapped.attach(&adapter).unwrap();
        compare(name, &outputs(&case, &mut packed), &outputs(&case, &mut mapped));
    }
}

#[test]
fn a_quantized_folder_is_the_model_in_8_bits() {
    for name in CASES {
        let case = Case::named(name);
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("eight");
        let report = quantize(&QuantizeOptions { model: &case.model(), out: &out, check: true }).unwrap();
        assert!(report.bytes_after < report.bytes_before);
        for weight in &report.weights {
            let error = weight.relative_error.unwrap();
            assert!(error > 1e-4 && error < 2e-2, "{name}: {} is off by {error}", weight.name);
        }
        let (off, largest) = (report.largest_logit_difference.unwrap(), report.largest_logit.unwrap());
        assert!(off > 0.0 && off < 0.1 * largest, "{name}: {off} of {largest}");
        let mut made = load(&case, &case.model(), LoadIn::Int8);
        let mut read = load(&case, out.to_str().unwrap(), LoadIn::Auto);
        assert_eq!(in_eight_bits(&read), report.weights.len());
        assert_eq!(in_eight_bits(&read), in_eight_bits(&made));
        compare(name, &outputs(&case, &mut made), &outputs(&case, &mut read));
        let again = quantize(&QuantizeOptions { model: &case.model(), out: &out, check: false });
        assert!(again.unwrap_err().to_string().ends_with("this folder is not empty; name another"));
        let twice = folder.path().join("twice");
        let twice = quantize(&QuantizeOptions { model: out.to_str().unwrap(), out: &twice, check: false });
        assert!(twice.unwrap_err().to_string().contains("none of its weights"), "{name}");
    }
}

/// What loading says of a quantized BERT with one tensor changed, or left out.
fn spoilt(key: &str, change: impl Fn(&mut StoredDtype, &mut Vec<usize>, &mut Vec<u8>) -> bool) -> String {
    let case = Case::named("bert_all_linear");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("eight");
    quantize(&QuantizeOptions { model: &case.model(), out: &out, check: false }).unwrap();
    let checkpoint = Checkpoint::open(&out).unwrap();
    let mut tensors: Vec<(String, StoredDtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for name in checkpoint.names() {
        let view = checkpoint.get(name).unwrap();
        let (mut dtype, mut shape, mut bytes) = (view.dtype, view.shape.to_vec(), view.bytes.to_vec());
        if name != key || change(&mut dtype, &mut shape, &mut bytes) {
            tensors.push((name.to_owned(), dtype, shape, bytes));
        }
    }
    drop(checkpoint);
    let views: Vec<TensorToWrite<'_>> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| TensorToWrite { name, dtype: *dtype, shape, bytes })
        .collect();
    write_safetensors(out.join("model.safetensors"), &views, &[]).unwrap();
    let loaded = AdaptedModel::load(out.to_str().unwrap(), None, LoadOptions::default());
    loaded.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn a_damaged_weight_in_8_bits_is_refused_by_name() {
    let weight = "bert.encoder.layer.0.attention.self.query.weight";
    let scale = format!("{weight}.scale");
    for (key, change, expected) in [
        (&scale[..], 0, "its type is I8 and there is no"),
        (&scale, 1, "it is I32 [36] where its weight in 8 bits needs F32 [36]"),
        (&scale, 2, "its scales are not finite"),
        (weight, 3, "its shape is [18, 72] where the model has [36, 36]"),
    ] {
        let text = spoilt(key, |dtype, shape, bytes| {
            match change {
                0 => return false,
                1 => *dtype = StoredDtype::I32,
                2 => bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()),
                _ => *shape = vec![18, 72],
            }
            true
        });
        assert!(text.contains(expected) && text.contains(weight), "{key}: {text}");
    }
    let table = "bert.embeddings.word_embeddings.weight";
    let text = spoilt(table, |dtype, _, bytes| {
        *dtype = StoredDtype::I8;
        bytes.truncate(bytes.len() / 4);
        true
    });
    assert!(text.contains("its type is I8"), "{text}");
}

#[test]
fn counts_of_large_models_are_pefts_lines() {
    use lowrank::adapter::{LoraConfig, ParameterCount, Targets, plan};
    let Some(shared) = std::env::var_os("LOWRANK_SHARED") else {
        println!("skipped: LOWRANK_SHARED does not name the folder with the configurations");
        return;
    };
    let text = std::fs::read_to_string(common::fixtures().join("params.json")).unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert!(rows.len() >= 10);
    for row in rows {
        let file = Path::new(&shared).join("peers/configs").join(row["config"].as_str().unwrap());
        if !file.is_file() {
            println!("skipped: there is no {}", file.display());
            continue;
        }
        let config = models::ModelConfig::read(&file).unwrap();
        let kind = common::head_of(row["task"].as_str().unwrap());
        let model = models::from_config(&config, models::HeadSpec::new(kind, config.labels.len())).unwrap();
        let words = |value: &serde_json::Value| match value {
            serde_json::Value::String(word) => vec![word.clone()],
            value => value.as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect(),
        };
        let lora = LoraConfig {
            r: row["r"].as_u64().unwrap() as usize,
            target_modules: Some(Targets::from_words(&words(&row["target_modules"]).join(","))),
            ..LoraConfig::default()
        };
        // PEFT adds no head for images by itself; this program does.
        if row["task"] == "image-classification" && row["modules_to_save"].is_null() {
            continue;
        }
        let plan = plan(&*model, model.info(), &lora).unwrap();
        let count = ParameterCount::with_adapter(&*model, &plan).to_string();
        assert_eq!(count, row["peft_trainable_line"].as_str().unwrap(), "{row}");
    }
}

/// Of the weights, the pair gives back what 8 bits lost most of: the answers are nearer to those of the whole weights.
#[test]
fn an_adapter_that_begins_with_what_8_bits_lost_is_nearer_to_the_whole_weights() {
    for name in ["bert_all_linear", "gpt2_all_linear", "llama_query_value"] {
        let case = Case::named(name);
        let base = |load_in| {
            let options = LoadOptions { load_in, ..case.options(Compute::F32) };
            AdaptedModel::load(&case.model(), None, options).unwrap()
        };
        let (whole, mut eight) = (base(LoadIn::Auto), base(LoadIn::Int8));
        let batch = read_batch(&case.inputs(), whole.model().info()).unwrap();
        let expected = whole.logits(&batch, None).unwrap();
        let off = |answers: Vec<f32>| -> f32 {
            answers.iter().zip(&expected).map(|(x, y)| (x - y).powi(2)).sum::<f32>().sqrt()
        };
        let config = LoraConfig {
            r: 12,
            target_modules: Some(Targets::AllLinear),
            init_lora_weights: Init::Loftq,
            ..LoraConfig::default()
        };
        let info = eight.model().info().clone();
        let id = AdapterId(0);
        let plan = adapter::attach(eight.model_mut(), &info, &config, id, 1).unwrap();
        let (without, with) =
            (off(eight.logits(&batch, None).unwrap()), off(eight.logits(&batch, Some(id)).unwrap()));
        assert!(with < 0.8 * without, "{name}: {with} and {without}");

        let folder = tempfile::tempdir().unwrap();
        adapter::save(eight.model_mut(), &info, id, &plan, &config, "base", folder.path()).unwrap();
        let answers = eight.logits(&batch, Some(id)).unwrap();
        let file = AdapterFile::open(folder.path()).unwrap();
        assert!(matches!(file.config().init_lora_weights, Init::Default), "PEFT would quantize again");
        file.attach(eight.model_mut(), &info, id).unwrap();
        assert_eq!(eight.logits(&batch, Some(id)).unwrap(), answers);

        let mut whole = whole;
        let error = adapter::attach(whole.model_mut(), &info, &config, id, 1).unwrap_err().to_string();
        assert!(error.contains("loftq") && error.contains("load_in"), "{error}");
        let saved = tempfile::tempdir().unwrap();
        quantize(&QuantizeOptions { model: &case.model(), out: saved.path(), check: false }).unwrap();
        let options = case.options(Compute::F32);
        let mut again = AdaptedModel::load(saved.path().to_str().unwrap(), None, options).unwrap();
        let error = adapter::attach(again.model_mut(), &info, &config, id, 1).unwrap_err().to_string();
        assert!(error.contains("loftq") && error.contains("before they were in 8 bits"), "{error}");
    }
}
