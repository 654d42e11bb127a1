use std::fs;

use lowrank::Result;
use lowrank::data::squad::{Purpose, Questions, ReadOptions, Version, read};
use lowrank::data::{Dataset, Outputs, Prediction, Reader, TaskOptions, tasks};
use lowrank::models::ModelInfo;

use crate::{fixtures, options, shared};

fn read_text(text: &str, options: &ReadOptions) -> Result<Questions> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    read(file.path(), options)
}

/// Questions as (id, answers as JSON) on one context in which a code point is up to four bytes.
fn file(questions: &[(&str, &str)]) -> String {
    let qas: Vec<_> = (questions.iter())
        .map(|(id, answers)| format!(r#"{{"question": "  q {id}", "id": "{id}", "answers": {answers}}}"#))
        .collect();
    let context = "né 😀 in Zürich, 1973.";
    format!(
        "{{\"version\": \"1.1\", \"data\": [{{\"title\": \"t\", \"paragraphs\": [{{\"context\": \"{context}\",\n\
         \"qas\": [{}]}}]}}]}}",
        qas.join(",\n")
    )
}

const GOOD: (&str, &str) = ("good", r#"[{"text": "Zürich", "answer_start": 8}]"#);
const EARLY: (&str, &str) = ("early", r#"[{"text": "Zürich", "answer_start": 7}]"#);
const OUTSIDE: (&str, &str) = ("outside", r#"[{"text": "Zürich", "answer_start": 800}]"#);
const NEGATIVE: (&str, &str) = ("negative", r#"[{"text": "né", "answer_start": -1}]"#);
const SECOND: (&str, &str) =
    ("second", r#"[{"text": "1973", "answer_start": 16}, {"text": "1974", "answer_start": 16}]"#);
const NONE: (&str, &str) = ("none", "[]");

const V1: ReadOptions =
    ReadOptions { version: Version::V1, purpose: Purpose::Train, limit: 0, strict: false };
const V2: ReadOptions = ReadOptions { version: Version::V2, ..V1 };

fn ids(questions: &Questions) -> Vec<&str> {
    questions.rows.iter().map(|question| question.id.as_str()).collect()
}

fn skipped(questions: &Questions) -> Vec<&str> {
    questions.skipped.iter().map(|skipped| skipped.id.as_str()).collect()
}

#[test]
fn published_files_are_read_whole() {
    let files = [
        ("dev-v1.1", Version::V1, 10570, 10570),
        ("train-subset-v1.1", Version::V1, 3939, 3939),
        ("dev-v2.0", Version::V2, 11873, 5928),
    ];
    for (name, version, total, answered) in files {
        let Some(path) = shared(&format!("data/squad/{name}.json")) else { return };
        for strict in [false, true] {
            let options = ReadOptions { strict, ..options(version, Purpose::Train) };
            let questions = read(&path, &options).unwrap();
            assert_eq!((questions.rows.len(), questions.skipped.len()), (total, 0), "{name}");
            assert_eq!(questions.rows.iter().filter(|question| question.has_answer()).count(), answered);
            for question in &questions.rows {
                for answer in question.answers.iter().flatten() {
                    let there = questions.context(question).chars().skip(answer.start.unwrap());
                    assert_eq!(there.take(answer.text.chars().count()).collect::<String>(), answer.text);
                }
            }
        }
    }
    let Some(path) = shared("data/squad/dev-v2.0.json") else { return };
    let as_v1 = read(&path, &options(Version::V1, Purpose::Evaluate)).unwrap();
    assert_eq!((as_v1.rows.len(), as_v1.skipped.len()), (5928, 5945));
}

#[test]
fn an_answer_that_is_not_where_the_file_says_is_skipped_or_an_error_that_names_it() {
    let text = file(&[GOOD, EARLY, OUTSIDE, NEGATIVE, SECOND]);
    let questions = read_text(&text, &V1).unwrap();
    assert_eq!(ids(&questions), ["good"]);
    assert_eq!(questions.rows[0].answers.as_ref().unwrap()[0].start, Some(8), "in code points");
    assert_eq!(skipped(&questions), ["early", "outside", "negative", "second"]);
    assert!(questions.skipped[0].reason.contains(r#""Zürich" is not at code point 7"#), "{questions:?}");
    for bad in [EARLY, OUTSIDE, NEGATIVE, SECOND] {
        for purpose in [Purpose::Train, Purpose::Evaluate] {
            let strict = ReadOptions { strict: true, purpose, ..V1 };
            let error = read_text(&file(&[GOOD, bad]), &strict).unwrap_err().to_string();
            assert!(error.contains(&format!("question {:?}: ", bad.0)), "{error}");
        }
    }
}

#[test]
fn a_right_answer_at_a_wrong_place_is_still_compared_with() {
    let questions = read_text(&file(&[EARLY]), &ReadOptions { purpose: Purpose::Evaluate, ..V1 }).unwrap();
    let answers = questions.rows[0].answers.as_ref().unwrap();
    assert_eq!((answers[0].text.as_str(), answers[0].start), ("Zürich", None));
}

#[test]
fn a_question_without_an_answer_is_one_of_version_2() {
    let text = file(&[NONE, GOOD]);
    assert_eq!(skipped(&read_text(&text, &V1).unwrap()), ["none"]);
    assert_eq!(ids(&read_text(&text, &V2).unwrap()), ["none", "good"]);
    let error = read_text(&text, &ReadOptions { strict: true, ..V1 }).unwrap_err().to_string();
    assert!(error.contains(r#""none""#) && error.contains("squad_v2"), "{error}");
    let error = read_text(&file(&[NONE]), &V1).unwrap_err().to_string();
    assert!(error.contains("none of its 1 questions"), "{error}");
}

#[test]
fn only_prediction_needs_no_answers() {
    let text = file(&[GOOD]).replace(r#""answers": "#, r#""answer": "#);
    for purpose in [Purpose::Train, Purpose::Evaluate] {
        let error = read_text(&text, &ReadOptions { purpose, ..V2 }).unwrap_err().to_string();
        assert!(error.contains(r#"question "good": it has no "answers""#), "{error}");
    }
    let predict = ReadOptions { purpose: Purpose::Predict, ..V1 };
    assert_eq!(read_text(&text, &predict).unwrap().rows[0].answers, None);
    assert_eq!(ids(&read_text(&file(&[GOOD, EARLY, NONE]), &predict).unwrap()), ["good", "early", "none"]);
}

#[test]
fn the_limit_counts_questions_that_can_be_used() {
    let text = file(&[EARLY, GOOD, NONE, GOOD]);
    let questions = read_text(&text, &ReadOptions { limit: 2, ..V2 }).unwrap();
    assert_eq!((ids(&questions), skipped(&questions)), (vec!["good", "none"], vec!["early"]));
}

#[test]
fn a_malformed_file_is_an_error_with_its_place() {
    let good = file(&[GOOD]);
    let bad = [
        (good[..good.len() - 1].to_owned(), ":2: "),
        (good.replace("\"qas\"", "\"questions\""), "missing field `qas`"),
        (good.replace("\"context\"", "\"text\""), "missing field `context`"),
        (good.replace("\"id\"", "\"ID\""), "missing field `id`"),
        (good.replace("8", "\"8\""), ":2: "),
        ("[]".to_owned(), "data"),
        ("{\"data\": []}".to_owned(), "holds no questions"),
        (String::new(), ":1: "),
        ("{\"data\": [{\"paragraphs\": 3}]}".to_owned(), "column"),
    ];
    for (text, expected) in bad {
        for options in [V1, ReadOptions { purpose: Purpose::Predict, ..V1 }] {
            let error = read_text(&text, &options).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
    assert_eq!(ids(&read_text(&format!("\u{feff}{good}"), &V1).unwrap()), ["good"], "a mark may come first");
}

/// The questions of some files, as squad_v2 evaluates them.
fn dataset(files: &[String], limit: usize) -> Box<dyn Dataset> {
    let room = tempfile::tempdir().unwrap();
    let path = |(number, text): (usize, &String)| {
        let path = room.path().join(format!("{number}.json"));
        fs::write(&path, text).unwrap();
        path
    };
    let paths: Vec<_> = files.iter().enumerate().map(path).collect();
    let info = ModelInfo { vocab_size: 1 << 20, ..ModelInfo::without_head() };
    let mut reader = Reader::new(&fixtures("tokenizers/wordpiece-uncased").unwrap(), &info, 11);
    reader.stride = 2;
    let task = tasks::open("squad_v2", &TaskOptions::default()).unwrap();
    task.dataset(&paths, limit, true, &reader).unwrap()
}

fn asked(data: &dyn Dataset) -> Vec<String> {
    let task = tasks::open("squad_v2", &TaskOptions::default()).unwrap();
    let rows: Vec<u32> = (0..data.len() as u32).collect();
    let batch = data.gather(&rows, 0, None).unwrap();
    let logits = vec![0.0; 2 * batch.tokens()];
    let mut collector = data.collector(task.info());
    collector.add(&rows, &batch, Outputs { logits: &logits, width: 2, written: &[] }).unwrap();
    let id = |answer| match answer {
        Prediction::Answer { id, .. } => id,
        other => panic!("{other:?}"),
    };
    collector.predictions().unwrap().into_iter().map(id).collect()
}

#[test]
fn questions_of_several_files_are_read_in_turn() {
    // Their ids are in their texts, and must leave room in a window.
    let [a, b, c] = [("a", GOOD.1), ("b", NONE.1), ("c", GOOD.1)];
    let one = dataset(&[file(&[a, b, c])], 0);
    assert!(one.len() > one.questions(), "a question has several windows");
    let two = dataset(&[file(&[a, b]), file(&[c])], 0);
    assert_eq!((two.len(), two.fingerprint()), (one.len(), one.fingerprint()));
    assert_eq!(asked(&*two), ["a", "b", "c"]);
    assert_eq!(asked(&*dataset(&[file(&[a]), file(&[b, c])], 2)), ["a", "b"]);
}

#[test]
fn an_answer_that_is_only_measured_against_changes_the_data() {
    let with = |text: &str| {
        let answers = format!(
            "[{{\"text\": \"Zürich\", \"answer_start\": 8}}, {{\"text\": \"{text}\", \"answer_start\": 8}}]"
        );
        dataset(&[file(&[("q", &answers)])], 0).fingerprint()
    };
    assert_ne!(with("Zürich"), with("in Zürich"));
}
