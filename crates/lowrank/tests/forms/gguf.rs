//! Adapters for llama.cpp are, byte for byte, what its own Python package writes.

use std::fs;
use std::path::Path;

use lowrank::adapter::convert::{AdapterForm, ConvertOptions, convert};

use crate::common::{Case, fixtures};
use crate::convert::{options, refused};
use crate::form;

fn gguf<'a>(case: &Case, input: &'a Path, model: &'a str, out: &'a Path) -> ConvertOptions<'a> {
    assert!(case.adapter().is_some());
    ConvertOptions { to: AdapterForm::Gguf, model: Some(model), ..options(input, out) }
}

#[test]
fn golden_adapters_are_what_the_package_writes() {
    for name in
        ["gpt2_all_linear", "llama_all_linear", "llama_embeddings", "mistral_query_value", "qwen3_all_linear"]
    {
        let (case, out) = (Case::named(name), tempfile::tempdir().unwrap());
        let (adapter, model) = (case.adapter().unwrap(), case.model());
        let report = convert(&gguf(&case, adapter.as_ref(), &model, out.path())).unwrap();
        assert!(report.pairs > 1 && report.others == 0);
        let written = fs::read(out.path().join("adapter_model.gguf")).unwrap();
        assert!(written == fs::read(form(&format!("gguf/{name}.gguf"))).unwrap(), "{name}");
    }
}

/// A number of the notes, found by its key.
fn alpha(file: &[u8]) -> f32 {
    let key = b"adapter.lora.alpha\x06\0\0\0";
    let at = file.windows(key.len()).position(|bytes| bytes == key).unwrap() + key.len();
    f32::from_le_bytes(*file[at..].first_chunk().unwrap())
}

#[test]
fn other_scalings_than_the_files_are_in_b() {
    let case = Case::named("llama_query_value");
    let (adapter, model) = (case.adapter().unwrap(), case.model());
    let input = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(Path::new(&adapter).join(name), input.path().join(name)).unwrap();
    }
    let path = input.path().join("adapter_config.json");
    let written = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut config);
        fs::write(&path, config.to_string()).unwrap();
        let out = tempfile::tempdir().unwrap();
        convert(&gguf(&case, input.path(), &model, out.path())).unwrap();
        fs::read(out.path().join("adapter_model.gguf")).unwrap()
    };
    let plain = written(&|_| ());
    // The last tensor is v_proj's B of the last layer.
    let last =
        |file: &[u8]| f32::from_le_bytes(*file[file.len() - 4 - padding(file)..].first_chunk().unwrap());
    let rslora = written(&|config| config["use_rslora"] = true.into());
    let config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let r = config["r"].as_f64().unwrap();
    assert!(r > 1.0 && alpha(&rslora) == (f64::from(alpha(&plain)) * r.sqrt()) as f32);
    assert_eq!(last(&rslora), last(&plain), "one alpha for all is the file's");
    let doubled = written(&|config| {
        config["use_rslora"] = false.into();
        config["alpha_pattern"] = serde_json::json!({ "v_proj": 2.0 * f64::from(alpha(&plain)) });
    });
    assert_eq!(alpha(&doubled), alpha(&plain));
    assert_eq!(last(&doubled), 2.0 * last(&plain));
}

/// Zeros at the end.
fn padding(file: &[u8]) -> usize {
    file.iter().rev().take_while(|byte| **byte == 0).count() / 4 * 4
}

#[test]
fn what_llama_cpp_has_no_place_for_is_refused_by_name() {
    for (name, parts) in [
        ("t5_query_value", ["\"t5\"", "is none of the models"]),
        ("llama_save_norm", ["norm", "no place for it"]),
        ("llama_bias_lora_only", ["bias", "no place for it"]),
        ("llama_tied_embeddings", ["lm_head", "shares the table"]),
        ("gpt2_lm_head", ["lm_head", "shares the table"]),
    ] {
        let (case, out) = (Case::named(name), tempfile::tempdir().unwrap());
        let (adapter, model) = (case.adapter().unwrap(), case.model());
        let text = refused(&gguf(&case, adapter.as_ref(), &model, out.path()));
        assert!(parts.iter().all(|part| text.contains(part)), "{name}: {text}");
    }
    let (adapter, out) = (Case::named("llama_query_value").adapter().unwrap(), tempfile::tempdir().unwrap());
    let text = refused(&ConvertOptions { to: AdapterForm::Gguf, ..options(adapter.as_ref(), out.path()) });
    assert!(text.contains("--model"), "{text}");
    let other = fixtures().join("models/gpt2").to_string_lossy().into_owned();
    let text = refused(&gguf(&Case::named("llama_query_value"), adapter.as_ref(), &other, out.path()));
    assert!(text.contains("q_proj") && text.contains("has no layer"), "{text}");
}
