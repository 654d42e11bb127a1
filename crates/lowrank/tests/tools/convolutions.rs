//! Pairs on convolutions, whose factors have more than two dimensions.

use std::path::Path;

use lowrank::adapter::tools::{
    CombineOptions, MajoritySign, RankChoice, combine, diff, inspect, resize, validate,
};
use lowrank::analysis::MatrixFile;
use lowrank::hub::Checkpoint;
use lowrank::train::AdaptedModel;
use lowrank_kernels::Compute;

use crate::common::{Case, difference, fixtures, load};
use crate::{assert_same, products};

const LAYER: &str = "vit.embeddings.patch_embeddings.projection";

fn shapes(folder: &Path) -> [Vec<usize>; 2] {
    let file = Checkpoint::open_adapter(folder).unwrap();
    ["A", "B"].map(|part| {
        let key = format!("base_model.model.{LAYER}.lora_{part}.weight");
        file.get(&key).unwrap().shape.to_vec()
    })
}

fn answers(case: &Case, folder: &Path) -> Vec<f32> {
    let (_, mut batch) = load(case, Compute::F32);
    batch.labels = lowrank::data::Labels::None;
    let adapted = AdaptedModel::load(&case.model(), folder.to_str(), case.options(Compute::F32)).unwrap();
    adapted.logits(&batch, adapted.first_adapter()).unwrap()
}

#[test]
fn a_pair_of_a_convolution_is_valid_and_looked_at_as_a_matrix() {
    for name in ["vit_projection", "vit_projection_dora", "vit_projection_lora_bias"] {
        let adapter = Case::named(name).adapter().unwrap();
        assert!(validate(&adapter).is_valid(), "{}", validate(&adapter));
        let inspection = inspect(&adapter).unwrap();
        let layer = inspection.layers.iter().find(|layer| layer.name == LAYER).unwrap();
        assert_eq!((layer.shape, layer.rank), ([30, 48], layer.r), "{name}");
        let file = MatrixFile::open(adapter.as_ref()).unwrap();
        assert!(file.names().all(|name| !name.contains("magnitude")), "a magnitude is a vector");
        assert!(diff(&adapter, &adapter).unwrap().is_same_function(), "{name}");
    }
}

#[test]
fn a_resized_pair_of_a_convolution_has_its_dimensions_and_answers_as_before() {
    let case = Case::named("vit_projection");
    let before = case.adapter().unwrap();
    for (r, is_same) in [(7, true), (2, false)] {
        let out = tempfile::tempdir().unwrap();
        resize(&before, RankChoice::Rank(r), out.path()).unwrap();
        assert_eq!(shapes(out.path()), [vec![r, 3, 4, 4], vec![30, r, 1, 1]]);
        let (off, scale) = difference(&answers(&case, out.path()), &answers(&case, before.as_ref()));
        assert_eq!(off <= 2e-5 * scale, is_same, "{off:e} of {scale}");
        assert!(validate(out.path().to_str().unwrap()).is_valid());
    }
}

#[test]
fn combined_pairs_of_convolutions_are_the_sum_of_their_products() {
    let case = Case::named("vit_projection");
    let folder = tempfile::tempdir().unwrap();
    let (small, out) = (folder.path().join("small"), folder.path().join("out"));
    resize(&case.adapter().unwrap(), RankChoice::Rank(2), &small).unwrap();
    let adapters = [(case.adapter().unwrap(), 0.75), (small.to_str().unwrap().to_owned(), -0.5)];
    combine(&CombineOptions {
        adapters: &adapters,
        method: "cat".parse().unwrap(),
        density: None,
        rank: None,
        majority_sign: MajoritySign::Total,
        seed: 7,
        out: &out,
    })
    .unwrap();
    let (first, second) = (products(case.adapter().unwrap().as_ref()), products(&small));
    assert_same(&products(&out), &crate::sum(&[(0.75, &first), (-0.5, &second)]), "cat");
    assert_eq!(shapes(&out), [vec![6, 3, 4, 4], vec![30, 6, 1, 1]]);
    assert!(answers(&case, &out).iter().all(|value| value.is_finite()), "it loads");
}

#[test]
fn a_pair_of_a_convolution_in_groups_is_refused_by_its_name() {
    let adapter = fixtures().join("convolutions/conv1d_every_setting/adapter");
    let adapter = adapter.to_str().unwrap();
    let out = tempfile::tempdir().unwrap();
    let errors = [
        inspect(adapter).unwrap_err().to_string(),
        resize(adapter, RankChoice::Rank(2), out.path()).unwrap_err().to_string(),
        validate(adapter).findings.join("\n"),
    ];
    for error in errors {
        assert!(error.contains("conv.lora_B.weight") && error.contains("in 2 groups"), "{error}");
    }
}
