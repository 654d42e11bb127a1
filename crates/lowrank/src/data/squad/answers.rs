//! From start and end logits to answers.

use rayon::prelude::*;

use super::n_best::{self, Span};
use super::question::{Questions, slice};
use super::windows::Windows;
use crate::{Error, Result};

/// How answers are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerOptions {
    /// How many starts, ends and answers are considered.
    pub n_best: usize,
    /// The longest answer, in tokens.
    pub max_answer_length: usize,
    /// In SQuAD 2.0, above which difference between "no answer" and the best answer it is no answer; none in 1.1,
    /// where there always is one.
    pub null_threshold: Option<f64>,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self { n_best: 20, max_answer_length: 30, null_threshold: None }
    }
}

/// What a model says to a question.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// The answer; empty if there is none.
    pub text: String,
    /// Its probability among [`Prediction::n_best`].
    pub probability: f64,
    /// The score of "no answer" less the best answer's; only where there may be none.
    pub null_odds: Option<f64>,
    /// The best answers, the best first; an empty text is "no answer".
    pub n_best: Vec<Candidate>,
}

/// One of the best answers.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Candidate {
    /// Its text.
    pub text: String,
    /// The logit of its first token as a start.
    pub start_logit: f32,
    /// The logit of its last token as an end.
    pub end_logit: f32,
    /// The softmax of its score, the sum of these, over the best answers.
    pub probability: f64,
}

/// Gathers the logits of windows, in any order, into answers.
///
/// # Source
/// `postprocess_qa_predictions` of Transformers' `utils_qa.py`. Of equal logits the later token is taken first, where
/// NumPy's sort may take any.
#[derive(Debug)]
pub struct AnswerFinder<'a> {
    questions: &'a Questions,
    windows: &'a Windows,
    options: AnswerOptions,
    of_questions: Vec<Found>,
}

/// What the windows of a question said so far.
#[derive(Debug, Clone, Default)]
struct Found {
    spans: Vec<Span>,
    null: Option<Span>,
}

impl<'a> AnswerFinder<'a> {
    /// No logits yet.
    ///
    /// # Errors
    /// [`Error::Usage`] if the windows were made without spans or of other questions.
    pub fn new(questions: &'a Questions, windows: &'a Windows, options: AnswerOptions) -> Result<Self> {
        for window in windows.iter() {
            if window.spans.len() != window.context.len() {
                return Err(Error::Usage(
                    "answers are found in windows that were made with their spans".to_owned(),
                ));
            }
            if window.question >= questions.rows.len() {
                return Err(Error::Usage("these windows are of other questions".to_owned()));
            }
        }
        Ok(Self { questions, windows, options, of_questions: vec![Found::default(); questions.rows.len()] })
    }

    /// Adds what the model says of a window.
    ///
    /// # Shapes
    /// `start_logits`, `end_logits`: `[T]`, the tokens of the window.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no such window or it has another length.
    pub fn add(&mut self, index: usize, start_logits: &[f32], end_logits: &[f32]) -> Result<()> {
        let Some(window) = self.windows.get(index) else {
            return Err(Error::Usage(format!("there is no window {index}, only {}", self.windows.len())));
        };
        let tokens = window.ids.len();
        if start_logits.len() != tokens || end_logits.len() != tokens {
            return Err(Error::Usage(format!(
                "window {index} has {tokens} tokens, not {} and {} logits",
                start_logits.len(),
                end_logits.len()
            )));
        }
        let AnswerOptions { n_best, max_answer_length, .. } = self.options;
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let null = n_best::null(&window, number, start_logits, end_logits);
        let spans = n_best::spans(&window, number, (start_logits, end_logits), n_best, max_answer_length);
        let found = &mut self.of_questions[window.question];
        // The least of all windows, of equals the first: all of them must deny an answer.
        if found.null.is_none_or(|least| (null.score(), null.found) < (least.score(), least.found)) {
            found.null = Some(null);
        }
        found.spans.extend(spans);
        found.spans.sort_unstable_by(Span::order);
        found.spans.truncate(n_best);
        Ok(())
    }

    /// The answer to each question, in their order; an empty one where a question has no window.
    pub fn finish(&self) -> Vec<Prediction> {
        let Self { questions, options, of_questions, .. } = self;
        (questions.rows.par_iter().zip(of_questions))
            .map(|(question, found)| predict(questions.context(question), found, options))
            .collect()
    }
}

fn predict(context: &str, found: &Found, options: &AnswerOptions) -> Prediction {
    let Some(null) = found.null else { return Prediction::default() };
    let mut spans = found.spans.clone();
    if options.null_threshold.is_some() {
        spans.push(Span { found: (u32::MAX, u32::MAX), ..null });
        spans.sort_by(Span::order);
        spans.truncate(options.n_best);
        if !spans.iter().any(|span| span.place == [0, 0]) {
            spans.push(null);
        }
    }
    let mut n_best: Vec<Candidate> = spans.iter().map(|span| candidate(context, span)).collect();
    if n_best.len() < 2 && n_best.iter().all(|one| one.text.is_empty()) {
        let empty =
            Candidate { text: "empty".to_owned(), start_logit: 0.0, end_logit: 0.0, probability: 0.0 };
        n_best.insert(0, empty);
    }
    weigh(&mut n_best);
    let Some(threshold) = options.null_threshold else {
        let (text, probability) =
            n_best.first().map_or((String::new(), 0.0), |best| (best.text.clone(), best.probability));
        return Prediction { text, probability, null_odds: None, n_best };
    };
    let nothing = n_best.iter().find(|one| one.text.is_empty()).map_or(0.0, |one| one.probability);
    let Some(best) = n_best.iter().find(|one| !one.text.is_empty()) else {
        return Prediction { text: String::new(), probability: nothing, null_odds: None, n_best };
    };
    let odds = f64::from(null.score() - best.start_logit - best.end_logit);
    let (text, probability) =
        if odds > threshold { (String::new(), nothing) } else { (best.text.clone(), best.probability) };
    Prediction { text, probability, null_odds: Some(odds), n_best }
}

fn candidate(context: &str, span: &Span) -> Candidate {
    let [begin, end] = span.place.map(|place| place as usize);
    let text = slice(context, begin, end).to_owned();
    Candidate { text, start_logit: span.start_logit, end_logit: span.end_logit, probability: 0.0 }
}

/// Sets the probabilities: the softmax of the scores.
fn weigh(n_best: &mut [Candidate]) {
    let score = |one: &Candidate| f64::from(one.start_logit + one.end_logit);
    let most = n_best.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = n_best.iter().map(|one| (score(one) - most).exp()).sum();
    for one in n_best.iter_mut() {
        one.probability = (score(one) - most).exp() / sum;
    }
}
