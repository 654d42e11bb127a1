//! What every adapter does, whatever the model and its configuration: one list of behaviours, run for each pair of both.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Case, difference};
use lowrank::adapter::{
    self, AdapterFile, Bias, Distribution, Init, LoraConfig, Plan, Targets, TokenIndices,
};
use lowrank::data::Batch;
use lowrank::nn::for_each_parameter;
use lowrank::tape::{AdapterId, Tape};
use lowrank::train::{
    AdamW, AdamWConfig, AdaptedModel, LoadOptions, Schedule, ScheduleKind, Trainer, read_batch,
};
use lowrank_kernels::Compute;
use lowrank_kernels::random::Philox;

const ADAPTER: AdapterId = AdapterId(0);
const OTHER: AdapterId = AdapterId(1);

/// A tiny model, with the names that its kind has for what is adapted.
struct Subject {
    /// The golden case whose model and batch it is.
    case: &'static str,
    attention: &'static [&'static str],
    norm: &'static str,
    embedding: &'static str,
    /// A table of which rows are trained.
    tokens: &'static str,
    convolution: &'static str,
    /// The parameters of a mixture.
    parameters: &'static [&'static str],
}

const SUBJECTS: [Subject; 11] = [
    Subject {
        case: "bert_query_value",
        attention: &["query", "value"],
        norm: "LayerNorm",
        embedding: "word_embeddings",
        tokens: "word_embeddings",
        convolution: "",
        parameters: &[],
    },
    Subject {
        case: "roberta_query_value",
        attention: &["query", "value"],
        norm: "LayerNorm",
        embedding: "position_embeddings",
        tokens: "position_embeddings",
        convolution: "",
        parameters: &[],
    },
    Subject {
        case: "distilbert_query_value",
        attention: &["q_lin", "v_lin"],
        norm: "sa_layer_norm",
        embedding: "word_embeddings",
        tokens: "word_embeddings",
        convolution: "",
        parameters: &[],
    },
    Subject {
        case: "vit_query_value",
        attention: &["q_proj", "v_proj"],
        norm: "layernorm",
        embedding: "",
        tokens: "",
        convolution: "projection",
        parameters: &[],
    },
    Subject {
        case: "flan_t5_query_value",
        attention: &["q", "v"],
        norm: "layer_norm",
        embedding: "embed_tokens",
        tokens: "",
        convolution: "",
        parameters: &[],
    },
    Subject {
        case: "gpt2_attention",
        attention: &["c_attn"],
        norm: "ln_f",
        embedding: "wpe",
        tokens: "wte",
        convolution: "",
        parameters: &[],
    },
    Subject {
        case: "llama_query_value",
        attention: &["q_proj", "v_proj"],
        norm: "norm",
        embedding: "embed_tokens",
        tokens: "embed_tokens",
        convolution: "",
        parameters: &[],
    },
    Subject {
        case: "qwen3_query_value",
        attention: &["q_proj", "v_proj"],
        norm: "norm",
        embedding: "embed_tokens",
        tokens: "embed_tokens",
        convolution: "",
        parameters: &[],
    },
    Subject {
        case: "mixtral_query_value",
        attention: &["q_proj", "v_proj"],
        norm: "norm",
        embedding: "embed_tokens",
        tokens: "embed_tokens",
        convolution: "",
        parameters: &["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "gate.weight"],
    },
    Subject {
        case: "qwen2_moe_query_value",
        attention: &["q_proj", "v_proj"],
        norm: "norm",
        embedding: "embed_tokens",
        tokens: "embed_tokens",
        convolution: "",
        parameters: &["experts.down_proj", "shared_expert.up_proj.weight", "k_proj.weight"],
    },
    Subject {
        case: "qwen3_moe_query_value",
        attention: &["q_proj", "v_proj"],
        norm: "norm",
        embedding: "embed_tokens",
        tokens: "embed_tokens",
        convolution: "",
        parameters: &["experts.gate_up_proj", "1.mlp.down_proj.weight"],
    },
];

/// How an adapter begins.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    /// With the base model's answers, to the bit.
    Base,
    /// With these but for rounding.
    Near,
    /// With others.
    Changed,
}

/// The configurations that a model is run with, each under its name.
fn configurations(subject: &Subject) -> Vec<(&'static str, LoraConfig, Start)> {
    let named = |names: &[&str]| Some(Targets::Names(names.iter().map(|name| (*name).to_owned()).collect()));
    let plain = LoraConfig {
        r: 2,
        lora_alpha: Some(3.0),
        target_modules: named(subject.attention),
        ..LoraConfig::default()
    };
    let last = subject.attention[subject.attention.len() - 1].to_owned();
    let init = |init_lora_weights: Init| LoraConfig { init_lora_weights, ..plain.clone() };
    let all_linear = LoraConfig { target_modules: Some(Targets::AllLinear), ..plain.clone() };
    // No pair on a parameter has a magnitude, and of a mixture `all-linear` means the experts, and a layer of one output.
    let of_modules = if subject.parameters.is_empty() { all_linear.clone() } else { plain.clone() };
    let normal = Distribution::Normal { mean: 0.1, deviation: 0.2 };
    let mut configurations = vec![
        ("plain", plain.clone(), Start::Base),
        ("all-linear", all_linear.clone(), Start::Base),
        ("rslora", LoraConfig { use_rslora: true, ..plain.clone() }, Start::Base),
        (
            "patterns",
            LoraConfig {
                rank_pattern: vec![(format!("1.*{last}"), 1), (last.clone(), 3)],
                alpha_pattern: vec![(last, 5.0)],
                use_rslora: true,
                ..plain.clone()
            },
            Start::Base,
        ),
        ("one layer", LoraConfig { layers_to_transform: Some(vec![1]), ..plain.clone() }, Start::Base),
        ("biases", LoraConfig { bias: Bias::All, ..plain.clone() }, Start::Base),
        ("lora_bias", LoraConfig { lora_bias: true, ..plain.clone() }, Start::Base),
        (
            "modules_to_save",
            LoraConfig { modules_to_save: vec![subject.norm.to_owned()], ..plain.clone() },
            Start::Base,
        ),
        ("gaussian", init(Init::Gaussian), Start::Base),
        ("random", init(Init::Random), Start::Changed),
        ("orthogonal", init(Init::Orthogonal), Start::Near),
        ("custom", init(Init::Custom { a: normal.clone(), b: normal }), Start::Changed),
        ("pissa", init(Init::Pissa { iterations: None }), Start::Near),
        (
            "pissa, fast, rslora",
            LoraConfig { use_rslora: true, ..init(Init::Pissa { iterations: Some(2) }) },
            Start::Near,
        ),
        ("olora", LoraConfig { init_lora_weights: Init::Olora, ..of_modules.clone() }, Start::Near),
        ("dora", LoraConfig { use_dora: true, ..plain.clone() }, Start::Near),
        ("dora, all-linear", LoraConfig { use_dora: true, use_rslora: true, ..of_modules }, Start::Near),
        ("dora, random", LoraConfig { use_dora: true, ..init(Init::Random) }, Start::Changed),
    ];
    if !subject.parameters.is_empty() {
        let target_parameters = subject.parameters.iter().map(|name| (*name).to_owned()).collect();
        let parameters = LoraConfig { target_parameters, ..plain.clone() };
        let of = |init_lora_weights: Init| LoraConfig { init_lora_weights, ..parameters.clone() };
        let alone = LoraConfig { target_modules: None, use_rslora: true, ..parameters.clone() };
        let rank_pattern = vec![(r"0\..*".to_owned(), 1), ("experts.*".to_owned(), 3)];
        let alpha_pattern = vec![(r".*\.1\..*".to_owned(), 5.0)];
        let patterns = LoraConfig { rank_pattern, alpha_pattern, ..parameters.clone() };
        configurations.extend([
            ("parameters", LoraConfig { bias: Bias::All, ..parameters.clone() }, Start::Base),
            ("parameters alone, rslora", alone, Start::Base),
            ("parameters, patterns", patterns, Start::Base),
            ("parameters, random", of(Init::Random), Start::Changed),
            ("parameters, gaussian", of(Init::Gaussian), Start::Base),
            ("parameters, pissa", of(Init::Pissa { iterations: None }), Start::Near),
            ("parameters, orthogonal", of(Init::Orthogonal), Start::Near),
        ]);
    }
    if !subject.convolution.is_empty() {
        let mut targets = vec![subject.convolution];
        targets.extend(subject.attention);
        let convolution = LoraConfig { target_modules: named(&targets), ..plain.clone() };
        let of = |init_lora_weights: Init| LoraConfig { init_lora_weights, ..convolution.clone() };
        configurations.extend([
            ("convolution", LoraConfig { bias: Bias::LoraOnly, ..convolution.clone() }, Start::Base),
            ("convolution, lora_bias", LoraConfig { lora_bias: true, ..convolution.clone() }, Start::Base),
            ("convolution, random", of(Init::Random), Start::Changed),
            ("convolution, pissa", of(Init::Pissa { iterations: None }), Start::Near),
            ("convolution, olora", of(Init::Olora), Start::Near),
            ("convolution, dora", LoraConfig { use_dora: true, ..convolution.clone() }, Start::Near),
        ]);
    }
    if !subject.embedding.is_empty() {
        let mut targets = vec![subject.embedding];
        targets.extend(subject.attention);
        let embedding = LoraConfig { target_modules: named(&targets), ..plain.clone() };
        configurations.push(("embedding", embedding.clone(), Start::Base));
        if !subject.tokens.is_empty() {
            let tables = vec![(subject.tokens.to_owned(), (0..20).rev().collect())];
            let trainable_token_indices = Some(TokenIndices::OfTables(tables));
            configurations.push((
                "tokens",
                LoraConfig { trainable_token_indices, ..plain.clone() },
                Start::Near,
            ));
        }
        let dora = LoraConfig { use_dora: true, ..embedding.clone() };
        configurations.push(("embedding, dora", dora, Start::Near));
        let init_lora_weights = Init::Pissa { iterations: None };
        configurations.push(("embedding, pissa", LoraConfig { init_lora_weights, ..embedding }, Start::Near));
    }
    configurations
}

/// One row of the table: a model and a configuration.
struct Row {
    name: String,
    config: LoraConfig,
    start: Start,
    adapted: AdaptedModel,
    batch: Batch,
    /// What the base model answers.
    base: Vec<f32>,
}

impl Row {
    fn new(case: &Case, name: &str, config: LoraConfig, start: Start) -> Self {
        let options = LoadOptions { compute: Some(Compute::F32), ..case.options(Compute::F32) };
        let adapted = AdaptedModel::load(&case.model(), None, options).unwrap();
        let batch = read_batch(&case.inputs(), adapted.model().info()).unwrap();
        let base = adapted.logits(&batch, None).unwrap();
        Self { name: format!("{} with {name}", case.name), config, start, adapted, batch, base }
    }

    fn answers(&self, adapter: Option<AdapterId>) -> Vec<f32> {
        self.adapted.logits(&self.batch, adapter).unwrap()
    }

    fn attach(&mut self, config: &LoraConfig, adapter: AdapterId) -> Plan {
        let info = self.adapted.model().info().clone();
        let name = &self.name;
        adapter::attach(self.adapted.model_mut(), &info, config, adapter, 9)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Moves all of an adapter off its start. No tensor of it is then zero.
    fn perturb(&mut self, adapter: AdapterId, seed: u64) {
        let random = &mut Philox::new(seed, 0);
        let name = &self.name;
        adapter::for_each_leaf_mut(self.adapted.model_mut(), adapter, |path, leaf| {
            leaf.value_mut().iter_mut().for_each(|value| *value += 0.1 * random.normal_f32());
            assert!(leaf.value().to_f32_vec().iter().all(|value| *value != 0.0), "{name}: {path}");
        });
    }

    /// The bytes of the base model's parameters.
    fn weights(&self) -> BTreeMap<String, Vec<u8>> {
        let mut weights = BTreeMap::new();
        for_each_parameter(self.adapted.model(), |path, parameter| {
            let bytes = parameter.base().map(|leaf| leaf.value().bytes().to_vec());
            weights.extend(bytes.map(|bytes| (path.to_owned(), bytes)));
        });
        weights
    }

    /// The adapter's tensors as a file has them: an expert without rows does not move, but the pair of all does.
    fn tensors(&mut self, plan: &Plan) -> BTreeMap<String, Vec<f32>> {
        let tensors = adapter::tensors(self.adapted.model_mut(), ADAPTER, plan);
        tensors.into_iter().map(|(key, tensor)| (key, tensor.to_f32_vec())).collect()
    }

    fn assert_near(&self, actual: &[f32], expected: &[f32], what: &str) {
        let (off, scale) = difference(actual, expected);
        assert!(off <= 2e-5 * scale.max(1.0), "{}: {what} is off by {off:e} of {scale}", self.name);
    }

    fn save(&mut self, plan: &Plan, config: &LoraConfig, folder: &Path) {
        let info = self.adapted.model().info().clone();
        let model = self.adapted.model_mut();
        adapter::save(model, &info, ADAPTER, plan, config, "someone/base", folder).unwrap();
    }

    fn load(&mut self, folder: &Path, adapter: AdapterId) -> (Plan, LoraConfig) {
        let info = self.adapted.model().info().clone();
        let file = AdapterFile::open(folder).unwrap();
        let name = &self.name;
        let plan = file
            .attach(self.adapted.model_mut(), &info, adapter)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let config = file.config_for(self.adapted.model(), &info).unwrap();
        (plan, config)
    }

    /// A fresh adapter answers as its initialisation says, and takes nothing from the base model.
    fn begins_as_it_should(&mut self) -> Plan {
        let plan = self.attach(&self.config.clone(), ADAPTER);
        let (answers, base) = (self.answers(Some(ADAPTER)), self.base.clone());
        match self.start {
            Start::Base => {
                assert_eq!(answers, base, "{}", self.name);
                assert!(adapter::changes_nothing(self.adapted.model(), ADAPTER), "{}", self.name);
            }
            Start::Near => self.assert_near(&answers, &base, "the start"),
            Start::Changed => assert!(difference(&answers, &base).0 > 1e-4, "{}", self.name),
        }
        assert_eq!(self.answers(None), base, "{}", self.name);
        plan
    }

    /// Training moves every tensor of the adapter, and not a bit of the base model.
    fn trains_the_adapter_alone(&mut self, plan: &Plan) {
        let (weights, before) = (self.weights(), self.tensors(plan));
        let (kind, base_learning_rate) = (ScheduleKind::Constant, 1e-2);
        let schedule = Schedule { kind, warmup_steps: 0, total_steps: 99, base_learning_rate };
        let mut trainer = Trainer::new(AdamW::new(AdamWConfig::default()), schedule, 6);
        for _ in 0..2 {
            let batches = [self.batch.clone()];
            trainer.step(&mut self.adapted, Some(ADAPTER), &batches).unwrap();
        }
        assert!(self.weights() == weights, "{}: the base model was changed", self.name);
        for (path, after) in self.tensors(plan) {
            assert_ne!(after, before[&path], "{}: {path}", self.name);
        }
        self.perturb(ADAPTER, 4);
        assert!(!adapter::changes_nothing(self.adapted.model(), ADAPTER), "{}", self.name);
        assert!(difference(&self.answers(Some(ADAPTER)), &self.base).0 > 1e-3, "{}", self.name);
    }

    /// Saved, loaded and saved again it has the same bytes, and answers as before.
    fn survives_a_save_and_a_load(&mut self, plan: &Plan) {
        let answers = self.answers(Some(ADAPTER));
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        self.save(plan, &self.config.clone(), folders[0].path());
        for pair in folders.windows(2) {
            adapter::detach(self.adapted.model_mut(), ADAPTER);
            let (plan, config) = self.load(pair[0].path(), ADAPTER);
            self.assert_near(&self.answers(Some(ADAPTER)), &answers, "what was saved");
            self.save(&plan, &config, pair[1].path());
        }
        for name in ["adapter_model.safetensors", "adapter_config.json"] {
            let [first, _, last] =
                folders.each_ref().map(|folder| std::fs::read(folder.path().join(name)).unwrap());
            assert!(first == last, "{}: {name}", self.name);
        }
    }

    /// Merged, it answers as it did beside the weights; unmerged, these have their bits back.
    fn merges_and_comes_out_again(&mut self) {
        let (answers, weights) = (self.answers(Some(ADAPTER)), self.weights());
        match adapter::merge(self.adapted.model_mut(), ADAPTER) {
            Ok(merged) => {
                self.assert_near(&self.answers(None), &answers, "the merged model");
                assert!(self.weights() != weights, "{}", self.name);
                merged.unmerge(self.adapted.model_mut()).unwrap();
            }
            Err(error) => {
                let reason = "has no bias that the adapter's own could be merged into";
                assert!(
                    self.config.lora_bias && error.to_string().contains(reason),
                    "{}: {error}",
                    self.name
                );
            }
        }
        assert!(self.weights() == weights, "{}", self.name);
        assert_eq!(self.answers(Some(ADAPTER)), answers, "{}", self.name);
        assert_eq!(self.answers(None), self.base, "{}", self.name);
    }

    /// Beside another adapter each answers as alone: switched, mixed in one batch, and after the other is gone.
    fn shares_the_base_with_another(&mut self) {
        let alone = self.answers(Some(ADAPTER));
        let folder = tempfile::tempdir().unwrap();
        let LoraConfig { target_modules, target_parameters, .. } = self.config.clone();
        let other = LoraConfig { r: 1, target_modules, target_parameters, ..LoraConfig::default() };
        self.attach(&other, OTHER);
        self.perturb(OTHER, 5);
        let of_other = self.answers(Some(OTHER));
        assert!(difference(&of_other, &alone).0 > 1e-4 && difference(&of_other, &self.base).0 > 1e-4);
        assert_eq!(self.answers(Some(ADAPTER)), alone, "{}", self.name);

        let order = [Some(ADAPTER), None, Some(OTHER), Some(ADAPTER)];
        let adapters: Vec<_> = order.into_iter().cycle().take(self.batch.sequences()).collect();
        let inference = || Tape::inference(Compute::F32);
        let mixed = self.adapted.forward_adapters(&mut inference(), &self.batch, &adapters, None).unwrap();
        let (values, width) = (mixed.value().to_f32_vec(), mixed.value().rows_and_width().1);
        for (sequence, adapter) in adapters.iter().enumerate() {
            let rows = mixed.layout().offsets()[sequence]..mixed.layout().offsets()[sequence + 1];
            let expected = match adapter {
                Some(ADAPTER) => &alone,
                Some(_) => &of_other,
                None => &self.base,
            };
            let part = |values: &[f32]| values[rows.start * width..rows.end * width].to_vec();
            self.assert_near(
                &part(&values),
                &part(expected),
                &format!("sequence {sequence} of a mixed batch"),
            );
        }

        let info = self.adapted.model().info().clone();
        let plan = adapter::plan(self.adapted.model(), &info, &other).unwrap();
        adapter::save(self.adapted.model_mut(), &info, OTHER, &plan, &other, "b", folder.path()).unwrap();
        adapter::detach(self.adapted.model_mut(), OTHER);
        assert_eq!(self.answers(Some(ADAPTER)), alone, "{}", self.name);
        assert_eq!(self.answers(Some(OTHER)), self.base, "{}: it is gone", self.name);
        self.load(folder.path(), OTHER);
        assert_eq!(self.answers(Some(OTHER)), of_other, "{}", self.name);
        adapter::detach(self.adapted.model_mut(), ADAPTER);
        assert_eq!(self.answers(Some(OTHER)), of_other, "{}", self.name);
        assert_eq!(self.answers(None), self.base, "{}", self.name);
    }
}

#[test]
fn every_adapter_on_every_model_behaves() {
    let mut rows = 0;
    for subject in &SUBJECTS {
        let case = Case::named(subject.case);
        for (name, config, start) in configurations(subject) {
            let mut row = Row::new(&case, name, config, start);
            let plan = row.begins_as_it_should();
            row.trains_the_adapter_alone(&plan);
            row.merges_and_comes_out_again();
            row.survives_a_save_and_a_load(&plan);
            row.shares_the_base_with_another();
            rows += 1;
        }
    }
    assert!(rows >= 220, "{rows} rows");
}
