//! SQuAD, from a run file to answers.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::workshop::{Ran, Workshop};

const RUN: &str = "\
model = \"model\"
task = \"squad\"
output = \"out\"

[data]
train = \"train.json\"
validation = \"dev.json\"
max_length = 16
stride = 4

[lora]
r = 2
lora_dropout = 0.1

[train]
epochs = 2
batch_size = 8
learning_rate = 1e-2
dtype = \"f32\"
";

const NOUNS: [&str; 3] = ["film", "plot", "actor"];

/// A context that is longer than a window, and its answer's place in code points.
fn context(row: usize) -> (String, &'static str, usize) {
    let noun = NOUNS[row % 3];
    let before = ["a very dull", "not"][row % 2].to_owned() + &" filler1".repeat(row % 7);
    let context = format!("{before} the {noun} was good{}", " filler2".repeat(9));
    let start = context.find(noun).unwrap();
    (context, noun, start)
}

fn question(row: usize) -> Value {
    let (_, noun, start) = context(row);
    json!({ "id": format!("q{row}"), "question": "the good", "answers": [{ "text": noun, "answer_start": start }] })
}

fn published(questions: &[Value]) -> String {
    let paragraphs: Vec<Value> = questions
        .iter()
        .enumerate()
        .map(|(row, question)| json!({ "context": context(row).0, "qas": [question] }))
        .collect();
    json!({ "version": "1.1", "data": [{ "title": "t", "paragraphs": paragraphs }] }).to_string()
}

fn workshop() -> Workshop {
    let workshop = Workshop::new();
    workshop.write("train.json", &published(&(0..24).map(question).collect::<Vec<_>>()));
    workshop.write("dev.json", &published(&(0..7).map(question).collect::<Vec<_>>()));
    workshop.write("run.toml", RUN);
    workshop
}

const LENGTHS: [&str; 4] = ["--max-length", "16", "--stride", "4"];

fn predict(workshop: &Workshop, task: &str, data: &str, more: &[&str]) -> Vec<Value> {
    let arguments = format!("predict --model model --adapter out --task {task} --data {data} --out a.jsonl");
    workshop.succeed(&[&arguments.split(' ').collect::<Vec<_>>(), &LENGTHS[..], more].concat());
    let text = String::from_utf8(workshop.read("a.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_answers_each_question_once_and_eval_repeats_its_scores() {
    let workshop = workshop();
    let summary = workshop.succeed(&["train", "run.toml", "--json"]).json();
    assert!(summary["examples"].as_u64().unwrap() > 24, "a long context has several windows: {summary}");
    let eval = ["eval", "--model", "model", "--adapter", "out", "--task", "squad", "--data", "dev.json"];
    let ran = workshop.succeed(&[&eval[..], &LENGTHS[..], &["--dtype", "f32"]].concat());
    assert!(ran.stdout.contains("7 examples"), "{}", ran.stdout);
    let scores = workshop.succeed(&[&eval[..], &LENGTHS[..], &["--dtype", "f32", "--json"]].concat()).json();
    for metric in ["f1", "exact_match", "loss"] {
        let (now, then) = (scores[metric].as_f64().unwrap(), summary["eval"][metric].as_f64().unwrap());
        assert!((now - then).abs() < 1e-6, "{metric}: {now} and {then}");
    }
    let answers = predict(&workshop, "squad", "dev.json", &["--dtype", "f32"]);
    assert_eq!(answers.len(), 7);
    let mut right = 0;
    for (row, answer) in answers.iter().enumerate() {
        let (context, noun, _) = context(row);
        assert_eq!(answer["id"], format!("q{row}"));
        assert!(context.contains(answer["answer"].as_str().unwrap()), "{answer}");
        assert!(answer.get("null_odds").is_none() && !answer["n_best"].as_array().unwrap().is_empty());
        // As the official script compares them: without the article.
        right += usize::from(answer["answer"].as_str().unwrap().trim_start_matches("the ") == noun);
    }
    let exact = 100.0 * right as f64 / 7.0;
    assert!((scores["exact_match"].as_f64().unwrap() - exact).abs() < 1e-6, "{scores} and {exact}");
}

#[test]
fn questions_in_rows_train_the_same_adapter_as_the_published_file() {
    let workshop = workshop();
    workshop.succeed(&["train", "run.toml"]);
    let rows: String = (0..24)
        .map(|row| {
            let (context, noun, start) = context(row);
            let answers = json!({ "text": [noun], "answer_start": [start] });
            let row = json!({ "id": format!("q{row}"), "title": "t", "context": context,
                              "question": "the good", "answers": answers });
            format!("{row}\n")
        })
        .collect();
    workshop.write("train.jsonl", &rows);
    workshop.succeed(&["train", "run.toml", "--train", "train.jsonl", "--output", "rows"]);
    let file = "adapter_model.safetensors";
    assert_eq!(workshop.read(&format!("out/{file}")), workshop.read(&format!("rows/{file}")));
}

#[test]
fn no_answer_is_said_above_the_threshold() {
    let workshop = workshop();
    let some = |row: usize| {
        let mut question = question(row);
        if row.is_multiple_of(3) {
            question["answers"] = json!([]);
        }
        question
    };
    workshop.write("train.json", &published(&(0..24).map(some).collect::<Vec<_>>()));
    workshop.write("dev.json", &published(&(0..7).map(some).collect::<Vec<_>>()));
    workshop.succeed(&["train", "run.toml", "--set", "task=squad_v2"]);
    let always = predict(&workshop, "squad_v2", "dev.json", &["--null-threshold", "1e9"]);
    let never = predict(&workshop, "squad_v2", "dev.json", &["--null-threshold", "-1e9"]);
    assert!(always.iter().all(|answer| answer["answer"] != "" && answer["null_odds"].is_f64()));
    assert!(never.iter().all(|answer| answer["answer"] == ""));
    let eval =
        "eval --model model --adapter out --task squad_v2 --data dev.json --null-threshold -1e9 --json";
    let scores = workshop.succeed(&[&eval.split(' ').collect::<Vec<_>>()[..], &LENGTHS[..]].concat()).json();
    assert_eq!((&scores["NoAns_f1"], &scores["HasAns_f1"]), (&100.0.into(), &0.0.into()), "{scores}");
}

#[test]
fn a_question_whose_answer_is_elsewhere_is_left_out_and_counted_or_an_error_with_its_id() {
    let workshop = workshop();
    let mut questions: Vec<Value> = (0..24).map(question).collect();
    questions[5]["answers"][0]["answer_start"] = 0.into();
    workshop.write("train.json", &published(&questions));
    let ran = workshop.succeed(&["train", "run.toml", "--json", "--set", "train.max_steps=1"]);
    assert_eq!(ran.json()["skipped_examples"], 1);
    assert!(ran.stderr.contains("are left out: question \"q5\": its answer"), "{}", ran.stderr);
    let ran = workshop.run(&["train", "run.toml", "--overwrite", "--set", "data.strict=true"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("train.json: question \"q5\": its answer"), "{}", ran.stderr);
}

#[test]
fn malformed_questions_are_refused_with_their_place() {
    let workshop = workshop();
    let refused = |name: &str, text: &str, expected: &str| {
        workshop.write(name, text);
        let ran = workshop.run(&["train", "run.toml", "--overwrite", "--train", name]);
        assert!(ran.code == 1 && ran.stderr.contains(expected), "{name}: {}", ran.stderr);
    };
    let whole = published(&[question(0)]);
    refused("cut.json", &whole[..whole.len() / 2], "cut.json:1: not SQuAD's JSON");
    refused("other.json", "{\n\"rows\": []}", "other.json:2: not SQuAD's JSON");
    refused("none.json", "{\"data\": []}", "none.json: holds no questions");
    refused("row.jsonl", "{\"id\": \"a\", \"context\": \"b\", \"answers\": {}}\n", "row.jsonl:1: ");
    let lists = "{\"id\": \"a\", \"question\": \"b\", \"context\": \"c\", \"answers\": {\"text\": [\"c\"]}}";
    refused("lists.jsonl", lists, "lists.jsonl:1: \"answers\" must be");
    refused("LISTS.JSONL", lists, "LISTS.JSONL:1: \"answers\" must be");
    workshop.write("run.toml", &RUN.replace("stride = 4", "stride = 11\nstrict = true"));
    refused(
        "long.json",
        &published(&[question(0)]),
        "long.json: question \"q0\": its 2 tokens leave no room",
    );
}

#[test]
fn preview_marks_the_answer_in_its_window() {
    let workshop = workshop();
    let ran = workshop.succeed(&["data", "preview", "run.toml", "--examples", "2"]);
    assert!(ran.stdout.contains("question q0, window 1: "), "{}", ran.stdout);
    assert!(ran.stdout.contains("the «film» was good"), "{}", ran.stdout);
}

#[cfg(unix)]
#[test]
fn a_run_that_was_broken_off_goes_on_to_the_same_bytes() {
    let workshop = workshop();
    let steps = ["--set", "train.max_steps=200"];
    workshop.succeed(&[&["train", "run.toml", "--output", "whole"], &steps[..]].concat());
    let arguments = [&["train", "run.toml"], &steps[..]].concat();
    let child = workshop.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = workshop.path("out/metrics.jsonl");
    let begun = Instant::now();
    while !fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() > 5) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no step was taken");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    workshop.succeed(&[&arguments[..], &["--resume"]].concat());
    let file = "adapter_model.safetensors";
    assert_eq!(workshop.read(&format!("out/{file}")), workshop.read(&format!("whole/{file}")));
}
