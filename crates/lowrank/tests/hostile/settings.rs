//! Configurations of fresh adapters.

use lowrank::adapter::{self, Init, LoraConfig, Plan, Targets, TokenIndices};
use lowrank::tape::AdapterId;
use lowrank_kernels::Compute;

use crate::assert_refused;
use crate::common::{bert_config, random_batch, random_model};

fn names(names: &[&str]) -> Option<Targets> {
    Some(Targets::Names(names.iter().map(|name| (*name).to_owned()).collect()))
}

/// Refused from shapes alone and by `attach`, which leaves the model as it was.
fn refused(config: LoraConfig, parts: &[&str]) {
    let mut adapted = random_model(&bert_config(1), 2, Compute::F32);
    let batch = random_batch(&[4, 7], 84, 2);
    let info = adapted.model().info().clone();
    let base = adapted.logits(&batch, None).unwrap();
    assert_refused(adapter::plan(adapted.model(), &info, &config), parts);
    assert_refused(adapter::attach(adapted.model_mut(), &info, &config, AdapterId(0), 1), parts);
    assert_eq!(adapted.logits(&batch, Some(AdapterId(0))).unwrap(), base);
}

#[test]
fn a_rank_of_0_or_beyond_the_layer() {
    let of = |r| LoraConfig { r, ..LoraConfig::default() };
    refused(of(0), &["r: ", "at least 1"]);
    refused(of(34), &["r: 34 is beyond bert.encoder.layer.0.attention.self.query", "33 by 33"]);
    refused(of(1 << 16), &["is beyond"]);
    refused(of(usize::MAX), &["r: ", "a rank is at most 65536"]);
    let r = 33;
    let whole = LoraConfig { r, target_modules: names(&["intermediate.dense"]), ..LoraConfig::default() };
    let model = random_model(&bert_config(1), 2, Compute::F32);
    adapter::plan(model.model(), model.model().info(), &whole).unwrap();
}

#[test]
fn targets_that_mean_nothing() {
    let of = |target_modules| LoraConfig { target_modules, ..LoraConfig::default() };
    refused(of(names(&["query", "valeu"])), &["valeu", "did you mean", "value"]);
    refused(of(names(&["attention.self.kye"])), &["attention.self.kye"]);
    refused(of(names(&[])), &["target_modules"]);
    refused(of(names(&["embeddings"])), &["bert.embeddings,", "no linear layer and no embedding"]);
    refused(of(names(&["classifier"])), &["target_modules", "modules_to_save"]);
    refused(
        of(Some(Targets::Pattern("query".into()))),
        &["in full", "bert.encoder.layer.0.attention.self.query"],
    );
    refused(of(Some(Targets::Pattern("que(ry".into()))), &["target_modules", "no regular expression"]);
    let everything =
        LoraConfig { exclude_modules: Some(Targets::Pattern(".*".into())), ..LoraConfig::default() };
    refused(everything, &["exclude_modules"]);
    let unknown = LoraConfig { modules_to_save: vec!["clasifier".into()], ..LoraConfig::default() };
    refused(unknown, &["clasifier", "did you mean", "classifier"]);
}

/// PEFT matches every module, those without parameters too, and fails at the first that it cannot adapt.
#[test]
fn targets_that_are_more_than_linear_layers() {
    let of = |target_modules| LoraConfig { target_modules, ..LoraConfig::default() };
    let pattern = |pattern: &str| of(Some(Targets::Pattern(pattern.into())));
    refused(
        pattern(r".*layer\.0\..*"),
        &[
            "bert.encoder.layer.0.attention,",
            "no linear layer",
            r"for example .*layer\.0\..*(query|key|value|dense)",
        ],
    );
    for (given, matched) in [
        (".*self.*", "bert.encoder.layer.0.attention.self,"),
        (".*Norm", "bert.embeddings.LayerNorm,"),
        (".*dropout|.*query", "bert.embeddings.dropout,"),
        (".*(query|dropout)", "bert.embeddings.dropout,"),
        ("dropout|.*query", "matches dropout,"),
        (r".*intermediate\..*", "bert.encoder.layer.0.intermediate.intermediate_act_fn,"),
        (r".*pooler\..*", "bert.pooler.activation,"),
        (r".*layer\.0|.*query", "bert.encoder.layer.0,"),
    ] {
        refused(pattern(given), &["target_modules", matched, "no linear layer"]);
    }
    refused(of(names(&["query", "dropout"])), &["bert.embeddings.dropout,", "no linear layer"]);
    refused(of(names(&["query", "LayerNorm"])), &["bert.embeddings.LayerNorm,", "no linear layer"]);
    refused(
        of(names(&["attention"])),
        &["bert.encoder.layer.0.attention,", "name the layers inside: query, key, value, dense"],
    );
}

#[test]
fn exclusions_that_mean_nothing() {
    let of = |exclude_modules| LoraConfig { exclude_modules, ..LoraConfig::default() };
    refused(of(names(&["key", "querry"])), &["module to exclude", "querry", "did you mean query?"]);
    refused(of(names(&["layer.3"])), &["module to exclude", "layer.3", "layer.0"]);
    refused(
        of(Some(Targets::Pattern(r".*layer\.3\..*".into()))),
        &["exclude_modules", "matches no module in full", "bert"],
    );
}

/// A pattern whose matching has no end is not taken for one that does not match.
#[test]
fn a_pattern_that_takes_too_long() {
    let endless = || Some(Targets::Pattern(r"(?:(?=.)[A-Za-z0-9._]+)*!".into()));
    let parts = ["cannot be matched with", "bert"];
    refused(LoraConfig { target_modules: endless(), ..LoraConfig::default() }, &["target_modules", parts[0]]);
    refused(
        LoraConfig { exclude_modules: endless(), ..LoraConfig::default() },
        &["exclude_modules", parts[0]],
    );
}

/// As in PEFT, what is excluded or saved whole may be matched.
#[test]
fn targets_beside_what_is_excluded_or_saved() {
    let model = random_model(&bert_config(1), 2, Compute::F32);
    let plan = |config: &LoraConfig| adapter::plan(model.model(), model.model().info(), config).unwrap();
    let paths = |plan: Plan| plan.targets.paths().map(str::to_owned).collect::<Vec<_>>();
    let mut config = LoraConfig {
        target_modules: Some(Targets::Pattern(r".*layer\.0\.attention\..*".into())),
        exclude_modules: names(&["self", "output", "LayerNorm", "dropout"]),
        ..LoraConfig::default()
    };
    let linears = ["self.query", "self.key", "self.value", "output.dense"];
    let linears = linears.map(|name| format!("bert.encoder.layer.0.attention.{name}"));
    assert_eq!(paths(plan(&config)), linears);
    config.exclude_modules = names(&["self", "dropout"]);
    config.modules_to_save = vec!["attention.output".into()];
    assert_eq!(paths(plan(&config)), linears[..3]);
    config.target_modules = names(&["query", "classifier", "dropout"]);
    assert_eq!(paths(plan(&config)), linears[..1], "the head is saved");
}

#[test]
fn patterns_and_numbers_of_layers_that_mean_nothing() {
    let ranks = |patterns: &[(&str, usize)]| LoraConfig {
        rank_pattern: patterns.iter().map(|(pattern, r)| ((*pattern).to_owned(), *r)).collect(),
        ..LoraConfig::default()
    };
    refused(ranks(&[("query", 0)]), &["rank_pattern", "\"query\"", "at least 1"]);
    refused(
        ranks(&[("query", 2), ("key", 3)]),
        &["rank_pattern", "\"key\"", "means no layer that is adapted"],
    );
    refused(ranks(&[("query", 2), ("self.query", 3)]), &["\"self.query\"", "an earlier pattern"]);
    refused(ranks(&[("value", 34)]), &["rank_pattern", "34 is beyond", "value"]);
    refused(ranks(&[("que(ry", 2)]), &["rank_pattern", "no regular expression"]);
    let alphas =
        |alpha: f64| LoraConfig { alpha_pattern: vec![("query".to_owned(), alpha)], ..LoraConfig::default() };
    refused(alphas(f64::NAN), &["alpha_pattern", "\"query\" is NaN"]);
    let layers = |numbers: &[usize], lists: &[&str], target_modules| LoraConfig {
        layers_to_transform: Some(numbers.to_vec()),
        layers_pattern: lists.iter().map(|&name| name.to_owned()).collect(),
        target_modules,
        ..LoraConfig::default()
    };
    refused(layers(&[0, 3], &[], None), &["layers_to_transform", "layer 3", "0 to 0"]);
    refused(layers(&[0], &["block"], None), &["layers_to_transform", "no", "numbered layer"]);
    let pattern = Some(Targets::Pattern(".*query".into()));
    refused(layers(&[0], &[], pattern), &["layers_to_transform", "a list of target_modules"]);
    refused(layers(&[], &["layer"], None), &["layers_pattern", "absent"]);
}

#[test]
fn beginnings_that_do_not_go_with_a_rank_or_a_bias() {
    let init_lora_weights = Init::Orthogonal;
    let odd = LoraConfig { r: 3, init_lora_weights, ..LoraConfig::default() };
    refused(odd, &["init_lora_weights", "even ranks", "query has 3"]);
    let init_lora_weights = Init::Gaussian;
    refused(LoraConfig { lora_bias: true, init_lora_weights, ..LoraConfig::default() }, &["lora_bias"]);
    let embeddings = names(&["word_embeddings"]);
    let biased = LoraConfig { lora_bias: true, target_modules: embeddings, ..LoraConfig::default() };
    refused(biased, &["lora_bias", "word_embeddings is an embedding"]);
}

#[test]
fn tokens_that_are_not_there_or_are_trained_otherwise() {
    let tokens = |indices: &[u32], config: LoraConfig| LoraConfig {
        trainable_token_indices: Some(TokenIndices::OfInput(indices.to_vec())),
        ..config
    };
    let key = "trainable_token_indices";
    refused(tokens(&[3, 1_000_000], LoraConfig::default()), &[key, "1000000", "word_embeddings", "entries"]);
    refused(tokens(&[3, 4, 3], LoraConfig::default()), &[key, "3 is there twice"]);
    let of_table = |name: &str| LoraConfig {
        trainable_token_indices: Some(TokenIndices::OfTables(vec![(name.to_owned(), vec![1])])),
        ..LoraConfig::default()
    };
    refused(
        of_table("embed_tokens"),
        &[key, "no table \"embed_tokens\"", "word_embeddings, position_embeddings"],
    );
    let target_modules = names(&["query", "word_embeddings"]);
    refused(tokens(&[3], LoraConfig { target_modules, ..LoraConfig::default() }), &[key, "target_modules"]);
    let modules_to_save = vec!["word_embeddings".to_owned()];
    refused(tokens(&[3], LoraConfig { modules_to_save, ..LoraConfig::default() }), &[key, "modules_to_save"]);

    let config = lowrank::models::read_config(&crate::common::fixtures().join("models/flan-t5")).unwrap();
    let head = lowrank::models::HeadSpec::new(lowrank::models::Head::Seq2SeqLm, 2);
    let model = lowrank::models::from_config(&config, head).unwrap();
    let error = lowrank::adapter::plan(&*model, model.info(), &tokens(&[3], LoraConfig::default()));
    let text = error.unwrap_err().to_string();
    assert!(text.contains(key) && text.contains("head is its own"), "{text}");
}

#[test]
fn numbers_out_of_range() {
    for lora_alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refused(LoraConfig { lora_alpha: Some(lora_alpha), ..LoraConfig::default() }, &["lora_alpha"]);
    }
    for lora_dropout in [1.0, -0.1, f32::NAN] {
        refused(LoraConfig { lora_dropout, ..LoraConfig::default() }, &["lora_dropout"]);
    }
}
