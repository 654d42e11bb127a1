//! Text written token for token as Transformers writes it.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::Case;
use lowrank::generate::{Author, EarlyStopping, GenerationSettings, generate};
use lowrank::models::Head;
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
        shown[text].push(token);
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
