//! Text written token for token as Transformers writes it.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::Case;
use lowrank::generate::{Author, EarlyStopping, GenerationSettings, generate};
use lowrank::models::Head;
use lowrank::nn::for_each_parameter_mut;
use lowrank::tape::Leaf;
use lowrank::tensor::Tensor;
use lowrank::train::{AdaptedModel, LoadOptions};
use lowrank_kernels::Compute;
use serde_json::Value;

/// A file of the public data beside the repository: `../shared`, or wherever `LOWRANK_SHARED` says.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path = std::env::var_os("LOWRANK_SHARED").map_or_else(beside, PathBuf::from).join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("LOWRANK_REQUIRE_SHARED").is_none(), "there is no {}", path.display());
    eprintln!("skipped: there is no {}", path.display());
    None
}

fn ids(value: &Value) -> Vec<u32> {
    match value {
        Value::Array(items) => items.iter().map(|id| id.as_u64().unwrap() as u32).collect(),
        one => vec![one.as_u64().unwrap() as u32],
    }
}

fn settings(whole: &Value, run: &Value) -> GenerationSettings {
    GenerationSettings {
        max_new_tokens: whole["max_new_tokens"].as_u64().unwrap() as usize,
        num_beams: run["num_beams"].as_u64().unwrap() as usize,
        length_penalty: run["length_penalty"].as_f64().unwrap_or(1.0) as f32,
        early_stopping: match &run["early_stopping"] {
            Value::Bool(true) => EarlyStopping::WhenFull,
            Value::String(_) => EarlyStopping::Never,
            _ => EarlyStopping::Heuristic,
        },
        eos_token_ids: ids(&whole["eos_token_id"]),
        ..GenerationSettings::default()
    }
}

#[test]
fn greedy_and_beam_search_write_the_tokens_of_transformers() {
    let (mut cases, mut runs, mut failures) = (0, 0, Vec::new());
    for case in Case::all() {
        let Ok(text) = std::fs::read_to_string(case.folder.join("generation.json")) else { continue };
        cases += 1;
        let whole: Value = serde_json::from_str(&text).unwrap();
        let prompts: Vec<Vec<u32>> = whole["prompts"].as_array().unwrap().iter().map(ids).collect();
        let adapter = case.adapter();
        let adapted =
            AdaptedModel::load(&case.model(), adapter.as_deref(), case.options(Compute::F32)).unwrap();
        for run in whole["runs"].as_array().unwrap() {
            runs += 1;
            let adapter = (run["model"] == "adapter").then(|| adapted.first_adapter().unwrap());
            let author = Author { model: adapted.model(), compute: Compute::F32, adapter };
            let settings = settings(&whole, run);
            let expected: Vec<Vec<u32>> = run["outputs"].as_array().unwrap().iter().map(ids).collect();
            let together = generate(author, &prompts, &settings, &mut |_, _| true).unwrap();
            let alone: Vec<Vec<u32>> = prompts
                .iter()
                .map(|prompt| {
                    let prompt = std::slice::from_ref(prompt);
                    generate(author, prompt, &settings, &mut |_, _| true).unwrap().remove(0)
                })
                .collect();
            for (what, written) in [("together", together), ("alone", alone)] {
                if written != expected {
                    failures.push(format!(
                        "{} {what}, {:?}\n  wrote {written:?}\n  not   {expected:?}",
                        case.name, settings
                    ));
                }
            }
        }
    }
    assert!(cases >= 8 && runs >= 36, "the cases are there: {cases}, {runs}");
    assert!(failures.is_empty(), "{} of {runs} fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn what_is_shown_while_it_is_written_is_what_is_written_and_ends_where_the_watcher_says() {
    let case = Case::named("llama_query_value");
    let (adapted, _) = common::load(&case, Compute::F32);
    let author = Author { model: adapted.model(), compute: Compute::F32, adapter: adapted.first_adapter() };
    let prompts = [vec![5, 9, 7], vec![11]];
    let settings = GenerationSettings { max_new_tokens: 6, ..GenerationSettings::default() };
    let mut shown = vec![Vec::new(); 2];
    let written = generate(author, &prompts, &settings, &mut |text, token| {
        shown[text].extend(token);
        text == 1 || shown[text].len() < 3
    })
    .unwrap();
    assert_eq!(shown, written);
    assert_eq!((written[0].len(), written[1].len()), (3, 6));
}

#[test]
fn a_seed_gives_the_same_text_alone_and_beside_others_and_another_seed_another() {
    let case = Case::named("gpt2_attention");
    let (adapted, _) = common::load(&case, Compute::F32);
    let author = Author { model: adapted.model(), compute: Compute::F32, adapter: None };
    let settings =
        GenerationSettings { temperature: 1.0, max_new_tokens: 10, ..GenerationSettings::default() };
    let write = |prompts: &[Vec<u32>], settings: &GenerationSettings| {
        generate(author, prompts, settings, &mut |_, _| true).unwrap()
    };
    let first = write(&[vec![5, 9, 7]], &settings).remove(0);
    assert_eq!(write(&[vec![5, 9, 7], vec![8]], &settings)[0], first);
    assert_ne!(write(&[vec![5, 9, 7]], &GenerationSettings { seed: 43, ..settings })[0], first);
}

#[test]
fn a_prompt_without_room_for_an_answer_is_refused() {
    let case = Case::named("gpt2_attention");
    let (adapted, _) = common::load(&case, Compute::F32);
    let author = Author { model: adapted.model(), compute: Compute::F32, adapter: None };
    let positions = adapted.model().info().max_length;
    let settings = GenerationSettings { max_new_tokens: 9, ..GenerationSettings::default() };
    let error = generate(author, &[vec![5; positions]], &settings, &mut |_, _| true).unwrap_err();
    assert!(error.to_string().contains("positions"), "{error}");
    // One position is left: the token on it leads to one more that is read no further.
    let written = generate(author, &[vec![5; positions - 1]], &settings, &mut |_, _| true).unwrap();
    assert!((1..=2).contains(&written[0].len()), "{}", written[0].len());
}

#[test]
fn a_model_without_a_table_of_positions_writes_on_beyond_the_length_that_it_was_made_for() {
    let case = Case::named("llama_query_value");
    let (adapted, _) = common::load(&case, Compute::F32);
    let author = Author { model: adapted.model(), compute: Compute::F32, adapter: None };
    let made_for = adapted.model().info().max_length;
    let settings = GenerationSettings { max_new_tokens: 5, ..GenerationSettings::default() };
    for (length, num_beams) in [(made_for - 2, 1), (made_for + 3, 1), (made_for - 2, 2)] {
        let settings = GenerationSettings { num_beams, ..settings.clone() };
        let written = generate(author, &[vec![5; length]], &settings, &mut |_, _| true).unwrap();
        assert_eq!(written[0].len(), 5, "{length} tokens, {num_beams} beams");
    }
}

#[test]
fn logits_that_are_not_finite_are_an_error_that_names_the_token() {
    let (mut adapted, _) = common::load(&Case::named("llama_query_value"), Compute::F32);
    for_each_parameter_mut(adapted.model_mut(), |path, parameter| {
        if path == "model.norm.weight" {
            let nan = Tensor::from_slice(parameter.shape(), &vec![f32::NAN; parameter.shape().elements()]);
            parameter.set_base(Leaf::frozen(nan)).unwrap();
        }
    });
    let author = Author { model: adapted.model(), compute: Compute::F32, adapter: None };
    for (num_beams, temperature) in [(1, 0.0), (1, 1.0), (3, 0.0)] {
        let settings = GenerationSettings { num_beams, temperature, ..GenerationSettings::default() };
        let error = generate(author, &[vec![5, 6]], &settings, &mut |_, _| true).unwrap_err().to_string();
        assert!(error.starts_with("step 1: the output of lm_head is not finite"), "{error}");
    }
}

#[test]
fn beam_search_ends_where_the_watcher_says_with_the_best_so_far() {
    let (adapted, _) = common::load(&Case::named("llama_query_value"), Compute::F32);
    let author = Author { model: adapted.model(), compute: Compute::F32, adapter: None };
    let settings = GenerationSettings { max_new_tokens: 30, num_beams: 3, ..GenerationSettings::default() };
    let mut steps = 0;
    let mut watch = |_, token: Option<u32>| {
        steps += 1;
        token.is_none() && steps < 4
    };
    let written = generate(author, &[vec![5, 9, 7], vec![11]], &settings, &mut watch).unwrap();
    assert_eq!(steps, 4);
    assert!(written.iter().all(|text| text.len() == 4), "{written:?}");
}

/// Real weights: a Llama of 260,032 parameters with grouped-query attention and tied embeddings.
#[test]
fn real_weights_tell_their_reference_story() {
    let Some(folder) = shared("data/weights/stories260K") else { return };
    let text = std::fs::read_to_string(folder.join("reference.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let expected = ids(&reference["greedy_from_bos_ids"]);
    let load =
        LoadOptions { compute: Some(Compute::F32), head: Some(Head::CausalLm), ..LoadOptions::default() };
    let adapted = AdaptedModel::load(&folder.to_string_lossy(), None, load).unwrap();
    let author = Author { model: adapted.model(), compute: Compute::F32, adapter: None };
    let settings = GenerationSettings {
        max_new_tokens: expected.len() - 1,
        eos_token_ids: vec![2],
        ..GenerationSettings::default()
    };
    let written = generate(author, &[vec![1]], &settings, &mut |_, _| true).unwrap();
    assert_eq!(written[0], expected[1..]);
    let text = adapted.tokenizer().unwrap().decode(&expected, true).unwrap();
    assert_eq!(text, reference["text"].as_str().unwrap());
}
