//! Adapters of another rank.

use lowrank::adapter::tools::{RankChoice, resize};
use lowrank::analysis::{MatrixFile, Subject};
use lowrank::train::AdaptedModel;
use lowrank_kernels::Compute;

use crate::common::{Case, difference, load};
use crate::variants::Variant;
use crate::{assert_same, off, products};

#[test]
fn a_smaller_rank_lacks_what_the_singular_values_say() {
    for (variant, adapter) in Variant::all() {
        let folder = tempfile::tempdir().unwrap();
        let (path, out) = (folder.path().join("a"), folder.path().join("out"));
        let name = adapter.write(&path, |_| ());
        let report = resize(&name, RankChoice::Rank(1), &out).unwrap();
        let (before, after) = (products(&path), products(&out));
        for layer in &report.layers {
            assert_eq!(layer.r, 1, "{variant}");
            let lacks = off(&after[&layer.name], &before[&layer.name]);
            assert!(
                lacks > 0.1 && (layer.relative_error - lacks).abs() < 1e-7,
                "{variant}: {layer:?} and {lacks}"
            );
            if !adapter.lora_bias {
                let file = MatrixFile::open(&path).unwrap();
                let Subject::Product(product) = file.get(&layer.name).unwrap() else {
                    panic!("it is a pair")
                };
                let least = product.spectrum().unwrap().approximation_error(1).frobenius;
                assert!((layer.error - least).abs() < 1e-6 * layer.norm, "{variant}: {layer:?} and {least}");
            }
        }
    }
}

#[test]
fn a_larger_rank_changes_nothing_and_can_be_trained() {
    for (variant, adapter) in Variant::all() {
        let folder = tempfile::tempdir().unwrap();
        let (path, out) = (folder.path().join("a"), folder.path().join("out"));
        let name = adapter.write(&path, |_| ());
        let report = resize(&name, RankChoice::Rank(6), &out).unwrap();
        assert_same(&products(&out), &products(&path), variant);
        assert!(report.relative_error < 1e-6 && report.layers.iter().all(|layer| layer.r == 6));
        // B begins at zero there, so that A must not.
        let a = crate::variants::tensor(&out, "query.lora_A.weight");
        assert!(a.chunks(7).all(|row| row.iter().any(|value| value.abs() > 1e-3)), "{variant}: {a:?}");
    }
}

#[test]
fn a_rank_beyond_a_layer_is_the_layers_own() {
    let folder = tempfile::tempdir().unwrap();
    let name = Variant::plain(3, 1).write(&folder.path().join("a"), |_| ());
    let report = resize(&name, RankChoice::Rank(100), &folder.path().join("out")).unwrap();
    assert!(report.layers.iter().all(|layer| layer.r == 7));
}

#[test]
fn an_energy_gives_each_layer_the_smallest_rank_that_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("a"), folder.path().join("out"));
    // Of the one layer, two directions are next to nothing.
    let name = Variant::plain(3, 1).write(&path, |tensors| {
        let key = format!("{}query.lora_A.weight", crate::variants::PREFIX);
        let a = tensors.get_mut(&key).unwrap();
        a.make_mut::<f32>()[7..].iter_mut().for_each(|value| *value *= 1e-4);
    });
    let report = resize(&name, RankChoice::Energy(0.999), &out).unwrap();
    assert!(report.layers.iter().map(|layer| layer.r).eq([1, 3, 3]), "{report}");
    assert!(report.layers.iter().all(|layer| layer.relative_error.powi(2) <= 0.001), "{report}");
    let whole = resize(&name, RankChoice::Energy(1.0), &folder.path().join("whole")).unwrap();
    assert!(whole.relative_error < 1e-6, "{whole}");
    for choice in
        [RankChoice::Rank(0), RankChoice::Energy(0.0), RankChoice::Energy(1.1), RankChoice::Energy(f64::NAN)]
    {
        assert!(resize(&name, choice, &folder.path().join("none")).unwrap_err().is_usage());
    }
}

/// With patterns, an embedding, biases and heads: what is written loads, and answers alike.
#[test]
fn a_resized_adapter_of_pefts_answers_as_before() {
    for name in [
        "bert_rank_pattern",
        "bert_rslora_pattern",
        "bert_adapted_embeddings",
        "roberta_bias_lora_only",
        "gpt2_attention",
    ] {
        let case = Case::named(name);
        let (adapted, batch) = load(&case, Compute::F32);
        let before = adapted.logits(&batch, adapted.first_adapter()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        resize(&case.adapter().unwrap(), RankChoice::Rank(7), folder.path()).unwrap();
        let resized =
            AdaptedModel::load(&case.model(), folder.path().to_str(), case.options(Compute::F32)).unwrap();
        let after = resized.logits(&batch, resized.first_adapter()).unwrap();
        let (off, scale) = difference(&after, &before);
        assert!(off <= 2e-5 * scale.max(1.0), "{name}: off by {off:e} of {scale}");
    }
}
