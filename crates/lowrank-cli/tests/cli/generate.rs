//! `lowrank generate`.

use std::io::Write;
use std::process::Stdio;

use super::language::workshop;
use super::workshop::{Ran, Workshop};

/// Runs the binary with this on its standard input.
fn with_input(workshop: &Workshop, arguments: &[&str], input: &str) -> Ran {
    let mut command = workshop.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Ran::from(child.wait_with_output().unwrap())
}

const WRITE: [&str; 5] = ["generate", "--model", "writer", "--max-new-tokens", "8"];

fn write(workshop: &Workshop, more: &[&str]) -> String {
    workshop.succeed(&[&WRITE[..], more].concat()).stdout
}

#[test]
fn a_prompt_is_gone_on_from_and_the_result_has_its_speed() {
    for model in ["llama", "t5", "gpt2"] {
        let workshop = workshop(model, "text");
        let text = write(&workshop, &["--prompt", "red sky w3"]);
        assert!(text.ends_with('\n') && !text.trim().is_empty(), "{model}: {text:?}");
        let ran = workshop.succeed(&[&WRITE[..], &["--prompt", "red sky w3", "--json"]].concat());
        assert_eq!(ran.stdout.lines().count(), 1);
        let json = ran.json();
        assert_eq!(json["text"].as_str().unwrap(), text.trim_end_matches('\n'), "{model}");
        assert!(json["tokens"].as_u64().unwrap() <= 8 && json["tokens_per_second"].as_f64().unwrap() > 0.0);
        let ran = with_input(&workshop, &[&WRITE[..], &["--prompt", "-"]].concat(), "red sky w3\n");
        assert_eq!(ran.stdout, text, "{model}");
        let beams = write(&workshop, &["--prompt", "red sky w3", "--beams", "3"]);
        assert!(!beams.trim().is_empty());
    }
}

#[test]
fn a_seed_decides_what_is_sampled_and_a_stop_word_ends_it() {
    let workshop = workshop("llama", "text");
    let sampled = |seed: &str| {
        write(&workshop, &["--prompt", "red", "--temperature", "1.5", "--top-p", "0.9", "--seed", seed])
    };
    assert_eq!(sampled("1"), sampled("1"));
    assert!((2..6).any(|seed| sampled(&seed.to_string()) != sampled("1")));
    let text = write(&workshop, &["--prompt", "red"]);
    let words: Vec<&str> = text.split_whitespace().collect();
    let stop = words[1];
    let cut = write(&workshop, &["--prompt", "red", "--stop", "nowhere", "--stop", stop]);
    assert_eq!(cut.trim_end_matches('\n'), &text[..text.find(stop).unwrap()]);
}

#[test]
fn a_text_that_is_cut_and_sampling_that_is_not_asked_for_are_told_of() {
    let workshop = workshop("gpt2", "text");
    let long = "w1 ".repeat(45);
    let more = ["generate", "--model", "writer", "--prompt", &long, "--max-new-tokens", "30", "--json"];
    let ran = workshop.succeed(&more);
    assert!(
        ran.json()["cut"] == true && ran.stderr.contains("the text is cut"),
        "{} {}",
        ran.stdout,
        ran.stderr
    );
    workshop.write("writer/generation_config.json", "{\"do_sample\": true, \"top_p\": 0.9}");
    let ran = workshop.succeed(&[&WRITE[..], &["--prompt", "red", "--json"]].concat());
    assert!(ran.stderr.contains("for that add --temperature 1.0 --top-p 0.9"), "{}", ran.stderr);
    assert_eq!(ran.json()["cut"], false);
    let ran = workshop.succeed(&[&WRITE[..], &["--prompt", "red", "--temperature", "0.5"]].concat());
    assert!(!ran.stderr.contains("--top-p"), "{}", ran.stderr);
}

#[test]
fn a_conversation_is_kept_from_turn_to_turn() {
    let workshop = workshop("llama", "messages");
    workshop.succeed(&["train", "language.toml"]);
    let chat = ["generate", "--model", "writer", "--adapter", "told", "--chat", "--max-new-tokens", "4"];
    let ran = with_input(&workshop, &chat, "red w1?\n\ngreen w2?\n");
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 2), "{} {}", ran.stdout, ran.stderr);
    let ran = with_input(&workshop, &[&chat[..], &["--json"]].concat(), "red w1?\ngreen w2?\n");
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    let messages = ran.json()["messages"].clone();
    let roles: Vec<&str> =
        messages.as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(messages[2]["content"], "green w2?");

    // The whole conversation goes through the template each time: the second turn brings a third message.
    workshop.write(
        "writer/chat_template.jinja",
        "{{ messages[0].content }}\n{{ raise_exception('enough') if messages[2] }}",
    );
    let ran = with_input(&workshop, &chat, "red w1?\ngreen w2?\n");
    assert_eq!((ran.code, ran.stdout.lines().count()), (1, 1), "{}", ran.stderr);
    assert!(ran.stderr.contains("chat_template.jinja:2: the chat template fails: enough"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_written_is_refused_in_a_sentence() {
    let workshop = workshop("llama", "text");
    let refused = |arguments: &[&str], code: i32, expected: &str| {
        let ran = workshop.run(&[&["generate"], arguments].concat());
        let last = ran.stderr.lines().last().unwrap_or_default();
        assert!(ran.code == code && last.contains(expected), "{arguments:?}: {} {}", ran.code, ran.stderr);
        assert!(ran.stdout.is_empty(), "{}", ran.stdout);
    };
    let long = "w1 ".repeat(60);
    let writer = |more: &[&'static str]| [&["--model", "writer"], more].concat();
    refused(&["--model", "model", "--prompt", "a"], 1, "writes no text; gpt2, llama");
    refused(&writer(&[]), 2, "");
    refused(&writer(&["--prompt", "a", "--chat"]), 2, "");
    refused(&writer(&["--prompt", "red", "--top-k", "3"]), 2, "give a --temperature");
    refused(&writer(&["--prompt", "red", "--temperature=-1"]), 2, "temperature: -1 is below 0");
    refused(&writer(&["--prompt", "red", "--beams", "0"]), 2, "it must be at least 1");
    refused(&["--model", "nowhere", "--prompt", "red"], 1, "nowhere");
    workshop.write("writer/config.json", "{\"model_type\": \"mamba\"}");
    refused(&writer(&["--prompt", "red"]), 1, "model_type \"mamba\" is not one of bert, ");
    let without = workshop_without_template();
    let ran = without.run(&["generate", "--model", "writer", "--prompt", &long]);
    assert!(ran.code == 2 && ran.stderr.contains("none of the model's 48 positions"), "{}", ran.stderr);
    let ran = with_input(&without, &["generate", "--model", "writer", "--chat"], "red\n");
    assert!(ran.code == 1 && ran.stderr.contains("it has no chat template"), "{}", ran.stderr);
}

fn workshop_without_template() -> Workshop {
    let workshop = workshop("gpt2", "text");
    std::fs::remove_file(workshop.path("writer/chat_template.jinja")).unwrap();
    workshop
}
