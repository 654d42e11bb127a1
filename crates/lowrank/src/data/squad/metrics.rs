//! Exact match and F1 as the official scripts compute them.

use std::collections::HashMap;

use super::normalize::normalize_answer;
use super::question::Question;
use crate::{Error, Result};

/// What `evaluate-v1.1.py` prints.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvaluationV1 {
    /// The share of exact matches, in percent.
    pub exact_match: f64,
    /// The mean F1, in percent.
    pub f1: f64,
    /// How many questions there are.
    pub total: usize,
    /// The ids of those without a prediction, which count 0.
    pub missing: Vec<String>,
}

/// What `evaluate-v2.0.py` prints.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvaluationV2 {
    /// Of all questions.
    pub all: Part,
    /// Of those that have an answer, if any do.
    pub has_answer: Option<Part>,
    /// Of those that have none, if any do.
    pub no_answer: Option<Part>,
    /// What the best thresholds would give, where probabilities of no answer are given.
    pub best: Option<Best>,
    /// The ids of those without a prediction, which count 0.
    pub missing: Vec<String>,
}

/// The scores of some of the questions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Part {
    /// The share of exact matches, in percent.
    pub exact: f64,
    /// The mean F1, in percent.
    pub f1: f64,
    /// How many questions these are.
    pub total: usize,
}

/// The scores that the best thresholds of the probability of no answer would give.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Best {
    /// The highest share of exact matches, in percent.
    pub exact: f64,
    /// The threshold that gives it: above, there is no answer.
    pub exact_threshold: f64,
    /// The highest mean F1, in percent.
    pub f1: f64,
    /// The threshold that gives it.
    pub f1_threshold: f64,
}

/// How sure a model is that questions have no answer.
#[derive(Debug, Clone, Copy)]
pub struct NoAnswer<'a> {
    /// For each question; any numbers that rise with it, such as null odds.
    pub probabilities: &'a [f64],
    /// Above it, a prediction counts as none; 1 in the script unless it is told another.
    pub threshold: f64,
}

/// Whether two answers are the same when normalised.
pub fn exact_match(expected: &str, predicted: &str) -> bool {
    normalize_answer(expected) == normalize_answer(predicted)
}

/// The F1 of the words that two answers share; 0 if they share none.
pub fn f1(expected: &str, predicted: &str) -> f64 {
    overlap(&normalize_answer(expected), &normalize_answer(predicted))
}

/// Scores predictions on SQuAD 1.1, one for each question.
///
/// # Errors
/// [`Error::Usage`] if their numbers differ or a question has no published answer.
///
/// # Source
/// `evaluate-v1.1.py`.
pub fn evaluate_v1(questions: &[Question], predictions: &[Option<&str>]) -> Result<EvaluationV1> {
    same_number("predictions", questions.len(), predictions.len())?;
    let mut evaluation = EvaluationV1 { total: questions.len(), ..EvaluationV1::default() };
    for (question, prediction) in questions.iter().zip(predictions) {
        let Some(answers) = question.answers.as_ref().filter(|answers| !answers.is_empty()) else {
            return Err(unanswered(question));
        };
        let Some(prediction) = prediction else {
            evaluation.missing.push(question.id.clone());
            continue;
        };
        let prediction = normalize_answer(prediction);
        let scores = answers.iter().map(|answer| score(&normalize_answer(&answer.text), &prediction));
        let [exact, f1] = greatest(scores);
        evaluation.exact_match += exact;
        evaluation.f1 += f1;
    }
    evaluation.exact_match = percent(evaluation.exact_match, evaluation.total);
    evaluation.f1 = percent(evaluation.f1, evaluation.total);
    Ok(evaluation)
}

/// Scores predictions on SQuAD 2.0, one for each question; an empty one says that there is no answer.
///
/// # Errors
/// [`Error::Usage`] if the numbers differ or it is not known whether a question has an answer.
///
/// # Source
/// `evaluate-v2.0.py`, which stops where a prediction is missing; here it counts 0, whatever the threshold.
pub fn evaluate_v2(
    questions: &[Question],
    predictions: &[Option<&str>],
    no_answer: Option<NoAnswer<'_>>,
) -> Result<EvaluationV2> {
    same_number("predictions", questions.len(), predictions.len())?;
    if let Some(NoAnswer { probabilities, .. }) = no_answer {
        same_number("probabilities of no answer", questions.len(), probabilities.len())?;
    }
    let mut evaluation = EvaluationV2::default();
    let mut raw = Vec::with_capacity(questions.len());
    for (question, prediction) in questions.iter().zip(predictions) {
        if question.answers.is_none() {
            return Err(unanswered(question));
        }
        if prediction.is_none() {
            evaluation.missing.push(question.id.clone());
        }
        raw.push(prediction.map_or([0.0; 2], |prediction| score_or_none(question, prediction)));
    }
    let scores: Vec<[f64; 2]> = (raw.iter().enumerate())
        .map(|(row, &score)| match no_answer {
            Some(NoAnswer { probabilities, threshold })
                if probabilities[row] > threshold && predictions[row].is_some() =>
            {
                [f64::from(u8::from(!questions[row].has_answer())); 2]
            }
            _ => score,
        })
        .collect();
    let part = |wanted: &dyn Fn(&Question) -> bool| {
        let of_part = questions.iter().zip(&scores).filter(|(question, _)| wanted(question));
        let (total, sums) =
            of_part.fold((0, [0.0; 2]), |(n, [exact, f1]), (_, [e, f])| (n + 1, [exact + e, f1 + f]));
        (total > 0).then(|| Part { exact: percent(sums[0], total), f1: percent(sums[1], total), total })
    };
    evaluation.all = part(&|_| true).unwrap_or_default();
    evaluation.has_answer = part(&Question::has_answer);
    evaluation.no_answer = part(&|question| !question.has_answer());
    evaluation.best = no_answer.map(|NoAnswer { probabilities, .. }| {
        let best = |which: usize| best_threshold(questions, predictions, probabilities, &raw, which);
        let ((exact, exact_threshold), (f1, f1_threshold)) = (best(0), best(1));
        Best { exact, exact_threshold, f1, f1_threshold }
    });
    Ok(evaluation)
}

/// The highest score of all thresholds, and the threshold; that of the fewest answers of equals.
fn best_threshold(
    questions: &[Question],
    predictions: &[Option<&str>],
    probabilities: &[f64],
    scores: &[[f64; 2]],
    which: usize,
) -> (f64, f64) {
    let mut predicted: Vec<usize> = (0..questions.len()).filter(|&row| predictions[row].is_some()).collect();
    // Adding 0 makes -0 the same as 0.
    predicted.sort_by(|&a, &b| (probabilities[a] + 0.0).total_cmp(&(probabilities[b] + 0.0)));
    let mut sum = predicted.iter().filter(|&&row| !questions[row].has_answer()).count() as f64;
    let (mut best, mut threshold) = (sum, 0.0);
    for row in predicted {
        let says_something = predictions[row].is_some_and(|prediction| !prediction.is_empty());
        sum += match (questions[row].has_answer(), says_something) {
            (true, _) => scores[row][which],
            (false, true) => -1.0,
            (false, false) => 0.0,
        };
        if sum > best {
            (best, threshold) = (sum, probabilities[row]);
        }
    }
    (percent(best, questions.len()), threshold)
}

/// Exact match and F1 where an empty answer is a right one to a question that has none.
fn score_or_none(question: &Question, prediction: &str) -> [f64; 2] {
    let prediction = normalize_answer(prediction);
    let answers = question.answers.iter().flatten().map(|answer| normalize_answer(&answer.text));
    let mut expected: Vec<String> = answers.filter(|answer| !answer.is_empty()).collect();
    if expected.is_empty() {
        expected.push(String::new());
    }
    greatest(expected.iter().map(|expected| {
        if expected.is_empty() || prediction.is_empty() {
            [f64::from(u8::from(*expected == prediction)); 2]
        } else {
            score(expected, &prediction)
        }
    }))
}

/// Exact match and F1 of normalised answers.
fn score(expected: &str, predicted: &str) -> [f64; 2] {
    [f64::from(u8::from(expected == predicted)), overlap(expected, predicted)]
}

fn overlap(expected: &str, predicted: &str) -> f64 {
    let words = |text: &'_ str| text.split(' ').filter(|word| !word.is_empty()).count();
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in expected.split(' ').filter(|word| !word.is_empty()) {
        *left.entry(word).or_default() += 1;
    }
    let mut same = 0;
    for word in predicted.split(' ') {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let precision = f64::from(same) / words(predicted) as f64;
    let recall = f64::from(same) / words(expected) as f64;
    (2.0 * precision * recall) / (precision + recall)
}

fn greatest(scores: impl Iterator<Item = [f64; 2]>) -> [f64; 2] {
    scores.fold([0.0; 2], |[exact, f1], [e, f]| [exact.max(e), f1.max(f)])
}

fn percent(sum: f64, total: usize) -> f64 {
    if total == 0 { 0.0 } else { 100.0 * sum / total as f64 }
}

fn same_number(what: &str, questions: usize, given: usize) -> Result<()> {
    if questions == given {
        return Ok(());
    }
    Err(Error::Usage(format!("{given} {what} for {questions} questions")))
}

fn unanswered(question: &Question) -> Error {
    Error::Usage(format!("question {:?} has no published answer to compare with", question.id))
}
