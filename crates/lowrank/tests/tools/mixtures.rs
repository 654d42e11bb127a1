//! Pairs on the experts of mixtures, of which a file has one for all.

use std::path::Path;

use lowrank::adapter::tools::{
    CombineOptions, MajoritySign, Merging, Method, RankChoice, combine, diff, inspect, resize, validate,
};
use lowrank::analysis::{MatrixFile, Subject};
use lowrank::hub::{Checkpoint, StoredDtype, TensorToWrite, write_safetensors};
use lowrank::train::{AdaptedModel, ExtractOptions, MergeOptions, extract, merge};
use lowrank_kernels::Compute;
use serde_json::{Value, json};

use crate::common::{Case, difference, load};
use crate::{assert_same, products, sum};

/// Every case of a mixture whose adapter is on parameters.
fn cases() -> Vec<Case> {
    let cases: Vec<Case> = Case::all()
        .into_iter()
        .filter(|case| ["mixtral", "qwen2_moe", "qwen3_moe"].iter().any(|name| case.name.starts_with(name)))
        .filter(|case| config(case.adapter().unwrap().as_ref())["target_parameters"].is_array())
        .filter(|case| !case.name.ends_with("names_of_4"))
        .collect();
    assert!(cases.len() >= 9);
    cases
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
}

fn answers(case: &Case, folder: &Path) -> Vec<f32> {
    let (_, mut batch) = load(case, Compute::F32);
    batch.labels = lowrank::data::Labels::None;
    let adapted = AdaptedModel::load(&case.model(), folder.to_str(), case.options(Compute::F32)).unwrap();
    adapted.logits(&batch, adapted.first_adapter()).unwrap()
}

fn combined(adapters: &[(String, f64)], method: Method, out: &Path) -> lowrank::Result<()> {
    let majority_sign = MajoritySign::Total;
    combine(&CombineOptions { adapters, method, density: None, rank: None, majority_sign, seed: 0, out })
        .map(|_| ())
}

#[test]
fn each_expert_is_looked_at_by_itself() {
    let adapter = Case::named("mixtral_experts").adapter().unwrap();
    let inspection = inspect(&adapter).unwrap();
    let experts: Vec<_> = inspection.layers.iter().filter(|layer| layer.name.contains("experts")).collect();
    assert_eq!(experts.len(), 2 * 2 * 4);
    for layer in &experts {
        let shape = if layer.name.contains("gate_up_proj") { [40, 24] } else { [24, 20] };
        assert_eq!((layer.shape, layer.r, layer.rank), (shape, 3, 3), "{}", layer.name);
    }
    let bytes: usize = inspection.layers.iter().map(|layer| layer.bytes).sum();
    assert_eq!(bytes, inspection.bytes);
    // Of the model's weights, the same products.
    let file = MatrixFile::open(adapter.as_ref()).unwrap();
    let name = "model.layers.1.mlp.experts.down_proj.2";
    let Subject::Product(product) = file.get(name).unwrap() else { panic!() };
    assert_eq!([product.rows(), product.columns(), product.r()], [24, 20, 3]);
    let norm = inspection.layers.iter().find(|layer| layer.name == name).unwrap().norm;
    assert!((product.spectrum().unwrap().frobenius_norm() - norm).abs() < 1e-12 * norm);
    assert!(file.names().all(|name| !name.ends_with("experts") && !name.ends_with("base_layer")));
}

/// Only the configuration says where an expert begins.
#[test]
fn a_file_of_experts_without_its_configuration_is_not_taken_for_one_pair() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = Case::named("mixtral_down").adapter().unwrap();
    let name = "adapter_model.safetensors";
    std::fs::copy(Path::new(&adapter).join(name), folder.path().join(name)).unwrap();
    let file = MatrixFile::open(folder.path()).unwrap();
    let error = file.get("model.layers.0.mlp.experts").unwrap_err().to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
    assert!(file.get("model.layers.0.self_attn.q_proj").is_ok());
}

#[test]
fn one_adapter_with_weight_1_stays_the_function_that_it_is() {
    for case in cases() {
        let before = case.adapter().unwrap();
        assert!(diff(&before, &before).unwrap().is_same_function(), "{}", case.name);
        let wanted = answers(&case, before.as_ref());
        for method in [Method::Cat, Method::Svd(Merging::Linear), Method::Factors(Merging::Linear)] {
            let out = tempfile::tempdir().unwrap();
            combined(&[(before.clone(), 1.0)], method, out.path()).unwrap();
            let (off, scale) = difference(&answers(&case, out.path()), &wanted);
            assert!(off <= 2e-5 * scale, "{}, {method}: {off:e} of {scale}", case.name);
            let validation = validate(out.path().to_str().unwrap());
            assert!(validation.is_valid(), "{}: {validation}", case.name);
        }
    }
}

/// The wrappers of the sum are those of all stacks, however many each adapter had.
#[test]
fn adapters_on_different_stacks_are_one_on_all() {
    let [both, down] = ["mixtral_experts", "mixtral_down"].map(|name| Case::named(name).adapter().unwrap());
    let out = tempfile::tempdir().unwrap();
    combined(&[(down.clone(), 2.0), (both.clone(), -0.5)], Method::Cat, out.path()).unwrap();
    let parts = [products(down.as_ref()), products(both.as_ref())];
    assert_same(&products(out.path()), &sum(&[(2.0, &parts[0]), (-0.5, &parts[1])]), "the sum");
    let written = config(out.path());
    let layer = |n: usize| format!("model.layers.{n}.mlp.experts");
    let stacks: Vec<String> = [0, 1]
        .iter()
        .flat_map(|n| ["down_proj", "gate_up_proj"].map(|own| format!("{}.{own}", layer(*n))))
        .collect();
    assert_eq!(written["target_parameters"], json!(stacks));
    let file = Checkpoint::open_adapter(out.path()).unwrap();
    let shape = |name: &str| file.get(&format!("base_model.model.{name}")).unwrap().shape.to_vec();
    assert_eq!(shape(&format!("{}.lora_B.weight", layer(0))), [24, 4 * 5], "ranks 2 and 3");
    assert_eq!(shape(&format!("{}.base_layer.lora_A.weight", layer(0))), [4 * 3, 24]);
    assert!(validate(out.path().to_str().unwrap()).is_valid());
    answers(&Case::named("mixtral_experts"), out.path());
}

#[test]
fn a_resized_stack_has_one_rank_and_answers_as_before() {
    for case in cases() {
        let before = case.adapter().unwrap();
        for (choice, is_same) in
            [(RankChoice::Rank(7), true), (RankChoice::Energy(1.0), true), (RankChoice::Energy(0.6), false)]
        {
            let out = tempfile::tempdir().unwrap();
            resize(&before, choice, out.path()).unwrap();
            let (off, scale) = difference(&answers(&case, out.path()), &answers(&case, before.as_ref()));
            assert_eq!(off <= 2e-5 * scale, is_same, "{}, {choice:?}: {off:e} of {scale}", case.name);
            let validation = validate(out.path().to_str().unwrap());
            assert!(validation.is_valid(), "{}: {validation}", case.name);
        }
    }
}

#[test]
fn an_adapter_on_experts_that_was_merged_comes_out_again() {
    for name in
        ["mixtral_experts", "mixtral_router", "qwen2_moe_experts", "qwen3_moe_joined", "qwen3_moe_patterns"]
    {
        let case = Case::named(name);
        let folder = tempfile::tempdir().unwrap();
        let (tuned, out) = (folder.path().join("tuned"), folder.path().join("out"));
        let adapters = [case.adapter().unwrap()];
        let model = case.model();
        merge(&MergeOptions { model: &model, adapters: &adapters, out: &tuned, dequantize: false }).unwrap();
        let tuned = tuned.to_str().unwrap();
        let choice = RankChoice::Energy(0.999_999);
        let options = ExtractOptions {
            base: &model,
            tuned,
            choice,
            target_modules: None,
            target_parameters: &[],
            out: &out,
        };
        let report = extract(&options).unwrap();
        assert!(!report.notes.iter().any(|note| note.contains("not in the adapter")), "{name}: {report}");
        assert!(validate(out.to_str().unwrap()).is_valid(), "{name}: {}", validate(out.to_str().unwrap()));
        let (off, scale) = difference(&answers(&case, &out), &answers(&case, adapters[0].as_ref()));
        assert!(off <= 1e-2 * scale.max(1.0), "{name}: off by {off:e} of {scale}");
    }
}

/// Modules and parameters are chosen apart; what was not chosen and changed is told.
#[test]
fn of_a_mixture_the_named_parameters_are_extracted() {
    let case = Case::named("mixtral_experts");
    let folder = tempfile::tempdir().unwrap();
    let tuned = folder.path().join("tuned");
    let (model, adapters) = (case.model(), [case.adapter().unwrap()]);
    merge(&MergeOptions { model: &model, adapters: &adapters, out: &tuned, dequantize: false }).unwrap();
    let extracted = |name: &str, parameters: &[&str]| {
        let out = folder.path().join(name);
        let report = extract(&ExtractOptions {
            base: &model,
            tuned: tuned.to_str().unwrap(),
            choice: RankChoice::Rank(3),
            target_modules: None,
            target_parameters: &parameters.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
            out: &out,
        });
        (report, out)
    };
    let (report, out) = extracted("down", &["mlp.experts.down_proj"]);
    let report = report.unwrap();
    assert!(report.layers.iter().all(|layer| layer.name.contains("experts.down_proj.")), "{report}");
    assert_eq!(report.layers.len(), 2 * 4, "two layers of four experts");
    let lost = report.notes.iter().find(|note| note.contains("not in the adapter")).unwrap();
    assert!(lost.contains("experts.gate_up_proj") && !lost.contains("down_proj"), "{lost}");
    let written = config(&out);
    assert_eq!(written["target_parameters"].as_array().unwrap().len(), 2, "{written}");
    assert_eq!(written["target_modules"], json!([]), "{written}");
    assert!(validate(out.to_str().unwrap()).is_valid());
    answers(&case, &out);

    let error = extracted("none", &["mlp.experts.down"]).0.unwrap_err().to_string();
    assert!(error.contains("unknown target parameter") && error.contains("experts.down_proj"), "{error}");
}

/// `mixtral_down`'s adapter with other factors on the experts of its first layer.
fn with_factors(a: &[usize], b: &[usize], out: &Path) {
    let source = Case::named("mixtral_down").adapter().unwrap();
    let file = Checkpoint::open_adapter(&source).unwrap();
    let first = "base_model.model.model.layers.0.mlp.experts.lora_";
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for key in file.names() {
        let view = file.get(key).unwrap();
        let (shape, bytes) = match key.strip_prefix(first) {
            Some("A.weight") => (a.to_vec(), vec![0; 4 * a.iter().product::<usize>()]),
            Some("B.weight") => (b.to_vec(), vec![0; 4 * b.iter().product::<usize>()]),
            _ => (view.shape.to_vec(), view.bytes.to_vec()),
        };
        tensors.push((key.to_owned(), shape, bytes));
    }
    let tensors: Vec<TensorToWrite<'_>> = tensors
        .iter()
        .map(|(name, shape, bytes)| TensorToWrite { name, dtype: StoredDtype::F32, shape, bytes })
        .collect();
    write_safetensors(out.join("adapter_model.safetensors"), &tensors, &[("format", "pt")]).unwrap();
    std::fs::copy(Path::new(&source).join("adapter_config.json"), out.join("adapter_config.json")).unwrap();
}

/// Nothing is made of as many experts as a header claims.
#[test]
fn factors_that_are_none_of_experts_are_refused_at_once() {
    for (a, b, part) in [
        (&[1 << 40, 0][..], &[24, 0][..], "those of experts"),
        (&[1 << 40, 0], &[0, 1 << 40], "those of experts"),
        (&[1 << 20, 1], &[1, 1 << 20], "524288 experts"),
        (&[8, 20], &[24, 6], "those of experts"),
        (&[7, 20], &[24, 7], "no multiple of the rank 2"),
        (&[8], &[24, 8], "those of experts"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        with_factors(a, b, folder.path());
        let name = folder.path().to_str().unwrap();
        for error in [inspect(name).unwrap_err(), MatrixFile::open(folder.path()).unwrap_err()] {
            assert!(error.to_string().contains(part), "{a:?} {b:?}: {error}");
        }
        assert!(!validate(name).is_valid());
    }
    // More experts than another adapter has are no sum with those.
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    with_factors(&[16, 20], &[24, 16], folder.path());
    let adapters =
        [Case::named("mixtral_down").adapter().unwrap(), folder.path().to_str().unwrap().to_owned()];
    let error = combined(&adapters.map(|name| (name, 1.0)), Method::Cat, out.path()).unwrap_err().to_string();
    assert!(error.contains("8 experts where another adapter has 4"), "{error}");
    let of_4 = Case::named("mixtral_names_of_4").adapter().unwrap();
    let of_5 = Case::named("mixtral_experts").adapter().unwrap();
    let error =
        combined(&[of_4, of_5].map(|name| (name, 1.0)), Method::Cat, out.path()).unwrap_err().to_string();
    assert!(error.contains("Transformers 4"), "{error}");
}

/// A module may have the name of a stack.
#[test]
fn a_layer_that_is_called_as_a_stack_keeps_its_rank() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let numbers = |count: usize| -> Vec<u8> {
        (0..count).flat_map(|i| ((i * 7 % 11) as f32 - 5.0).to_le_bytes()).collect()
    };
    let names =
        ["m.experts", "m.experts.gate_up_proj"].map(|module| format!("base_model.model.{module}.lora_"));
    let shapes = [([2, 6], [5, 2]), ([4, 6], [5, 4])];
    let keys: Vec<(String, [usize; 2], Vec<u8>)> = names
        .iter()
        .zip(shapes)
        .flat_map(|(name, (a, b))| [(format!("{name}A.weight"), a), (format!("{name}B.weight"), b)])
        .map(|(name, shape)| (name, shape, numbers(shape[0] * shape[1])))
        .collect();
    let tensors: Vec<TensorToWrite<'_>> = keys
        .iter()
        .map(|(name, shape, bytes)| TensorToWrite { name, dtype: StoredDtype::F32, shape, bytes })
        .collect();
    write_safetensors(folder.path().join("adapter_model.safetensors"), &tensors, &[]).unwrap();
    let mut config = config(Case::named("mixtral_down").adapter().unwrap().as_ref());
    config["target_parameters"] = json!(["experts.gate_up_proj"]);
    config["target_modules"] = json!(["gate_up_proj"]);
    config["r"] = json!(1);
    config["rank_pattern"] = json!({"^m.experts.gate_up_proj": 4});
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    // One name for both: what is written cannot say which is which, and is refused rather than wrong.
    let resized = resize(folder.path().to_str().unwrap(), RankChoice::Energy(1.0), out.path());
    assert!(resized.is_err());
}

#[test]
fn what_is_wrong_with_a_pair_of_experts_is_found() {
    let source = Case::named("mixtral_experts").adapter().unwrap();
    let findings = |change: &dyn Fn(&mut Value)| {
        let folder = tempfile::tempdir().unwrap();
        let name = "adapter_model.safetensors";
        std::fs::copy(Path::new(&source).join(name), folder.path().join(name)).unwrap();
        let mut config = config(source.as_ref());
        change(&mut config);
        std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        validate(folder.path().to_str().unwrap()).findings.join("\n")
    };
    assert_eq!(findings(&|_| ()), "");
    let more = json!(["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]);
    let found = findings(&|config| config["target_parameters"] = more.clone());
    assert!(found.contains("\"mlp.gate.weight\" names no parameter that has a pair"), "{found}");
    let found = findings(&|config| config["target_parameters"] = json!(["mlp.experts.down_proj"]));
    assert!(found.contains("which of target_parameters"), "{found}");
    let found = findings(&|config| config["lora_dropout"] = json!(0.1));
    assert!(found.contains("lora_dropout") && found.contains("as in PEFT"), "{found}");
    // One name of the two with its module, and one without.
    let mixed = json!(["mlp.experts.gate_up_proj", "down_proj"]);
    assert_eq!(findings(&|config| config["target_parameters"] = mixed.clone()), "");
    let found = findings(&|config| config["r"] = json!(5));
    assert!(found.contains("no multiple of the rank 5"), "{found}");
    // A rank that half of the experts would have: each stack by itself could be right.
    let found = findings(&|config| config["rank_pattern"] = json!({r".*\.down_proj": 6}));
    for layer in 0..2 {
        let module = format!("model.layers.{layer}.mlp.experts");
        let expected =
            format!("{module}: the pair of down_proj is that of 2 experts, but that of gate_up_proj of 4");
        assert!(found.contains(&expected), "{found}");
    }
    let found = findings(&|config| config["target_parameters"] = Value::Null);
    assert!(found.contains("mlp.experts"), "{found}");
}
