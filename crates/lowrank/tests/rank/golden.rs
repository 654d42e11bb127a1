//! `tests/golden/fixtures/rank`.

use std::path::{Path, PathBuf};

use lowrank::analysis::{
    MatrixFile, Product, RankOptions, RankReport, Side, Subject, TensorRank, Tolerance, rank,
    subspace_overlap,
};
use serde_json::Value;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fixtures").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("rank/rank.json")).unwrap()).unwrap()
}

pub fn options(file: &Path) -> RankOptions<'_> {
    RankOptions {
        file,
        tensors: &[],
        tolerance: Tolerance::Usual,
        energy: 0.9,
        approximate: None,
        with: None,
        side: Side::Right,
        base: None,
    }
}

pub fn look_at(options: &RankOptions<'_>) -> RankReport {
    rank(options, &|_, _| ()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn near(actual: f64, wanted: &Value, scale: f64, what: &str) {
    let wanted = wanted.as_f64().unwrap();
    assert!((actual - wanted).abs() <= 1e-9 * scale, "{what}: {actual} for {wanted}");
}

fn same_values(actual: &[f64], wanted: &[f64], what: &str) {
    assert_eq!(actual.len(), wanted.len(), "{what}");
    let largest = wanted.first().copied().unwrap_or(0.0);
    for (index, (actual, wanted)) in actual.iter().zip(wanted).enumerate() {
        assert!((actual - wanted).abs() <= 1e-12 * largest, "{what} at {index}: {actual} for {wanted}");
    }
}

#[test]
fn every_matrix_has_the_ranks_and_the_spectrum_of_numpy_and_pytorch() {
    let expected = &expected()["matrices"];
    let mut seen = 0;
    for name in ["rank/write_up.safetensors", "rank/matrices.safetensors"] {
        let file = fixture(name);
        let report = look_at(&RankOptions { approximate: Some(2), ..options(&file) });
        for tensor in &report.tensors {
            let (name, wanted) = (&tensor.name, &expected[&tensor.name]);
            assert_eq!(
                tensor.shape.map(Value::from).to_vec(),
                *wanted["shape"].as_array().unwrap(),
                "{name}"
            );
            assert_eq!(tensor.rank, wanted["rank"], "{name}");
            assert_eq!(tensor.rank_for_energy, wanted["rank_for_90"], "{name}");
            same_values(&tensor.singular_values, &numbers(&wanted["singular_values"]), name);
            near(tensor.stable_rank, &wanted["stable_rank"], 10.0, name);
            near(tensor.effective_rank, &wanted["effective_rank"], 10.0, name);
            let error = tensor.approximation.unwrap().error;
            near(error.frobenius, &wanted["errors_at_2"][0], tensor.spectral_norm, name);
            near(error.spectral, &wanted["errors_at_2"][1], tensor.spectral_norm, name);
            seen += 1;
        }
    }
    assert_eq!(seen, expected.as_object().unwrap().len());
}

#[test]
fn vectors_and_whole_numbers_are_counted_and_left_out() {
    let report = look_at(&options(&fixture("rank/matrices.safetensors")));
    assert_eq!((report.skipped.vectors, report.skipped.not_floating), (1, 1));
}

fn named(report: &RankReport) -> impl Iterator<Item = (&str, &TensorRank)> {
    report.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor))
}

#[test]
fn a_pairs_spectrum_is_that_of_its_product_as_peft_scales_it() {
    for (case, wanted) in expected()["products"].as_object().unwrap() {
        let folder = fixture(&format!("cases/{case}/adapter"));
        let report = look_at(&options(&folder));
        let pairs: Vec<_> = named(&report).filter(|(_, tensor)| tensor.r.is_some()).collect();
        assert_eq!(pairs.len(), wanted.as_object().unwrap().len(), "{case}");
        for (name, tensor) in pairs {
            same_values(&tensor.singular_values, &numbers(&wanted[name]), name);
        }
    }
}

fn pair<'f>(file: &'f MatrixFile, name: &str) -> Product<'f> {
    match file.get(name).unwrap() {
        Subject::Product(product) => product,
        Subject::Matrix(_) => panic!("{name} is a pair"),
    }
}

#[test]
fn two_adapters_overlap_as_the_papers_formula_says() {
    for (cases, wanted) in expected()["overlaps"].as_object().unwrap() {
        let (one, other) = cases.split_once(' ').unwrap();
        let [one, other] =
            [one, other].map(|case| MatrixFile::open(&fixture(&format!("cases/{case}/adapter"))).unwrap());
        for (key, wanted) in wanted.as_object().unwrap() {
            let (name, side) = key.split_once(' ').unwrap();
            let (x, y) = (pair(&one, name), pair(&other, name));
            let overlap = match side {
                "right" => subspace_overlap(x.a(), y.a(), Side::Right),
                _ => subspace_overlap(x.b(), y.b(), Side::Left),
            };
            let grid = overlap.unwrap().values;
            assert_eq!(grid.len(), wanted.as_array().unwrap().len());
            for (row, wanted) in grid.iter().zip(wanted.as_array().unwrap()) {
                row.iter()
                    .zip(wanted.as_array().unwrap())
                    .for_each(|(phi, wanted)| near(*phi, wanted, 1.0, key));
            }
        }
    }
}

/// The layer before the logits and the word table are one tensor of the checkpoint.
#[test]
fn an_adapter_on_a_tied_weight_is_placed_in_what_it_is_tied_to() {
    let (folder, base) =
        (fixture("cases/llama_tied_embeddings/adapter"), fixture("models/llama-tied-bf16-sharded"));
    let base = base.to_string_lossy();
    let report = look_at(&RankOptions { base: Some(&base), ..options(&folder) });
    let tied = |name: &str| report.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    let norm = |name: &str| tied(name).base.as_ref().unwrap().base_norm;
    assert_eq!(norm("lm_head"), norm("model.embed_tokens"));
}

#[test]
fn an_adapter_is_placed_in_its_base_whatever_form_the_weight_is_stored_in() {
    for (case, wanted) in expected()["places"].as_object().unwrap() {
        let folder = fixture(&format!("cases/{case}/adapter"));
        let config: Value =
            serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
        let base = fixture(config["base_model_name_or_path"].as_str().unwrap());
        let base = base.to_string_lossy();
        let report = look_at(&RankOptions { base: Some(&base), ..options(&folder) });
        assert_eq!(report.tensors.len(), wanted.as_object().unwrap().len(), "{case}");
        for (name, tensor) in named(&report) {
            let (place, wanted) = (tensor.base.as_ref().unwrap(), &wanted[name]);
            assert_eq!(place.rank, wanted["rank"], "{name}");
            assert_eq!(place.base_values_above, wanted["base_values_above"], "{name}");
            for (value, key) in [
                (place.base_norm, "base_norm"),
                (place.update_norm, "update_norm"),
                (place.projected_norm, "projected_norm"),
                (place.base_top_norm, "base_top_norm"),
                (place.amplification.unwrap(), "amplification"),
            ] {
                near(value, &wanted[key], 10.0, &format!("{key} of {name} in {case}"));
            }
        }
    }
}
