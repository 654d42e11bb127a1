//! What must hold of every model and adapter: ragged batches, several adapters, dropout, what is recorded.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Case, alone, attach_perturbed, bert_config, difference, load, random_batch, random_model};
use lowrank::adapter::{self, AdapterFile, Init, LoraConfig, Targets};
use lowrank::data::Batch;
use lowrank::nn::{for_each_parameter, for_each_trained_mut};
use lowrank::tape::{AdapterId, Gradients, Tape, Var};
use lowrank::train::{
    AdamW, AdamWConfig, AdaptedModel, LoadOptions, Schedule, ScheduleKind, Trainer, forward, loss, read_batch,
};
use lowrank_kernels::Compute;

/// Near enough for f32 that only the order of some sums differs.
fn assert_near(actual: &[f32], expected: &[f32], what: &str) {
    let (off, scale) = difference(actual, expected);
    assert!(off <= 2e-6 * scale.max(1.0), "{what}: off by {off:e}");
}

fn run<'m>(adapted: &'m AdaptedModel, tape: &mut Tape<'m>, batch: &Batch) -> Vec<f32> {
    adapted.forward(tape, batch, adapted.first_adapter()).unwrap().value().to_f32_vec()
}

#[test]
fn a_sequence_answers_in_a_batch_as_it_does_alone() {
    for name in ["bert_pair", "bert_target_list", "roberta_longest", "roberta_pad_inside", "roberta_bias_all"]
    {
        let (adapted, batch) = load(&Case::named(name), Compute::F32);
        let together = adapted.logits(&batch, Some(AdapterId(0))).unwrap();
        let each = (0..batch.sequences())
            .flat_map(|sequence| adapted.logits(&alone(&batch, sequence), Some(AdapterId(0))).unwrap());
        assert_near(&each.collect::<Vec<_>>(), &together, name);
    }
}

/// Masks are keyed by the example, so this holds with dropout on.
#[test]
fn a_sequence_answers_in_a_batch_as_it_does_alone_while_training() {
    let (adapted, batch) = load(&Case::named("bert_query_value"), Compute::F32);
    let tape = || Tape::training(Compute::F32, 3, 8);
    let together = run(&adapted, &mut tape(), &batch);
    let each = (0..batch.sequences()).flat_map(|s| run(&adapted, &mut tape(), &alone(&batch, s)));
    assert_near(&each.collect::<Vec<_>>(), &together, "training");
    assert_ne!(together, run(&adapted, &mut Tape::training(Compute::F32, 3, 9), &batch), "another step");
    assert_ne!(together, run(&adapted, &mut Tape::training(Compute::F32, 4, 8), &batch), "another seed");
}

#[test]
fn dropout_is_off_in_evaluation_and_on_in_training() {
    for compute in [Compute::F32, Compute::Bf16] {
        let (adapted, batch) = load(&Case::named("bert_query_value"), compute);
        let answers = run(&adapted, &mut Tape::inference(compute), &batch);
        assert_eq!(run(&adapted, &mut Tape::evaluation(compute), &batch), answers);
        assert_ne!(run(&adapted, &mut Tape::training(compute, 1, 1), &batch), answers);
    }
}

#[test]
fn a_batch_of_several_adapters_answers_as_each_alone() {
    let case = Case::named("bert_switch_a");
    let (mut adapted, batch) = load(&case, Compute::F32);
    let other = adapted.attach(&Case::named("bert_switch_b").adapter().unwrap()).unwrap();
    let adapters = [Some(other), None, Some(AdapterId(0)), Some(other)];
    let tape = &mut Tape::inference(Compute::F32);
    let mixed = adapted.forward_adapters(tape, &batch, &adapters, None).unwrap().value().to_f32_vec();
    let each: Vec<f32> = (adapters.into_iter().enumerate())
        .flat_map(|(sequence, adapter)| adapted.logits(&alone(&batch, sequence), adapter).unwrap())
        .collect();
    assert_near(&mixed, &each, "mixed");
    let under = |adapter| adapted.logits(&alone(&batch, 0), adapter).unwrap();
    let (first, second, base) = (under(Some(AdapterId(0))), under(Some(other)), under(None));
    assert!(first != second && first != base && second != base, "the adapters differ");
}

/// A training run puts its adapter on the model itself; the classifier must neither reuse its id nor look it up.
#[test]
fn an_adapter_that_the_classifier_does_not_know_is_left_alone() {
    let (case, other) = (Case::named("bert_query_value"), Case::named("bert_switch_b"));
    let options = LoadOptions { compute: Some(Compute::F32), ..LoadOptions::default() };
    let mut adapted = AdaptedModel::load(&case.model(), None, options).unwrap();
    let info = adapted.model().info().clone();
    let file = AdapterFile::open(case.adapter().unwrap().as_ref()).unwrap();
    file.attach(adapted.model_mut(), &info, AdapterId(0)).unwrap();
    let batch = read_batch(&case.inputs(), &info).unwrap();
    let answers = adapted.logits(&batch, Some(AdapterId(0))).unwrap();
    assert_eq!(adapted.first_adapter(), None);
    let error = forward(&mut adapted, &case.inputs(), Some(AdapterId(0)), Some(&file)).unwrap_err();
    assert!(error.to_string().contains("does not know it"), "{error}");
    let id = adapted.attach(&other.adapter().unwrap()).unwrap();
    assert_eq!((id, adapted.first_adapter()), (AdapterId(1), Some(id)));
    assert_eq!(adapted.logits(&batch, Some(AdapterId(0))).unwrap(), answers);
    let file = AdapterFile::open(other.adapter().unwrap().as_ref()).unwrap();
    let outputs = forward(&mut adapted, &case.inputs(), Some(id), Some(&file)).unwrap();
    assert!(outputs.keys().any(|name| name.starts_with("grad.")));
}

#[test]
fn an_adapter_in_the_place_of_another_leaves_nothing_of_it() {
    let (wide, narrow) = (Case::named("bert_save_everything"), Case::named("bert_switch_b"));
    let (mut adapted, batch) = load(&narrow, Compute::F32);
    let expected = adapted.logits(&batch, Some(AdapterId(0))).unwrap();
    let info = adapted.model().info().clone();
    let file = |case: &Case| AdapterFile::open(case.adapter().unwrap().as_ref()).unwrap();
    let count = |adapted: &mut AdaptedModel| {
        let mut count = 0;
        adapter::for_each_leaf_mut(adapted.model_mut(), AdapterId(0), |_, _| count += 1);
        count
    };
    let leaves = count(&mut adapted);
    for under_it in [&wide, &narrow] {
        file(under_it).attach(adapted.model_mut(), &info, AdapterId(0)).unwrap();
        file(&narrow).attach(adapted.model_mut(), &info, AdapterId(0)).unwrap();
        assert_eq!(adapted.logits(&batch, Some(AdapterId(0))).unwrap(), expected);
        assert_eq!(count(&mut adapted), leaves);
    }
    file(&wide).attach(adapted.model_mut(), &info, AdapterId(0)).unwrap();
    let config =
        LoraConfig { target_modules: file(&narrow).config().target_modules.clone(), ..LoraConfig::default() };
    adapter::attach(adapted.model_mut(), &info, &config, AdapterId(0), 1).unwrap();
    assert_eq!(count(&mut adapted), leaves, "the same layers and the head");
}

#[test]
fn an_adapter_that_is_taken_off_leaves_the_base_as_it_was() {
    for name in ["bert_save_everything", "bert_all_linear", "roberta_bias_all"] {
        let (mut adapted, batch) = load(&Case::named(name), Compute::F32);
        let base = adapted.logits(&batch, None).unwrap();
        assert_ne!(adapted.logits(&batch, Some(AdapterId(0))).unwrap(), base);
        adapter::detach(adapted.model_mut(), AdapterId(0));
        assert_eq!(adapted.logits(&batch, Some(AdapterId(0))).unwrap(), base, "{name}");
    }
}

/// A model with a fresh adapter on every linear layer, the adapter's configuration, and a batch.
fn begun(init_lora_weights: Init, r: usize) -> (AdaptedModel, LoraConfig, Batch) {
    let mut adapted = random_model(&bert_config(2), 3, Compute::F32);
    let target_modules = Some(Targets::AllLinear);
    let config = LoraConfig { r, target_modules, init_lora_weights, ..LoraConfig::default() };
    let info = adapted.model().info().clone();
    adapter::attach(adapted.model_mut(), &info, &config, AdapterId(0), 1).unwrap();
    (adapted, config, random_batch(&[7, 1, 12], 84, 3))
}

#[test]
fn a_fresh_adapter_answers_as_the_base() {
    for init in [Init::Default, Init::Gaussian] {
        let (mut adapted, config, batch) = begun(init, 8);
        let base = adapted.logits(&batch, None).unwrap();
        adapter::for_each_leaf_mut(adapted.model_mut(), AdapterId(0), |name, leaf| {
            let zero = leaf.value().to_f32_vec().iter().all(|value| *value == 0.0);
            assert_eq!(zero, name.contains("lora_B") || name == "classifier.bias", "{name}");
        });
        assert_eq!(adapted.logits(&batch, Some(AdapterId(0))).unwrap(), base);
        attach_perturbed(&mut adapted, &config);
        assert_ne!(adapted.logits(&batch, Some(AdapterId(0))).unwrap(), base);
    }
}

#[test]
fn an_adapter_that_changes_nothing_is_told_of_when_it_is_loaded() {
    let case = Case::named("bert_dora");
    let options = || case.options(Compute::F32);
    for use_dora in [false, true] {
        let mut adapted = AdaptedModel::load(&case.model(), None, options()).unwrap();
        let config = LoraConfig { use_dora, ..LoraConfig::default() };
        let info = adapted.model().info().clone();
        let plan = adapter::attach(adapted.model_mut(), &info, &config, AdapterId(0), 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        adapter::save(adapted.model_mut(), &info, AdapterId(0), &plan, &config, "base", folder.path())
            .unwrap();
        let notes = AdaptedModel::load(&case.model(), Some(path), options()).unwrap().notes();
        assert!(
            notes.iter().any(|note| note.contains(path) && note.contains("changes nothing")),
            "{notes:?}"
        );
    }
    let trained = AdaptedModel::load(&case.model(), case.adapter().as_deref(), options()).unwrap();
    assert!(trained.notes().is_empty(), "{:?}", trained.notes());
}

/// `B·A` of an orthogonal start is zero, and neither factor; a random start changes the answers at once.
#[test]
fn starts_of_which_neither_factor_is_zero() {
    for init in [Init::Orthogonal, Init::Random] {
        let changes = matches!(init, Init::Random);
        let (mut adapted, _, batch) = begun(init, 6);
        let base = adapted.logits(&batch, None).unwrap();
        adapter::for_each_leaf_mut(adapted.model_mut(), AdapterId(0), |name, leaf| {
            let values = leaf.value().to_f32_vec();
            assert!(!name.contains("lora_") || values.iter().all(|value| *value != 0.0), "{name}");
        });
        let answers = adapted.logits(&batch, Some(AdapterId(0))).unwrap();
        let off = answers.iter().zip(&base).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(if changes { off > 1e-3 } else { off < 1e-5 }, "{off:e}");
    }
}

/// The loss of a training step, its tape not yet run backward.
fn train_pass<'m>(adapted: &'m AdaptedModel, batch: &Batch) -> (Tape<'m>, Var) {
    let mut tape = Tape::training(adapted.compute(), 2, 0);
    let logits = adapted.forward(&mut tape, batch, Some(AdapterId(0))).unwrap();
    let loss = loss(&mut tape, &logits, &batch.labels, batch.sequences() as f32).unwrap();
    (tape, loss)
}

#[test]
fn frozen_tensors_get_no_gradient_and_trained_ones_do() {
    let mut adapted = random_model(&bert_config(3), 2, Compute::F32);
    let names = ["query", "output.dense"].map(str::to_owned).to_vec();
    let config = LoraConfig { r: 3, target_modules: Some(Targets::Names(names)), ..LoraConfig::default() };
    attach_perturbed(&mut adapted, &config);
    let (tape, loss) = train_pass(&adapted, &random_batch(&[5, 9], 84, 2));
    let mut gradients = Gradients::new();
    tape.backward(&loss, &mut gradients).unwrap();
    for_each_parameter(adapted.model(), |path, parameter| {
        assert!(gradients.get(parameter.base().unwrap()).is_none(), "{path} is frozen");
    });
    let mut trained = 0;
    for_each_trained_mut(adapted.model_mut(), |name, leaf| {
        let gradient = gradients.get(leaf).unwrap_or_else(|| panic!("{name} has no gradient"));
        assert!(gradient.iter().any(|value| *value != 0.0), "{name}");
        trained += 1;
    });
    assert_eq!(trained, 3 * 3 * 2 + 2, "three pairs a layer, and the head");
}

#[test]
fn nothing_below_the_lowest_trained_tensor_is_recorded() {
    let recorded = |layers: usize, pattern: &str| {
        let mut adapted = random_model(&bert_config(layers), 2, Compute::F32);
        let target_modules = Some(Targets::Pattern(pattern.to_owned()));
        attach_perturbed(&mut adapted, &LoraConfig { r: 2, target_modules, ..LoraConfig::default() });
        train_pass(&adapted, &random_batch(&[5, 9], 84, 2)).0.recorded()
    };
    let last_of_two = recorded(2, ".*layer.1.*query");
    assert_eq!(recorded(5, ".*layer.4.*query"), last_of_two, "the layers below cost nothing");
    assert!(recorded(2, ".*layer.1.*intermediate.dense") < last_of_two, "nor does the attention below");
    assert!(recorded(2, ".*layer.0.*query") > last_of_two);
    let adapted = random_model(&bert_config(2), 2, Compute::F32);
    assert_eq!(train_pass(&adapted, &random_batch(&[5, 9], 84, 2)).0.recorded(), 0, "nothing is trained");
}

/// Three steps of training, and the answers after them.
fn train(compute: Compute, threads: usize) -> (Vec<f64>, Vec<f32>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut config = bert_config(2);
        config["hidden_size"] = 93.into();
        config["intermediate_size"] = 311.into();
        let mut adapted = random_model(&config, 3, compute);
        let target_modules = Some(Targets::AllLinear);
        let config = LoraConfig { r: 5, target_modules, lora_dropout: 0.2, ..LoraConfig::default() };
        attach_perturbed(&mut adapted, &config);
        let batch = random_batch(&[61, 3, 47, 70, 33, 1, 68, 52, 29, 64, 17, 70, 41], 84, 3);
        let schedule = Schedule {
            kind: ScheduleKind::Constant,
            warmup_steps: 0,
            total_steps: 9,
            base_learning_rate: 1e-2,
        };
        let mut trainer = Trainer::new(AdamW::new(AdamWConfig::default()), schedule, 6);
        let batches = [batch];
        let steps = (0..3).map(|_| trainer.step(&mut adapted, Some(AdapterId(0)), &batches).unwrap());
        let numbers = steps.flat_map(|step| [step.loss, step.grad_norm]).collect();
        (numbers, adapted.logits(&batches[0], Some(AdapterId(0))).unwrap())
    })
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for compute in [Compute::F32, Compute::Bf16] {
        let one = train(compute, 1);
        assert_ne!(one.0[0], one.0[4], "the loss moves");
        for threads in [2, 3] {
            assert_eq!(train(compute, threads), one, "{threads} threads in {compute:?}");
        }
    }
}

/// Each brings the ranks and scalings of its own layers, and leaves none behind.
#[test]
fn adapters_with_ranks_of_single_layers_take_each_others_place() {
    let cases = ["bert_rank_pattern", "bert_rslora_pattern", "bert_switch_a"].map(Case::named);
    let (mut adapted, batch) = load(&cases[0], Compute::F32);
    let info = adapted.model().info().clone();
    let expected = cases.each_ref().map(|case| {
        let (alone, _) = load(case, Compute::F32);
        alone.logits(&batch, Some(AdapterId(0))).unwrap()
    });
    assert!(expected[0] != expected[1] && expected[1] != expected[2]);
    for at in [1, 0, 2, 1, 2, 0] {
        let file = AdapterFile::open(cases[at].adapter().unwrap().as_ref()).unwrap();
        file.attach(adapted.model_mut(), &info, AdapterId(0)).unwrap();
        assert_eq!(adapted.logits(&batch, Some(AdapterId(0))).unwrap(), expected[at], "{}", cases[at].name);
    }
}

/// What is merged goes on under the other, which is as it was once that is undone.
#[test]
fn merging_one_of_two_adapters_keeps_the_other() {
    let (a, b) = (Case::named("bert_switch_a"), Case::named("bert_switch_b"));
    let (mut adapted, batch) = load(&a, Compute::F32);
    let other = adapted.attach(&b.adapter().unwrap()).unwrap();
    let of_b = adapted.logits(&batch, Some(other)).unwrap();
    let base = adapted.logits(&batch, None).unwrap();
    let merged = adapter::merge(adapted.model_mut(), AdapterId(0)).unwrap();
    assert!(adapter::is_attached(adapted.model(), other), "the other is still there");
    // It now adds to what is merged: the answers are of both, and no more those of either.
    let both = adapted.logits(&batch, Some(other)).unwrap();
    let of_a = adapted.logits(&batch, None).unwrap();
    assert!(both != of_a && both != of_b);
    merged.unmerge(adapted.model_mut()).unwrap();
    assert_eq!(adapted.logits(&batch, Some(other)).unwrap(), of_b);
    assert_eq!(adapted.logits(&batch, None).unwrap(), base);
}
