//! Pairs on the experts of mixtures, of which a file has one for all.

use std::path::Path;

use lowrank::adapter::tools::{
    CombineOptions, MajoritySign, Merging, Method, RankChoice, combine, diff, inspect, resize, validate,
};
use lowrank::analysis::{MatrixFile, Subject};
use lowrank::hub::Checkpoint;
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
        let options = ExtractOptions { base: &model, tuned, choice, target_modules: None, out: &out };
        let report = extract(&options).unwrap();
        assert!(!report.notes.iter().any(|note| note.contains("not in the adapter")), "{name}: {report}");
        assert!(validate(out.to_str().unwrap()).is_valid(), "{name}: {}", validate(out.to_str().unwrap()));
        let (off, scale) = difference(&answers(&case, &out), &answers(&case, adapters[0].as_ref()));
        assert!(off <= 1e-2 * scale.max(1.0), "{name}: off by {off:e} of {scale}");
    }
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
    let found = findings(&|config| config["r"] = json!(5));
    assert!(found.contains("no multiple of the rank 5"), "{found}");
    let found = findings(&|config| config["target_parameters"] = Value::Null);
    assert!(found.contains("mlp.experts"), "{found}");
}
