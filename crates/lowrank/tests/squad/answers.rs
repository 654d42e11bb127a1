use lowrank::data::Tokenizer;
use lowrank::data::squad::{AnswerFinder, AnswerOptions, Question, Questions, WindowOptions, Windows};
use serde::Deserialize;

use crate::{fixtures, golden};

#[derive(Deserialize)]
struct Case {
    options: Options,
    questions: Vec<Asked>,
}

#[derive(Deserialize)]
struct Options {
    max_length: usize,
    stride: usize,
    v2: bool,
    n_best: usize,
    max_answer_length: usize,
    threshold: f64,
}

#[derive(Deserialize)]
struct Asked {
    question: String,
    context: String,
    /// Start and end logits of each window.
    logits: Vec<[Vec<f32>; 2]>,
    text: String,
    null_odds: Option<f64>,
    n_best: Vec<(String, f32, f32, f64)>,
}

fn questions(asked: &[Asked]) -> Questions {
    let row = |(context, asked): (usize, &Asked)| Question {
        id: context.to_string(),
        text: asked.question.clone(),
        context,
        answers: None,
    };
    Questions {
        contexts: asked.iter().map(|asked| asked.context.clone()).collect(),
        rows: asked.iter().enumerate().map(row).collect(),
        ..Questions::default()
    }
}

fn windows(questions: &Questions, max_length: usize, stride: usize) -> Windows {
    let tokenizer = Tokenizer::from_folder(fixtures("tokenizers/wordpiece-uncased").unwrap()).unwrap();
    let options = WindowOptions { max_length, stride, ..WindowOptions::default() };
    Windows::new(&tokenizer, questions, &options).unwrap()
}

#[test]
fn answers_are_those_of_transformers_example_in_whatever_order_windows_come() {
    let Some(golden) = golden("answers") else { return };
    let cases: Vec<Case> = serde_json::from_value(golden).unwrap();
    assert!(cases.len() > 5);
    for (number, Case { options, questions: asked }) in cases.iter().enumerate() {
        let questions = questions(asked);
        let windows = windows(&questions, options.max_length, options.stride);
        let logits: Vec<_> = asked.iter().flat_map(|asked| &asked.logits).collect();
        assert_eq!(windows.len(), logits.len());
        let options = AnswerOptions {
            n_best: options.n_best,
            max_answer_length: options.max_answer_length,
            null_threshold: options.v2.then_some(options.threshold),
        };
        let mut forward = AnswerFinder::new(&questions, &windows, options).unwrap();
        let mut backward = AnswerFinder::new(&questions, &windows, options).unwrap();
        for (index, [start, end]) in logits.iter().enumerate() {
            forward.add(index, start, end).unwrap();
        }
        for (index, [start, end]) in logits.iter().enumerate().rev() {
            backward.add(index, start, end).unwrap();
        }
        let predictions = forward.finish();
        assert_eq!(predictions, backward.finish());
        for (place, (prediction, expected)) in predictions.iter().zip(asked).enumerate() {
            let name = format!("case {number}, question {place}");
            assert_eq!(prediction.text, expected.text, "{name}");
            assert_eq!(prediction.null_odds, expected.null_odds, "{name}");
            assert_eq!(prediction.n_best.len(), expected.n_best.len(), "{name}");
            for (ours, (text, start, end, probability)) in prediction.n_best.iter().zip(&expected.n_best) {
                assert_eq!((&ours.text, ours.start_logit, ours.end_logit), (text, *start, *end), "{name}");
                assert!((ours.probability - probability).abs() < 1e-6, "{name}: {text}");
            }
            assert!(prediction.n_best.iter().any(|one| one.probability == prediction.probability), "{name}");
        }
    }
}

fn bad_film() -> Questions {
    questions(&[Asked {
        question: "the".to_owned(),
        context: "bad film".to_owned(),
        logits: Vec::new(),
        text: String::new(),
        null_odds: None,
        n_best: Vec::new(),
    }])
}

#[test]
fn logits_that_are_not_numbers_give_an_answer_all_the_same() {
    let questions = bad_film();
    let windows = windows(&questions, 32, 4);
    for null_threshold in [None, Some(0.0)] {
        for logit in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN] {
            let options = AnswerOptions { null_threshold, ..AnswerOptions::default() };
            let mut finder = AnswerFinder::new(&questions, &windows, options).unwrap();
            let tokens = windows.get(0).unwrap().ids.len();
            let mut start = vec![0.0; tokens];
            start[tokens - 2] = logit;
            finder.add(0, &start, &vec![logit; tokens]).unwrap();
            let prediction = finder.finish().remove(0);
            assert!(prediction.probability.is_finite() && prediction.null_odds.is_none_or(f64::is_finite));
            if logit > 0.0 {
                assert_eq!(prediction.text, "film", "{logit}");
            }
        }
    }
}

#[test]
fn logits_of_another_length_or_window_are_refused() {
    let questions = bad_film();
    let windows = windows(&questions, 32, 4);
    let mut finder = AnswerFinder::new(&questions, &windows, AnswerOptions::default()).unwrap();
    finder.add(1, &[0.0; 6], &[0.0; 6]).unwrap_err();
    finder.add(0, &[0.0; 5], &[0.0; 6]).unwrap_err();
    finder.add(0, &[0.0; 6], &[0.0; 7]).unwrap_err();
    finder.add(0, &[0.0; 6], &[0.0; 6]).unwrap();
    let none = Questions::default();
    AnswerFinder::new(&none, &windows, AnswerOptions::default()).unwrap_err();
}

#[test]
fn a_question_without_a_window_gets_an_empty_answer() {
    let mut questions = bad_film();
    questions.rows[0].text = "a ".repeat(40);
    questions.contexts[0] = "film ".repeat(40);
    let windows = windows(&questions, 32, 4);
    assert_eq!(windows.skipped.len(), 1);
    let finder = AnswerFinder::new(&questions, &windows, AnswerOptions::default()).unwrap();
    assert_eq!(finder.finish()[0].text, "");
}
