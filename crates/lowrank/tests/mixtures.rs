//! Mixtures of experts: adapters on their parameters, under the names of Transformers 4 and 5, in files of several forms.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Case, difference, head_of, load};
use lowrank::Result;
use lowrank::adapter::{self, Adapted, AdapterFile, Init, LoraConfig, Plan, Targets};
use lowrank::data::{Batch, Labels};
use lowrank::hub::{Checkpoint, StoredDtype, TensorToWrite, write_safetensors};
use lowrank::models::{self, HeadSpec, LoadIn, Model};
use lowrank::nn::for_each_parameter;
use lowrank::tape::{AdapterId, Tape};
use lowrank::train::{
    AdaptedModel, LoadOptions, MergeOptions, QuantizeOptions, forward, merge, quantize, write_random_weights,
};
use lowrank_kernels::Compute;
use serde_json::{Value, json};

const ADAPTER: AdapterId = AdapterId(0);

fn model(name: &str) -> Box<dyn Model> {
    let config = models::read_config(&common::fixtures().join("models").join(name)).unwrap();
    models::from_config(&config, HeadSpec::new(head_of("causal-lm"), 0)).unwrap()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn on_modules(targets: &[&str]) -> LoraConfig {
    LoraConfig { r: 2, target_modules: Some(Targets::Names(names(targets))), ..LoraConfig::default() }
}

fn on_parameters(targets: &[&str]) -> LoraConfig {
    LoraConfig { r: 2, target_parameters: names(targets), ..LoraConfig::default() }
}

fn plan(model: &str, config: &LoraConfig) -> Plan {
    let model = self::model(model);
    adapter::plan(&*model, model.info(), config).unwrap()
}

#[track_caller]
fn refused(model: &str, config: &LoraConfig, parts: &[&str]) {
    let model = self::model(model);
    let error = adapter::plan(&*model, model.info(), config).unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error} says none of {parts:?}");
}

/// The base model's values.
fn weights(model: &dyn Model) -> BTreeMap<String, Vec<f32>> {
    let mut weights = BTreeMap::new();
    for_each_parameter(model, |path, parameter| {
        weights.extend(parameter.base().map(|leaf| (path.to_owned(), leaf.float().to_f32_vec())));
    });
    weights
}

fn config_of(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
}

fn answers(case: &Case, model: &str, adapter: Option<&str>, load_in: LoadIn) -> Vec<f32> {
    let (_, mut batch) = load(case, Compute::F32);
    batch.labels = Labels::None;
    let options = LoadOptions { load_in, ..case.options(Compute::F32) };
    let adapted = AdaptedModel::load(model, adapter, options).unwrap();
    adapted.logits(&batch, adapted.first_adapter()).unwrap()
}

#[test]
fn an_adapter_with_the_names_of_4_is_saved_under_those_of_5() {
    let case = Case::named("mixtral_names_of_4");
    let folder = case.adapter().unwrap();
    let (mut adapted, _) = load(&case, Compute::F32);
    let info = adapted.model().info().clone();
    let file = AdapterFile::open(folder.as_ref()).unwrap();
    let config = file.config_for(adapted.model(), &info).unwrap();
    let plan = adapted.adapters()[0].plan.clone();
    let out = tempfile::tempdir().unwrap();
    adapter::save(adapted.model_mut(), &info, ADAPTER, &plan, &config, "base", out.path()).unwrap();
    let saved = Checkpoint::open_adapter(out.path()).unwrap();
    assert!(saved.names().all(|key| !key.contains("block_sparse_moe")));
    let key = "base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight";
    assert_eq!(saved.get(key).unwrap().shape, [4 * 6, 24], "twice the rank, of four experts");
    let written = config_of(out.path());
    assert_eq!(written["target_modules"], json!(["v_proj"]));
    assert_eq!(written["target_parameters"], json!(["down_proj", "gate_up_proj"]));
    assert_eq!(written["rank_pattern"], json!({r".*\.gate_up_proj": 6}));
    assert_eq!(written["alpha_pattern"], json!({r".*\.gate_up_proj": 8}));
    let before = answers(&case, &case.model(), Some(&folder), LoadIn::Auto);
    assert_eq!(answers(&case, &case.model(), out.path().to_str(), LoadIn::Auto), before);

    // Gradients are under the keys of each file, and the same.
    let gradients = |folder: &Path| {
        let file = AdapterFile::open(folder).unwrap();
        let options = case.options(Compute::F32);
        let mut adapted = AdaptedModel::load(&case.model(), folder.to_str(), options).unwrap();
        let outputs = forward(&mut adapted, &case.inputs(), Some(ADAPTER), Some(&file)).unwrap();
        move |key: &str| outputs[&format!("grad.base_model.model.model.layers.1.{key}")].to_f32_vec()
    };
    let (of_4, of_5) = (gradients(folder.as_ref()), gradients(out.path()));
    let (stacked_a, stacked_b) =
        (of_5("mlp.experts.base_layer.lora_A.weight"), of_5("mlp.experts.base_layer.lora_B.weight"));
    for (expert, (at, name)) in (0..4).flat_map(|expert| [(expert, (0, "w1")), (expert, (1, "w3"))]) {
        let own = format!("block_sparse_moe.experts.{expert}.{name}");
        let rows = (expert * 6 + at * 3) * 24..(expert * 6 + at * 3 + 3) * 24;
        assert_eq!(of_4(&format!("{own}.lora_A.weight")), stacked_a[rows], "{own}");
        let b = of_4(&format!("{own}.lora_B.weight"));
        for (row, b) in b.chunks_exact(3).enumerate() {
            let wanted = (0..3).map(|k| stacked_b[(at * 20 + row) * 24 + (at * 3 + k) * 4 + expert]);
            assert_eq!(b, wanted.collect::<Vec<_>>(), "{own}");
        }
        assert!(b.iter().any(|value| *value != 0.0), "{own}");
    }
}

/// PEFT looks for the weight of a module that has none, were it told how the pair began.
#[test]
fn a_beginning_that_peft_has_not_for_parameters_is_not_written() {
    let case = Case::named("mixtral_query_value");
    for (init_lora_weights, written) in
        [(Init::Orthogonal, json!(true)), (Init::Gaussian, json!("gaussian")), (Init::Random, json!(false))]
    {
        let mut adapted = AdaptedModel::load(&case.model(), None, case.options(Compute::F32)).unwrap();
        let info = adapted.model().info().clone();
        let config = LoraConfig { init_lora_weights, ..on_parameters(&["experts.down_proj"]) };
        let plan = adapter::attach(adapted.model_mut(), &info, &config, ADAPTER, 3).unwrap();
        let out = tempfile::tempdir().unwrap();
        adapter::save(adapted.model_mut(), &info, ADAPTER, &plan, &config, "base", out.path()).unwrap();
        assert_eq!(config_of(out.path())["init_lora_weights"], written);
    }
}

#[test]
fn ranks_that_no_two_layers_share_are_refused() {
    let case = Case::named("mixtral_names_of_4");
    let folder = tempfile::tempdir().unwrap();
    let source = case.adapter().unwrap();
    let name = "adapter_model.safetensors";
    std::fs::copy(Path::new(&source).join(name), folder.path().join(name)).unwrap();
    let mut config = config_of(source.as_ref());
    config["rank_pattern"] = json!({"gate_up_proj": 3});
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    let loaded = AdaptedModel::load(&case.model(), folder.path().to_str(), case.options(Compute::F32));
    let error = loaded.err().unwrap().to_string();
    assert!(error.contains("experts.0.w1.lora_A.weight") && error.contains("that is 3"), "{error}");
}

/// What PEFT takes for other layers alone, the file shows to be the experts' too.
#[test]
fn an_adapter_of_4_on_the_experts_of_qwen2_binds_to_them_beside_the_shared_expert() {
    let case = Case::named("qwen2_moe_modules");
    let (old, source) = (tempfile::tempdir().unwrap(), case.adapter().unwrap());
    let file = Checkpoint::open_adapter(&source).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .names()
        .map(|key| {
            (key.to_owned(), file.get(key).unwrap().shape.to_vec(), file.get(key).unwrap().bytes.to_vec())
        })
        .collect();
    let mut random = (1..).map(|i| 0.2 * (i as f32 * 0.7).sin());
    let mut values =
        |count: usize| random.by_ref().take(count).flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    for layer in 0..2 {
        for expert in 0..5 {
            for (name, inputs, outputs) in [("gate_proj", 24, 18), ("up_proj", 24, 18), ("down_proj", 18, 24)]
            {
                let module = format!("base_model.model.model.layers.{layer}.mlp.experts.{expert}.{name}");
                tensors.push((format!("{module}.lora_A.weight"), vec![2, inputs], values(2 * inputs)));
                tensors.push((format!("{module}.lora_B.weight"), vec![outputs, 2], values(2 * outputs)));
            }
        }
    }
    let write = |tensors: &[(String, Vec<usize>, Vec<u8>)]| {
        let tensors: Vec<TensorToWrite<'_>> = tensors
            .iter()
            .map(|(name, shape, bytes)| TensorToWrite { name, dtype: StoredDtype::F32, shape, bytes })
            .collect();
        let path = old.path().join("adapter_model.safetensors");
        write_safetensors(path, &tensors, &[("format", "pt")]).unwrap();
    };
    write(&tensors);
    std::fs::copy(Path::new(&source).join("adapter_config.json"), old.path().join("adapter_config.json"))
        .unwrap();
    let alone = answers(&case, &case.model(), Some(&source), LoadIn::Auto);
    let with_experts = answers(&case, &case.model(), old.path().to_str(), LoadIn::Auto);
    assert!(difference(&with_experts, &alone).0 > 1e-3);

    // One that lacks an expert is no adapter of this model.
    tensors.retain(|(name, ..)| !name.contains("layers.1.mlp.experts.3.up_proj.lora_B"));
    write(&tensors);
    let options = case.options(Compute::F32);
    let loaded = AdaptedModel::load(&case.model(), old.path().to_str(), options);
    let error = loaded.err().unwrap().to_string();
    assert!(
        error.contains("layers.1.mlp.experts.3.up_proj.lora_B.weight") && error.contains("missing"),
        "{error}"
    );
}

#[test]
fn names_of_layers_of_experts_mean_their_stacks_where_they_do_in_peft() {
    let paths = |plan: &Plan| Adapted::paths(&plan.targets.linears).map(str::to_owned).collect::<Vec<_>>();
    let mixtral = plan("mixtral", &on_modules(&["w1", "w2", "w3"]));
    assert_eq!(mixtral.targets.linears.len(), 2 * 2 * 4);
    assert!(paths(&mixtral).iter().all(|path| path.contains(".mlp.experts.")));
    for layer in &mixtral.targets.linears {
        let is_double = layer.path.contains("gate_up");
        assert_eq!((layer.r, layer.scaling), (if is_double { 4 } else { 2 }, 4.0), "{}", layer.path);
    }
    // A pattern of one's own for both stacks leaves the one for two layers nothing to do.
    let own = LoraConfig { rank_pattern: vec![("experts.*".into(), 4)], ..on_modules(&["w1", "w2", "w3"]) };
    assert!(plan("mixtral", &own).targets.linears.iter().all(|layer| layer.r == 4));
    let unused = LoraConfig { rank_pattern: vec![("q_proj".into(), 4)], ..on_modules(&["w1", "w2", "w3"]) };
    refused("mixtral", &unused, &["rank_pattern", "\"q_proj\""]);
    // Of a pair of two, each scales as it would alone.
    let rslora = LoraConfig { use_rslora: true, ..on_modules(&["w1", "w2", "w3"]) };
    let scalings = plan("mixtral", &rslora).targets.linears.into_iter().map(|layer| layer.scaling);
    assert!(scalings.into_iter().all(|scaling| (scaling - 8.0 / 2f32.sqrt()).abs() < 1e-6));

    let qwen3 = plan("qwen3-moe", &on_modules(&["gate_proj", "up_proj", "down_proj"]));
    assert!(paths(&qwen3).iter().all(|path| path.contains(".mlp.experts.")), "layer 1 is dense");
    let qwen2 = plan("qwen2-moe", &on_modules(&["gate_proj", "up_proj", "down_proj"]));
    assert!(paths(&qwen2).iter().all(|path| path.contains(".shared_expert.")));
    let pattern = |pattern: &str| LoraConfig {
        r: 2,
        target_modules: Some(Targets::Pattern(pattern.into())),
        ..LoraConfig::default()
    };
    // As in Transformers 4, and meaning the layers that it matches.
    let first = pattern(r".*\.0\.block_sparse_moe\.experts\.3\.w2|.*1\..*[vq]_proj");
    let found = paths(&plan("mixtral", &first));
    let experts = (0..4).map(|number| format!("model.layers.0.mlp.experts.down_proj.{number}"));
    let attention = ["q", "v"].map(|name| format!("model.layers.1.self_attn.{name}_proj"));
    assert_eq!(found, experts.chain(attention).collect::<Vec<_>>());
    let all =
        plan("mixtral", &LoraConfig { target_modules: Some(Targets::AllLinear), ..LoraConfig::default() });
    assert!(paths(&all).iter().any(|path| path.ends_with("mlp.gate")), "its rank is beyond the four experts");
}

#[test]
fn a_pattern_is_saved_as_what_it_came_to_mean() {
    let case = Case::named("mixtral_query_value");
    let options = case.options(Compute::F32);
    let mut adapted = AdaptedModel::load(&case.model(), None, options).unwrap();
    let info = adapted.model().info().clone();
    let target_modules = Some(Targets::Pattern(r".*layers\.0\..*(w2|[qv]_proj)".into()));
    let config = LoraConfig { r: 2, target_modules, ..LoraConfig::default() };
    let plan = adapter::attach(adapted.model_mut(), &info, &config, ADAPTER, 3).unwrap();
    let out = tempfile::tempdir().unwrap();
    adapter::save(adapted.model_mut(), &info, ADAPTER, &plan, &config, "base", out.path()).unwrap();
    let written = config_of(out.path());
    let modules = ["q", "v"].map(|name| format!("model.layers.0.self_attn.{name}_proj"));
    assert_eq!(written["target_modules"], json!(modules), "PEFT would take a pattern for names");
    assert_eq!(written["target_parameters"], json!(["model.layers.0.mlp.experts.down_proj"]));
    let file = AdapterFile::open(out.path()).unwrap();
    assert_eq!(file.plan(adapted.model(), &info).unwrap(), plan);
}

#[test]
fn what_goes_with_no_pair_on_a_parameter_is_refused() {
    let experts = || on_parameters(&["experts.gate_up_proj"]);
    refused(
        "mixtral",
        &LoraConfig { lora_dropout: 0.1, ..experts() },
        &["lora_dropout", "target_parameters"],
    );
    refused("mixtral", &LoraConfig { use_dora: true, ..experts() }, &["use_dora", "target_parameters"]);
    refused("mixtral", &LoraConfig { lora_bias: true, ..experts() }, &["lora_bias", "target_parameters"]);
    for init_lora_weights in [Init::Eva, Init::Loftq] {
        refused(
            "mixtral",
            &LoraConfig { init_lora_weights, ..experts() },
            &["init_lora_weights", "parameter"],
        );
    }
    let all = LoraConfig { lora_dropout: 0.1, ..on_modules(&["w1", "w2", "w3"]) };
    refused("mixtral", &all, &["lora_dropout", "experts"]);
    let layers = LoraConfig { layers_to_transform: Some(vec![0]), ..experts() };
    refused(
        "mixtral",
        &layers,
        &["layers_to_transform", "experts.gate_up_proj", "layers.0.mlp.experts.down_proj"],
    );
    let with_layers = LoraConfig {
        layers_to_transform: Some(vec![0]),
        target_modules: Some(Targets::Names(names(&["q_proj"]))),
        ..on_parameters(&["layers.0.mlp.experts.gate_up_proj"])
    };
    assert_eq!(plan("mixtral", &with_layers).targets.linears.len(), 5);
    // The names of Transformers 4 say which layers are meant.
    let of_4 = LoraConfig { layers_to_transform: Some(vec![1]), ..on_modules(&["w1", "w2", "w3", "q_proj"]) };
    let found = plan("mixtral", &of_4);
    assert_eq!(found.targets.linears.len(), 2 * 4 + 1);
    assert!(Adapted::paths(&found.targets.linears).all(|path| path.starts_with("model.layers.1.")));
    let experts_alone = LoraConfig { layers_to_transform: Some(vec![1]), ..on_modules(&["w2"]) };
    assert_eq!(plan("mixtral", &experts_alone).targets.linears.len(), 4);
    let excluded = LoraConfig {
        exclude_modules: Some(Targets::Names(names(&["down_proj"]))),
        ..on_modules(&["q_proj", "down_proj"])
    };
    refused("qwen3-moe", &excluded, &["exclude_modules", "mlp.experts.down_proj"]);
    let excluded = LoraConfig { exclude_modules: Some(Targets::Names(names(&["experts"]))), ..experts() };
    refused("mixtral", &excluded, &["exclude_modules", "experts"]);
    let twice = LoraConfig {
        target_modules: Some(Targets::Names(names(&["q_proj"]))),
        ..on_parameters(&["q_proj.weight"])
    };
    refused("mixtral", &twice, &["target_parameters", "q_proj", "target_modules means"]);
    let saved = LoraConfig { modules_to_save: names(&["experts"]), ..on_modules(&["q_proj"]) };
    refused("mixtral", &saved, &["modules_to_save", "target_parameters"]);
    let saved = LoraConfig { modules_to_save: names(&["gate"]), ..on_parameters(&["gate.weight"]) };
    refused("mixtral", &saved, &["target_parameters", "trained whole"]);
}

#[test]
fn names_that_mean_no_parameter_are_refused_with_what_would() {
    refused("mixtral", &on_parameters(&["experts.gate_up"]), &["target parameter", "experts.gate_up_proj"]);
    refused(
        "mixtral",
        &on_parameters(&["embed_tokens.weight"]),
        &["target_modules", "model.embed_tokens.weight"],
    );
    refused("mixtral", &on_parameters(&["norm.weight"]), &["model.norm.weight"]);
    refused("mixtral", &on_parameters(&["weight"]), &["\"weight\" means model.embed_tokens.weight"]);
    let saved = LoraConfig { modules_to_save: names(&["w1"]), ..on_modules(&["q_proj"]) };
    let model = self::model("mixtral");
    let error = adapter::plan(&*model, model.info(), &saved).unwrap_err().to_string();
    assert!(!error.contains("did you mean 0") && !error.contains("did you mean 1"), "{error}");
    refused("mixtral", &on_modules(&["gate_up_proj"]), &["no module, but a parameter", "target_parameters"]);
    refused("mixtral", &on_modules(&["experts"]), &["experts.gate_up_proj, experts.down_proj"]);
    refused("qwen2-moe", &on_modules(&["gate"]), &["target_parameters: gate.weight"]);
    refused("mixtral", &on_modules(&["w1", "w2"]), &["\"w1\" goes only with \"w3\"", "gate_up_proj"]);
    let beyond = LoraConfig { r: 25, ..on_parameters(&["experts.down_proj"]) };
    refused("mixtral", &beyond, &["r:", "beyond", "which is 24 by 20"]);
}

#[test]
fn a_mixture_in_8_bits_merges_into_a_checkpoint_of_transformers() {
    for (name, key, own) in [
        ("mixtral_experts", "model.layers.0.block_sparse_moe.experts.3.w3.weight", [20, 24]),
        ("qwen3_moe_joined", "model.layers.0.mlp.experts.4.down_proj.weight", [24, 16]),
    ] {
        let case = Case::named(name);
        let adapter = case.adapter().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (eight, out) = (folder.path().join("int8"), folder.path().join("merged"));
        let report = quantize(&QuantizeOptions { model: &case.model(), out: &eight, check: true }).unwrap();
        let worst = report.weights.iter().filter_map(|weight| weight.relative_error).fold(0.0, f64::max);
        assert!(worst > 1e-4 && worst < 1e-2, "{name}: {worst}");
        let of_file = answers(&case, eight.to_str().unwrap(), Some(&adapter), LoadIn::Auto);
        let in_memory = answers(&case, &case.model(), Some(&adapter), LoadIn::Int8);
        assert_eq!(of_file, in_memory, "{name}");

        let adapters = [adapter];
        let options =
            MergeOptions { model: eight.to_str().unwrap(), adapters: &adapters, out: &out, dequantize: true };
        merge(&options).unwrap();
        let checkpoint = Checkpoint::open(&out).unwrap();
        assert_eq!(checkpoint.get(key).unwrap().shape, own, "{name}");
        assert!(checkpoint.names().all(|key| checkpoint.get(key).unwrap().dtype != StoredDtype::I8));
        let stacks = |key: &str| key.contains("gate_up_proj") || key.contains("experts.down_proj");
        assert!(!checkpoint.names().any(stacks), "{name}");
        // The answers may be others: a row whose experts are nearly equal goes to others after rounding.
        let options = |load_in| LoadOptions { load_in, ..case.options(Compute::F32) };
        let mut beside =
            AdaptedModel::load(eight.to_str().unwrap(), Some(&adapters[0]), options(LoadIn::Auto)).unwrap();
        adapter::merge(beside.model_mut(), ADAPTER).unwrap();
        let merged = AdaptedModel::load(out.to_str().unwrap(), None, options(LoadIn::Mapped)).unwrap();
        let (wanted, found) = (weights(beside.model()), weights(merged.model()));
        assert_eq!(wanted.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
        for (path, wanted) in wanted {
            for (wanted, found) in wanted.iter().zip(&found[&path]) {
                assert!(
                    (wanted - found).abs() <= 2f32.powi(-8) * wanted.abs(),
                    "{name}: {path}: {wanted} {found}"
                );
            }
        }
    }
}

#[test]
fn a_pass_that_repeats_the_choices_of_another_sends_rows_to_the_same_experts() {
    let case = Case::named("qwen3_moe_query_value");
    let (adapted, mut batch) = load(&case, Compute::F32);
    batch.labels = Labels::None;
    let mut noting = Tape::inference(Compute::F32).noting_choices();
    fn forward<'m>(tape: &mut Tape<'m>, adapted: &'m AdaptedModel, batch: &Batch) -> Result<Vec<f32>> {
        adapted.forward(tape, batch, Some(ADAPTER)).map(|logits| logits.value().to_f32_vec())
    }
    let wanted = forward(&mut noting, &adapted, &batch).unwrap();
    let choices = noting.into_choices();
    assert_eq!(choices.len(), 2, "one of three layers is dense");
    let repeat = |choices: &[_], adapted: &AdaptedModel| {
        forward(&mut Tape::inference(Compute::F32).repeating_choices(choices), adapted, &batch)
    };
    assert_eq!(repeat(&choices, &adapted).unwrap(), wanted);
    let options = LoadOptions { load_in: LoadIn::Int8, ..case.options(Compute::F32) };
    let eight = AdaptedModel::load(&case.model(), case.adapter().as_deref(), options).unwrap();
    let off = |found: &[f32]| difference(found, &wanted).0;
    let free = forward(&mut Tape::inference(Compute::F32), &eight, &batch);
    let (free, repeated) = (off(&free.unwrap()), off(&repeat(&choices, &eight).unwrap()));
    assert!(repeated < 0.1 && repeated <= free, "{repeated} where {free} is without");
    let mut reversed = choices.clone();
    reversed[1] = choices[1].iter().rev().copied().collect();
    assert!(off(&repeat(&reversed, &adapted).unwrap()) > 0.0);
    assert!(repeat(&choices[..1], &adapted).unwrap_err().to_string().contains("choices of experts"));
}

/// As Transformers saves them.
#[test]
fn a_mixture_is_written_with_the_tensors_of_transformers() {
    for name in ["mixtral", "qwen2-moe", "qwen3-moe"] {
        let folder = tempfile::tempdir().unwrap();
        let theirs = common::fixtures().join("models").join(name);
        std::fs::copy(theirs.join("config.json"), folder.path().join("config.json")).unwrap();
        write_random_weights(folder.path(), HeadSpec::new(head_of("causal-lm"), 0), 5).unwrap();
        let shapes = |folder: &Path| -> Vec<(String, Vec<usize>)> {
            let file = Checkpoint::open(folder).unwrap();
            file.names().map(|key| (key.to_owned(), file.get(key).unwrap().shape.to_vec())).collect()
        };
        assert_eq!(shapes(folder.path()), shapes(&theirs), "{name}");
        let adapted = AdaptedModel::load(folder.path().to_str().unwrap(), None, LoadOptions::default());
        adapted.unwrap();
    }
}
