//! Adapters that began as a part of the base model's weights, in the two forms that PEFT has for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowrank::adapter::tools::inspect;
use lowrank::adapter::{self, AdapterFile, read_config};
use lowrank::data::Batch;
use lowrank::hub::Checkpoint;
use lowrank::nn::for_each_linear;
use lowrank::tape::AdapterId;
use lowrank::train::{AdaptedModel, LoadOptions, MergeOptions, merge, read_batch};
use lowrank_kernels::Compute;

use crate::common::{difference, fixtures, read_tensors};

const ADAPTER: AdapterId = AdapterId(0);
const KINDS: [&str; 4] = ["pissa", "pissa_rslora", "pissa_pattern", "olora"];

fn folder(kind: &str, form: &str) -> PathBuf {
    fixtures().join("initial").join(kind).join(form)
}

fn expected(kind: &str) -> BTreeMap<String, Vec<f32>> {
    read_tensors(&folder(kind, "expected.safetensors")).into_iter().collect()
}

fn model() -> String {
    fixtures().join("models/bert").to_string_lossy().into_owned()
}

/// The base model under an adapter, if one is given, and the batch of a kind.
fn loaded(kind: &str, model: &str, adapter: Option<&Path>) -> (AdaptedModel, Batch) {
    let options = LoadOptions { compute: Some(Compute::F32), ..LoadOptions::default() };
    let adapted = AdaptedModel::load(model, adapter.and_then(Path::to_str), options).unwrap();
    let batch = read_batch(&folder(kind, "inputs.safetensors"), adapted.model().info()).unwrap();
    (adapted, batch)
}

fn assert_near(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let (off, scale) = difference(actual, expected);
    assert!(off <= tolerance * scale.max(1.0), "{what} is off by {off:e} of {scale}");
}

#[test]
fn both_forms_answer_as_pytorch_does_and_are_saved_as_the_plain_one() {
    for kind in KINDS {
        let logits = expected(kind)["logits"].clone();
        let made = tempfile::tempdir().unwrap();
        for form in ["as_it_is", "plain"] {
            let (mut adapted, batch) = loaded(kind, &model(), Some(&folder(kind, form)));
            let answers = adapted.logits(&batch, Some(ADAPTER)).unwrap();
            assert_near(&answers, &logits, 2e-5, &format!("{kind} {form}"));
            if form == "as_it_is" {
                let info = adapted.model().info().clone();
                let plan = adapted.adapters()[0].plan.clone();
                let config = read_config(&folder(kind, form)).unwrap();
                adapter::save(adapted.model_mut(), &info, ADAPTER, &plan, &config, "base", made.path())
                    .unwrap();
            }
        }
        let (adapted, batch) = loaded(kind, &model(), Some(made.path()));
        assert_near(&adapted.logits(&batch, Some(ADAPTER)).unwrap(), &logits, 2e-5, kind);
        let (ours, theirs) =
            (read_config(made.path()).unwrap(), read_config(&folder(kind, "plain")).unwrap());
        assert_eq!((ours.r, &ours.rank_pattern), (theirs.r, &theirs.rank_pattern), "{kind}");
        let alphas = [ours.lora_alpha, theirs.lora_alpha].map(Option::unwrap);
        assert!((alphas[0] - alphas[1]).abs() < 1e-9, "{kind}: {alphas:?}");
        let open = |folder: &Path| Checkpoint::open_adapter(folder).unwrap();
        let (ours, theirs) = (open(made.path()), open(&folder(kind, "plain")));
        assert!(ours.names().eq(theirs.names()), "{kind}");
        for key in ours.names() {
            assert_eq!(ours.get(key).unwrap().shape, theirs.get(key).unwrap().shape, "{kind}: {key}");
        }
    }
}

/// Factors may differ in the signs of their directions, products do not.
#[test]
fn a_fresh_pair_has_the_product_that_pefts_has() {
    for kind in KINDS {
        let theirs = expected(kind);
        let (mut adapted, _) = loaded(kind, &model(), None);
        let config = read_config(&folder(kind, "as_it_is")).unwrap();
        let info = adapted.model().info().clone();
        adapter::attach(adapted.model_mut(), &info, &config, ADAPTER, 1).unwrap();
        let mut pairs = 0;
        for_each_linear(adapted.model(), |path, linear| {
            let Some(lora) = linear.adapter(ADAPTER) else { return };
            let key = |side: &str| format!("base_model.model.{path}.lora_{side}.weight");
            let (r, inputs) = (lora.rank(), linear.inputs());
            let product = |a: &[f32], b: &[f32]| -> Vec<f32> {
                assert_eq!((a.len(), b.len()), (r * inputs, r * linear.outputs()), "{kind}: {path}");
                let at = |o: usize, i: usize| (0..r).map(|k| b[o * r + k] * a[k * inputs + i]).sum();
                (0..linear.outputs())
                    .flat_map(|o| (0..inputs).map(move |i| (o, i)))
                    .map(|(o, i)| at(o, i))
                    .collect()
            };
            let ours = product(&lora.a.value().to_f32_vec(), &lora.b.value().to_f32_vec());
            assert_near(&ours, &product(&theirs[&key("A")], &theirs[&key("B")]), 1e-5, path);
            pairs += 1;
        });
        assert!(pairs >= 4, "{kind}");
    }
}

#[test]
fn such_an_adapter_is_merged_and_is_not_taken_apart_without_its_base() {
    for kind in KINDS {
        let adapter = folder(kind, "as_it_is").to_string_lossy().into_owned();
        let out = tempfile::tempdir().unwrap();
        let adapters = [adapter.clone()];
        merge(&MergeOptions { model: &model(), adapters: &adapters, out: out.path(), dequantize: false })
            .unwrap();
        let (adapted, batch) = loaded(kind, out.path().to_str().unwrap(), None);
        let answers = adapted.logits(&batch, None).unwrap();
        assert_near(&answers, &expected(kind)["logits"], 2e-5, kind);
        let error = inspect(&adapter).unwrap_err().to_string();
        assert!(error.contains("path_initial_model_for_weight_conversion"), "{error}");
        inspect(folder(kind, "plain").to_str().unwrap()).unwrap();
    }
    // Of a random sketch nothing is known afterwards.
    let broken = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(folder("pissa", "as_it_is").join(name), broken.path().join(name)).unwrap();
    }
    let path = broken.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"pissa\"", "\"pissa_niter_4\"");
    std::fs::write(&path, text).unwrap();
    let error = AdapterFile::open(broken.path()).map(drop).unwrap_err().to_string();
    assert!(error.contains("pissa_niter_4") && error.contains("does not tell how"), "{error}");
}
