//! Adapters out of models that were trained whole.

use std::path::Path;

use lowrank::adapter::Targets;
use lowrank::adapter::tools::{MadeReport, RankChoice, validate};
use lowrank::hub::{Checkpoint, Tensors, to_tensor, write_tensors};
use lowrank::train::{AdaptedModel, ExtractOptions, LoadOptions, MergeOptions, extract, merge};
use lowrank::{Error, Result};
use lowrank_kernels::Compute;

use crate::common::{Case, bert_config, difference, load, random_batch, write_model};

fn extracted(
    base: &str,
    tuned: &Path,
    choice: RankChoice,
    targets: Option<&str>,
    out: &Path,
) -> Result<MadeReport> {
    let target_modules = targets.map(Targets::from_words);
    extract(&ExtractOptions {
        base,
        tuned: tuned.to_str().unwrap(),
        choice,
        target_modules,
        target_parameters: &[],
        out,
    })
}

#[test]
fn an_adapter_that_was_merged_comes_out_again() {
    for name in ["bert_query_value", "gpt2_attention", "mistral_query_value", "vit_query_value"] {
        let case = Case::named(name);
        let folder = tempfile::tempdir().unwrap();
        let (tuned, out) = (folder.path().join("tuned"), folder.path().join("out"));
        let adapters = [case.adapter().unwrap()];
        merge(&MergeOptions { model: &case.model(), adapters: &adapters, out: &tuned, dequantize: false })
            .unwrap();
        let report = extracted(&case.model(), &tuned, RankChoice::Rank(8), None, &out).unwrap();
        assert!(report.relative_error < 1e-4, "{name}: {report}");
        assert!(!report.notes.iter().any(|note| note.contains("not in the adapter")), "{name}: {report}");
        let validation = validate(out.to_str().unwrap());
        assert!(validation.is_valid(), "{name}: {validation}");
        let (adapted, batch) = load(&case, Compute::F32);
        let before = adapted.logits(&batch, adapted.first_adapter()).unwrap();
        let again = AdaptedModel::load(&case.model(), out.to_str(), case.options(Compute::F32)).unwrap();
        let after = again.logits(&batch, again.first_adapter()).unwrap();
        let (off, scale) = difference(&after, &before);
        assert!(off <= 1e-4 * scale.max(1.0), "{name}: off by {off:e} of {scale}");
    }
}

/// A model folder, and another of which the tensors whose names hold one of `parts` have other values.
fn trained(folder: &Path, parts: &[&str]) -> (String, std::path::PathBuf) {
    let (base, tuned) = (folder.join("base"), folder.join("tuned"));
    let mut config = bert_config(2);
    config["num_labels"] = 3.into();
    write_model(&base, &config, 3);
    std::fs::create_dir(&tuned).unwrap();
    std::fs::copy(base.join("config.json"), tuned.join("config.json")).unwrap();
    let checkpoint = Checkpoint::open(&base).unwrap();
    let mut tensors: Tensors = checkpoint
        .names()
        .map(|name| (name.to_owned(), to_tensor(name, &checkpoint.get(name).unwrap()).unwrap()))
        .collect();
    for (name, tensor) in tensors.iter_mut().filter(|(name, _)| parts.iter().any(|part| name.contains(part)))
    {
        let values = tensor.make_mut::<f32>().iter_mut().enumerate();
        // Of full rank, and of another sign in each tensor.
        values.for_each(|(index, value)| *value += 0.05 * ((index * 7 + name.len()) as f32).sin());
    }
    write_tensors(&tuned.join("model.safetensors"), &tensors).unwrap();
    (base.to_string_lossy().into_owned(), tuned)
}

#[test]
fn norms_embeddings_biases_and_heads_that_changed_are_written_whole() {
    let changed = ["self.query", "LayerNorm", "word_embeddings", "output.dense.bias", "classifier", "pooler"];
    let folder = tempfile::tempdir().unwrap();
    let (base, tuned) = trained(folder.path(), &changed);
    let out = folder.path().join("out");
    let report = extracted(&base, &tuned, RankChoice::Energy(1.0), None, &out).unwrap();
    assert!(
        report
            .layers
            .iter()
            .map(|layer| layer.name.as_str())
            .all(|name| name.ends_with("query") || name.contains("pooler"))
    );
    assert!(report.notes.is_empty() && report.relative_error < 1e-5, "{report}");
    let options =
        || LoadOptions { compute: Some(Compute::F32), num_labels: Some(3), ..LoadOptions::default() };
    let batch = random_batch(&[4, 9], 84, 3);
    let wanted =
        AdaptedModel::load(tuned.to_str().unwrap(), None, options()).unwrap().logits(&batch, None).unwrap();
    let adapted = AdaptedModel::load(&base, out.to_str(), options()).unwrap();
    let (off, scale) = difference(&adapted.logits(&batch, adapted.first_adapter()).unwrap(), &wanted);
    assert!(off <= 1e-4 * scale.max(1.0), "off by {off:e} of {scale}");
    let (plain, _) = difference(&adapted.logits(&batch, None).unwrap(), &wanted);
    assert!(plain > 1e-2, "the two models differ by {plain}");
}

#[test]
fn what_is_lost_is_named_and_so_is_how_much_of_a_layer() {
    let folder = tempfile::tempdir().unwrap();
    let (base, tuned) = trained(folder.path(), &["self.query.weight", "self.key.weight"]);
    let out = folder.path().join("out");
    let report = extracted(&base, &tuned, RankChoice::Rank(1), Some("query"), &out).unwrap();
    assert!(
        report.notes.len() == 1 && report.notes[0].contains("layer.1.attention.self.key.weight"),
        "{report}"
    );
    assert!(report.layers.iter().all(|layer| layer.r == 1 && layer.relative_error > 0.01), "{report}");

    let refused = |result: Result<MadeReport>| result.map_err(|error: Error| error.to_string()).unwrap_err();
    let none = folder.path().join("none");
    let error = refused(extracted(&base, base.as_ref(), RankChoice::Rank(1), None, &none));
    assert!(error.contains("nothing to extract"), "{error}");
    let gpt2 = Case::named("gpt2_attention").model();
    let error = refused(extracted(&gpt2, &tuned, RankChoice::Rank(1), None, &none));
    assert!(error.contains("it must be the one that was trained"), "{error}");
    assert!(!none.exists());
}
