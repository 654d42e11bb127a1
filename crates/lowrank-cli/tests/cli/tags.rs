//! Token classification, from a run file to tags.

use serde_json::{Value, json};

use super::workshop::Workshop;

const NAMES: [&str; 3] = ["B-THING", "I-THING", "O"];

/// Words whose tags follow from the words: an entity is a noun, and "very" before it.
fn text(row: usize) -> (Vec<&'static str>, Vec<&'static str>) {
    let noun = ["film", "plot", "actor"][row % 3];
    if row.is_multiple_of(2) {
        (vec!["the", noun, "was", "good"], vec!["O", "B-THING", "O", "O"])
    } else {
        (vec!["a", "very", noun, "is", "unheard", "bad"], vec!["O", "B-THING", "I-THING", "O", "O", "O"])
    }
}

fn workshop() -> Workshop {
    let workshop = Workshop::new();
    let rows = |count: usize| {
        (0..count)
            .map(|row| {
                let (tokens, tags) = text(row);
                format!("{}\n", json!({ "tokens": tokens, "ner_tags": tags }))
            })
            .collect::<String>()
    };
    workshop.write("train.jsonl", &rows(48));
    workshop.write("dev.jsonl", &rows(6));
    workshop.write(
        "run.toml",
        "model = \"model\"\ntask = \"token-classification\"\noutput = \"out\"\n\n[data]\ntrain = \"train.jsonl\"\n\
         validation = \"dev.jsonl\"\n\n[lora]\nr = 4\ntarget_modules = \"all-linear\"\n\n[train]\nepochs = 12\n\
         batch_size = 8\nlearning_rate = 2e-2\ndtype = \"f32\"\n",
    );
    workshop
}

fn arguments(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn a_run_learns_tags_and_predicts_one_for_each_word() {
    let workshop = workshop();
    let summary = workshop.succeed(&["train", "run.toml", "--json"]).json();
    assert_eq!(summary["labels"], json!(NAMES));
    assert!(summary["eval"]["f1"].as_f64().unwrap() > 0.9, "{}", summary["eval"]);
    let ask = "--model model --adapter out --task token-classification --data dev.jsonl --dtype f32";
    let scores = workshop.succeed(&arguments(&format!("eval {ask} --json"))).json();
    assert_eq!((&scores["f1"], &scores["accuracy"]), (&summary["eval"]["f1"], &summary["eval"]["accuracy"]));
    workshop.succeed(&arguments(&format!("predict {ask} --out a.jsonl")));
    let lines = String::from_utf8(workshop.read("a.jsonl")).unwrap();
    let answers: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 6);
    let (mut right, mut all) = (0, 0);
    for (row, answer) in answers.iter().enumerate() {
        let tags = answer["tags"].as_array().unwrap();
        let expected = text(row).1;
        assert_eq!((tags.len(), answer["line"].as_u64()), (expected.len(), Some(row as u64 + 1)));
        right += tags.iter().zip(&expected).filter(|(tag, expected)| tag == *expected).count();
        all += expected.len();
    }
    assert!((scores["accuracy"].as_f64().unwrap() - right as f64 / all as f64).abs() < 1e-9);
}

#[test]
fn columns_of_words_and_tags_train_the_same_adapter() {
    let workshop = workshop();
    workshop.succeed(&["train", "run.toml", "--epochs", "1"]);
    let mut columns = "-DOCSTART- O\n\n".to_owned();
    for row in 0..48 {
        let (words, tags) = text(row);
        words.iter().zip(tags).for_each(|(word, tag)| columns += &format!("{word} {tag}\n"));
        columns += "\n";
    }
    workshop.write("train.CONLL", &columns);
    workshop.succeed(&arguments("train run.toml --epochs 1 --train train.CONLL --output columns"));
    let file = "adapter_model.safetensors";
    assert_eq!(workshop.read(&format!("out/{file}")), workshop.read(&format!("columns/{file}")));
}

#[test]
fn a_word_that_is_cut_off_has_no_tag() {
    let workshop = workshop();
    workshop.succeed(&["train", "run.toml", "--epochs", "1"]);
    workshop.write("one.jsonl", "{\"tokens\": [\"the\", \"film\", \"was\", \"good\"]}\n");
    let ask =
        "predict --model model --adapter out --task token-classification --data one.jsonl --out a.jsonl";
    workshop.succeed(&arguments(&format!("{ask} --max-length 4")));
    let answer: Value = serde_json::from_slice(&workshop.read("a.jsonl")).unwrap();
    let told: Vec<bool> = answer["tags"].as_array().unwrap().iter().map(Value::is_string).collect();
    assert_eq!(told, [true, true, false, false]);
}

#[test]
fn malformed_words_are_refused_with_their_line() {
    let workshop = workshop();
    let good = "{\"tokens\": [\"the\", \"film\"], \"ner_tags\": [\"O\", \"B-THING\"]}\n";
    let refused = |name: &str, text: &str, expected: &str| {
        workshop.write(name, text);
        let ran = workshop.run(&["train", "run.toml", "--overwrite", "--validation", name]);
        assert!(ran.code == 1 && ran.stderr.contains(expected), "{name}: {}", ran.stderr);
    };
    let unknown = good.to_owned() + &good.replace("B-THING", "B-PLACE");
    refused("unknown.jsonl", &unknown, "unknown.jsonl:2: unknown label \"B-PLACE\"; the labels are B-THING");
    refused("few.jsonl", &good.replace("\"O\", ", ""), "few.jsonl:1: it has 1 labels for 2 words");
    refused("json.jsonl", &good[..9], "json.jsonl:1: not JSON");
    refused("list.jsonl", "{\"tokens\": \"the\", \"ner_tags\": []}\n", "list.jsonl:1: ");
    refused("bare.conll", "the O\nfilm\n", "bare.conll:2: the word \"film\" has no label");
    refused("empty.conll", "\n\n", "empty.conll");
}

#[test]
fn preview_shows_the_tag_of_each_words_first_token() {
    let workshop = workshop();
    let ran = workshop.succeed(&["data", "preview", "run.toml", "--examples", "1"]);
    assert!(ran.stdout.contains("[CLS] the/O film/B-THING was/O good/O [SEP]"), "{}", ran.stdout);
    assert!(ran.stdout.contains("labels: B-THING 48"), "{}", ran.stdout);
}
