//! Adapters as one.

use std::path::Path;

use lowrank::adapter::tools::{
    CombineOptions, MadeReport, MajoritySign, Method, RankChoice, combine, diff, resize, validate,
};
use lowrank::hub::Tensors;
use lowrank::tensor::Tensor;
use lowrank::{Error, Result};
use serde_json::{Value, json};

use crate::variants::{PREFIX, Variant, tensor};
use crate::{assert_same, norm, off, products, sum};

fn combined(adapters: &[(&str, f64)], method: &str, out: &Path) -> Result<MadeReport> {
    let method: Method = method.parse().unwrap();
    let density = method.prunes().then_some(1.0);
    combined_at(adapters, method, density, out)
}

fn combined_at(
    adapters: &[(&str, f64)],
    method: Method,
    density: Option<f64>,
    out: &Path,
) -> Result<MadeReport> {
    let adapters: Vec<(String, f64)> =
        adapters.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
    let majority_sign = MajoritySign::Total;
    combine(&CombineOptions { adapters: &adapters, method, density, rank: None, majority_sign, seed: 7, out })
}

fn refused(result: Result<MadeReport>) -> String {
    result.map_err(|error: Error| error.to_string()).unwrap_err()
}

/// Adds a head to an adapter's tensors.
fn with_head(value: f32) -> impl FnOnce(&mut Tensors) {
    move |tensors| {
        tensors.insert(format!("{PREFIX}score.weight"), Tensor::from_slice([2, 7], &[value; 14]));
    }
}

fn headed(seed: u64) -> Variant {
    let settings = json!({"r": 3, "lora_alpha": 5, "modules_to_save": ["score"]});
    Variant { settings, ..Variant::plain(3, seed) }
}

#[test]
fn an_adapter_with_magnitudes_alone_is_itself_and_is_added_to_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let dora = Variant { use_dora: true, ..Variant::plain(3, 5) };
    let (path, out) = (folder.path().join("a"), folder.path().join("out"));
    let (name, other) =
        (dora.write(&path, |_| ()), Variant::plain(3, 1).write(&folder.path().join("b"), |_| ()));
    assert!(validate(&name).is_valid(), "{}", validate(&name));
    for adapters in [vec![(&*name, 0.5)], vec![(&*other, 1.0), (&*name, 1.0)]] {
        assert!(refused(combined(&adapters, "cat", &out)).contains("use_dora"));
    }
    combined(&[(&name, 1.0)], "cat", &out).unwrap();
    assert_same(&products(&out), &products(&path), "dora");
    let small = folder.path().join("small");
    resize(&name, RankChoice::Rank(1), &small).unwrap();
    for made in [&out, &small] {
        assert!(validate(made.to_str().unwrap()).is_valid());
        for layer in ["query", "words"] {
            let key = format!("{layer}.lora_magnitude_vector");
            assert_eq!(tensor(made, &key), tensor(&path, &key));
        }
    }
    assert!(diff(&name, out.to_str().unwrap()).unwrap().tensors.is_empty());
}

#[test]
fn single_rows_of_tables_are_kept_where_all_have_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let key = "table.token_adapter.trainable_tokens_delta";
    let variant = |seed, indices: &[u32]| {
        let settings = json!({"r": 3, "lora_alpha": 5, "trainable_token_indices": {"table": indices}});
        let name = format!("{seed} {indices:?}");
        Variant { settings, ..Variant::plain(3, seed) }.write(&folder.path().join(name), |tensors| {
            let rows = Tensor::from_slice([2, 7], &[0.25f32; 14]);
            tensors.insert(format!("{PREFIX}{key}"), rows);
        })
    };
    let (a, b, other) = (variant(1, &[4, 2]), variant(2, &[4, 2]), variant(3, &[4, 3]));
    assert!(validate(&a).is_valid(), "{}", validate(&a));
    let out = folder.path().join("out");
    assert!(refused(combined(&[(&a, 1.0), (&other, 1.0)], "cat", &out)).contains("trainable_token_indices"));
    combined(&[(&a, 0.5), (&b, 1.0)], "cat", &out).unwrap();
    assert_eq!(tensor(&out, key), [0.25; 14]);
    assert!(validate(out.to_str().unwrap()).is_valid());
}

#[test]
fn one_adapter_of_weight_one_is_itself_in_every_variant_by_every_method() {
    for (variant, adapter) in Variant::all() {
        for (method, _) in Method::NAMES {
            let folder = tempfile::tempdir().unwrap();
            let (path, out) = (folder.path().join("a"), folder.path().join("out"));
            let name = adapter.write(&path, |_| ());
            let report = combined(&[(&name, 1.0)], method, &out).unwrap();
            assert_same(&products(&out), &products(&path), &format!("{variant} by {method}"));
            assert!(report.relative_error < 1e-6, "{variant} by {method}: {report}");
            if adapter.lora_bias {
                let scaled: Vec<f32> =
                    tensor(&path, "query.lora_B.bias").iter().map(|value| value * 5.0 / 3.0).collect();
                let made = tensor(&out, "query.lora_B.bias");
                assert!(made.iter().zip(&scaled).all(|(x, y)| (x - y).abs() < 1e-6), "{variant} by {method}");
            }
        }
    }
}

#[test]
fn leaving_out_a_part_of_one_adapter_is_refused_as_it_would_be_another() {
    let folder = tempfile::tempdir().unwrap();
    let name = Variant::plain(3, 1).write(&folder.path().join("a"), |_| ());
    for (word, method) in Method::NAMES.into_iter().filter(|(_, method)| method.prunes()) {
        let out = folder.path().join("out");
        let error = refused(combined_at(&[(&name, 1.0)], method, Some(0.5), &out));
        assert!(error.contains(word) && error.contains("is then another"), "{error}");
        assert!(!out.exists());
    }
}

/// PEFT multiplies the result by the root of its rank once more.
#[test]
fn a_weighted_sum_of_rslora_adapters_is_the_weighted_sum_of_their_products() {
    let folder = tempfile::tempdir().unwrap();
    let variants = Variant::all();
    let paths: Vec<_> = variants.iter().map(|(name, _)| folder.path().join(name)).collect();
    let names: Vec<String> =
        variants.iter().zip(&paths).map(|((_, variant), path)| variant.write(path, |_| ())).collect();
    let weights = [0.75, -1.5, 0.5, 2.0];
    let adapters: Vec<(&str, f64)> = names.iter().map(String::as_str).zip(weights).collect();
    let layers: Vec<_> = paths.iter().map(|path| products(path)).collect();
    let wanted = sum(&weights.into_iter().zip(&layers).collect::<Vec<_>>());
    let out = folder.path().join("cat");
    let report = combined(&adapters, "cat", &out).unwrap();
    assert_same(&products(&out), &wanted, "cat");
    assert!(report.relative_error < 1e-6 && report.layers.iter().map(|layer| layer.r).eq([12, 11, 12]));

    // Only one of them has biases: its own, times its scaling and weight.
    let bias: Vec<f64> = tensor(&paths[3], "value.lora_B.bias")
        .iter()
        .map(|value| f64::from(*value) * 2.0 * 5.0 / 3.0)
        .collect();
    let made: Vec<f64> = tensor(&out, "value.lora_B.bias").iter().map(|value| f64::from(*value)).collect();
    assert!(off(&made, &bias) < 1e-6);
    let config: Value =
        serde_json::from_slice(&std::fs::read(out.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["lora_bias"], &config["use_rslora"]), (&json!(true), &json!(false)));
    assert_eq!(config["rank_pattern"], json!({"value": 11}));
    assert_eq!(config["alpha_pattern"], config["rank_pattern"]);

    // The best approximation of the same sum, and no method on factors is nearer.
    let error = refused(combined(&adapters, "linear", &folder.path().join("linear")));
    assert!(error.contains("needs equal ranks") && error.contains("value"), "{error}");
    let out = folder.path().join("svd");
    let svd = combined(&adapters, "svd", &out).unwrap();
    let made = products(&out);
    for layer in &svd.layers {
        let lacks = off(&made[&layer.name], &wanted[&layer.name]);
        assert!((layer.relative_error - lacks).abs() < 1e-9 && lacks > 0.01, "{layer:?}: {lacks}");
        assert!((layer.norm - norm(&wanted[&layer.name])).abs() < 1e-9 * layer.norm);
    }
}

#[test]
fn summed_factors_are_no_sum_of_products_and_the_report_says_by_how_much() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = [1, 2].map(|seed| folder.path().join(format!("{seed}")));
    let names = [Variant::plain(3, 1).write(&a, |_| ()), Variant::plain(3, 2).write(&b, |_| ())];
    let out = folder.path().join("out");
    let report = combined(&[(&names[0], 1.0), (&names[1], 1.0)], "linear", &out).unwrap();
    let wanted = sum(&[(1.0, &products(&a)), (1.0, &products(&b))]);
    for layer in &report.layers {
        let lacks = off(&products(&out)[&layer.name], &wanted[&layer.name]);
        assert!(lacks > 0.1 && (layer.relative_error - lacks).abs() < 1e-9, "{layer:?}: {lacks}");
    }
    assert!(report.relative_error > 0.1);
}

#[test]
fn what_dare_leaves_out_follows_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] =
        [1, 2].map(|seed| Variant::plain(3, seed).write(&folder.path().join(format!("{seed}")), |_| ()));
    let adapters = [(a, 1.0), (b, 0.5)];
    let made = |seed: u64, method: &str, out: &str| {
        let out = folder.path().join(out);
        let options = CombineOptions {
            adapters: &adapters,
            method: method.parse().unwrap(),
            density: Some(0.5),
            rank: None,
            majority_sign: MajoritySign::Total,
            seed,
            out: &out,
        };
        combine(&options).unwrap();
        std::fs::read(out.join("adapter_model.safetensors")).unwrap()
    };
    for method in ["dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd"] {
        let [one, again, other] =
            [(1, "x"), (1, "y"), (2, "z")].map(|(seed, out)| made(seed, method, &format!("{method}{out}")));
        assert!(one == again && one != other, "{method}");
    }
}

#[test]
fn a_head_is_kept_where_it_is_one_and_refused_by_name_where_there_are_two() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let one = headed(1).write(&at("one"), with_head(1.0));
    let same = headed(2).write(&at("same"), with_head(1.0));
    let other = headed(3).write(&at("other"), with_head(2.0));
    let none = Variant::plain(3, 4).write(&at("none"), |_| ());
    for (number, second) in [&same, &none].into_iter().enumerate() {
        let out = at(&format!("out{number}"));
        let report = combined(&[(second, 1.0), (&one, 0.5)], "cat", &out).unwrap();
        assert_eq!((report.kept, tensor(&out, "score.weight")), (1, vec![1.0; 14]));
        let config: Value =
            serde_json::from_slice(&std::fs::read(out.join("adapter_config.json")).unwrap()).unwrap();
        assert_eq!(config["modules_to_save"], json!(["score"]));
    }
    let error = refused(combined(&[(&one, 1.0), (&other, 1.0)], "cat", &at("out")));
    assert!(error.contains("score.weight") && error.contains("has another value in"), "{error}");
    let replaced = headed(5).write(&at("replaced"), |tensors| {
        tensors.retain(|key, _| !key.contains("query"));
        tensors.insert(format!("{PREFIX}query.weight"), Tensor::from_slice([9, 7], &[1.0_f32; 63]));
    });
    let error = refused(combined(&[(&none, 1.0), (&replaced, 1.0)], "cat", &at("out")));
    assert!(error.contains("query.weight") && error.contains("added to another weight"), "{error}");
    assert!(!at("out").exists());
}

#[test]
fn layers_that_one_adapter_lacks_are_those_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let all = Variant::plain(3, 1).write(&at("all"), |_| ());
    let some = Variant { settings: json!({"r": 2, "target_modules": ["value"]}), ..Variant::plain(2, 2) };
    let some = some.write(&at("some"), |tensors| tensors.retain(|key, _| key.contains("value")));
    combined(&[(&some, 2.0), (&all, 1.0)], "cat", &at("out")).unwrap();
    assert_same(
        &products(&at("out")),
        &sum(&[(2.0, &products(&at("some"))), (1.0, &products(&at("all")))]),
        "cat",
    );
    let difference = diff(&all, &at("out").to_string_lossy()).unwrap();
    assert!(difference.only_in_first.is_empty() && difference.only_in_second.is_empty());
    let changed: Vec<bool> = difference.layers.iter().map(|layer| layer.distance.unwrap() > 1e-3).collect();
    assert_eq!(changed, [false, true, false]);
}

#[test]
fn settings_out_of_range_or_of_no_effect_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] =
        [1, 2].map(|seed| Variant::plain(3, seed).write(&folder.path().join(format!("{seed}")), |_| ()));
    let adapters = [(a.as_str(), 1.0), (b.as_str(), 1.0)];
    let out = folder.path().join("out");
    let ties: Method = "ties".parse().unwrap();
    let at = |density| refused(combined_at(&adapters, ties, density, &out));
    assert!(at(None).contains("needs it"));
    assert!([0.0, -1.0, 1.5, f64::NAN].into_iter().all(|density| at(Some(density)).contains("at most 1")));
    let error = refused(combined_at(&adapters, Method::Cat, Some(0.5), &out));
    assert!(error.contains("leaves nothing out"), "{error}");
    assert!(refused(combined_at(&[], Method::Cat, None, &out)).contains("no adapter"));
    assert!(refused(combined_at(&[(&a, f64::NAN)], Method::Cat, None, &out)).contains("not a number"));
    let error = "tiess".parse::<Method>().unwrap_err().to_string();
    assert!(error.contains("did you mean ties"), "{error}");
    let full = refused(combined(&adapters, "cat", folder.path()));
    assert!(full.contains("not empty"), "{full}");
}
