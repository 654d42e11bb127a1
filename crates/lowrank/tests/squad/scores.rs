use std::collections::HashMap;
use std::fs;

use lowrank::data::squad::{
    Answer, EvaluationV2, NoAnswer, Part, Purpose, Question, Questions, Version, evaluate_v1, evaluate_v2,
    exact_match, f1, normalize_answer, read,
};
use serde_json::Value;

use crate::{golden, options, shared};

#[test]
fn answers_are_normalised_as_python_does() {
    let Some(golden) = golden("normalize") else { return };
    let cases = golden.as_array().unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let (text, expected) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
        assert_eq!(normalize_answer(text), expected, "{text:?}");
    }
}

#[test]
fn pairs_are_scored_as_by_the_official_scripts() {
    let Some(golden) = golden("pairs") else { return };
    for case in golden.as_array().unwrap() {
        let (expected, predicted) = (case["expected"].as_str().unwrap(), case["predicted"].as_str().unwrap());
        let v1 = [f64::from(u8::from(exact_match(expected, predicted))), f1(expected, predicted)];
        assert_eq!(numbers(&case["v1"]), v1, "{case}");
        let questions = [question("q", &[expected])];
        let v2 = evaluate_v2(&questions, &[Some(predicted)], None).unwrap();
        assert_eq!(numbers(&case["v2"]).map(|share| 100.0 * share), [v2.all.exact, v2.all.f1], "{case}");
    }
}

fn numbers(pair: &Value) -> [f64; 2] {
    [pair[0].as_f64().unwrap(), pair[1].as_f64().unwrap()]
}

fn question(id: &str, answers: &[&str]) -> Question {
    let answers = answers.iter().map(|text| Answer { text: (*text).to_owned(), start: Some(0) }).collect();
    Question { id: id.to_owned(), text: String::new(), context: 0, answers: Some(answers) }
}

/// A development set, and one of the published predictions on it.
fn published(
    data: &str,
    predictions: &str,
    version: Version,
) -> Option<(Questions, HashMap<String, String>)> {
    let questions =
        read(&shared(&format!("data/squad/{data}.json"))?, &options(version, Purpose::Evaluate)).unwrap();
    let predictions = shared(&format!("data/squad/preds/{predictions}.json"))?;
    Some((questions, serde_json::from_slice(&fs::read(predictions).unwrap()).unwrap()))
}

fn in_order<'a>(questions: &Questions, by_id: &'a HashMap<String, String>) -> Vec<Option<&'a str>> {
    questions.rows.iter().map(|question| by_id.get(&question.id).map(String::as_str)).collect()
}

#[test]
fn published_predictions_on_version_1_get_their_published_numbers() {
    let Some(golden) = golden("published") else { return };
    let systems = [("v1.1-bert-ensemble", "86.206", "92.196"), ("v1.1-logreg", "40.142", "50.982")];
    for (name, exact, f1) in systems {
        let Some((questions, predictions)) = published("dev-v1.1", name, Version::V1) else { return };
        let score = evaluate_v1(&questions.rows, &in_order(&questions, &predictions)).unwrap();
        assert_eq!(
            (format!("{:.3}", score.exact_match), format!("{:.3}", score.f1)),
            (exact.into(), f1.into())
        );
        let expected = &golden[name];
        assert_eq!(score.exact_match, expected["exact_match"].as_f64().unwrap(), "{name}");
        assert_eq!(score.f1, expected["f1"].as_f64().unwrap(), "{name}");
        assert_eq!(score.missing.len() as u64, expected["missing"].as_u64().unwrap(), "{name}");
        assert_eq!(score.total, 10570);
    }
}

#[test]
fn published_predictions_on_version_2_get_their_published_numbers() {
    let Some(golden) = golden("published") else { return };
    let name = "v2.0-bert-single";
    let Some((questions, predictions)) = published("dev-v2.0", name, Version::V2) else { return };
    let score = evaluate_v2(&questions.rows, &in_order(&questions, &predictions), None).unwrap();
    assert_eq!(
        (format!("{:.3}", score.all.exact), format!("{:.3}", score.all.f1)),
        ("78.742".into(), "81.775".into())
    );
    same(&score, &golden[name]);
    assert!(score.best.is_none() && score.missing.is_empty());
}

fn same(score: &EvaluationV2, expected: &Value) {
    let part = |part: Option<Part>, expected: &Value| {
        let part = part.unwrap();
        assert_eq!([part.exact, part.f1], ["exact", "f1"].map(|key| expected[key].as_f64().unwrap()));
        assert_eq!(part.total as u64, expected["total"].as_u64().unwrap());
    };
    part(Some(score.all), &expected["all"]);
    part(score.has_answer, &expected["has_answer"]);
    part(score.no_answer, &expected["no_answer"]);
}

#[test]
fn thresholds_of_the_probability_of_no_answer_are_those_of_the_official_script() {
    let Some(golden) = golden("thresholds") else { return };
    let Some((questions, predictions)) = published("dev-v2.0", "v2.0-bert-single", Version::V2) else {
        return;
    };
    let predictions = in_order(&questions, &predictions);
    let sure = |(row, question): (usize, &Question)| {
        (row * 7919 % 997) as f64 / 997.0 * 0.7 + if question.has_answer() { 0.0 } else { 0.3 }
    };
    let probabilities: Vec<f64> = questions.rows.iter().enumerate().map(sure).collect();
    for expected in golden.as_array().unwrap() {
        let threshold = expected["threshold"].as_f64().unwrap();
        let no_answer = NoAnswer { probabilities: &probabilities, threshold };
        let score = evaluate_v2(&questions.rows, &predictions, Some(no_answer)).unwrap();
        same(&score, expected);
        let best = score.best.unwrap();
        let expected = |key: &str| expected[key].as_f64().unwrap();
        assert_eq!(
            [best.exact, best.exact_threshold],
            [expected("best_exact"), expected("best_exact_threshold")]
        );
        assert_eq!([best.f1, best.f1_threshold], [expected("best_f1"), expected("best_f1_threshold")]);
        assert!(best.exact > 79.0, "a threshold helps");
    }
}

#[test]
fn a_missing_prediction_counts_nothing_and_is_named() {
    let questions = [question("a", &["x"]), question("b", &["y"]), question("c", &[])];
    let v1 = evaluate_v1(&questions[..2], &[Some("x"), None]).unwrap();
    assert_eq!((v1.exact_match, v1.f1, v1.total, v1.missing), (50.0, 50.0, 2, vec!["b".to_owned()]));
    let probabilities = [0.1, 0.9, 0.9];
    let no_answer = NoAnswer { probabilities: &probabilities, threshold: 0.5 };
    let v2 = evaluate_v2(&questions, &[Some("x"), None, None], Some(no_answer)).unwrap();
    assert_eq!(v2.missing, ["b", "c"]);
    assert_eq!((v2.has_answer.unwrap().exact, v2.no_answer.unwrap().exact), (50.0, 0.0));
    assert_eq!((v2.all.exact, v2.best.unwrap().exact), (100.0 / 3.0, 100.0 / 3.0));
}

#[test]
fn questions_and_predictions_must_go_together() {
    let questions = [question("a", &[])];
    evaluate_v1(&questions, &[Some("x")]).unwrap_err();
    evaluate_v2(&questions, &[], None).unwrap_err();
    let no_answer = NoAnswer { probabilities: &[], threshold: 0.5 };
    evaluate_v2(&questions, &[None], Some(no_answer)).unwrap_err();
    let unlabelled = [Question { answers: None, ..question("a", &[]) }];
    evaluate_v2(&unlabelled, &[Some("x")], None).unwrap_err();
}
