//! SQuAD 1.1 and 2.0: questions whose answers are spans of a text, or that have none.
//!
//! A question and its context become [`Windows`]; a model's start and end logits on them become a [`Prediction`] by
//! an [`AnswerFinder`]; [`evaluate_v1`] and [`evaluate_v2`] compare that with the published answers.

mod answers;
mod cut;
mod metrics;
mod n_best;
mod normalize;
mod positions;
mod question;
mod read;
mod windows;

pub use answers::{AnswerFinder, AnswerOptions, Candidate, Prediction};
pub use cut::WindowOptions;
pub use metrics::{
    Best, EvaluationV1, EvaluationV2, NoAnswer, Part, evaluate_v1, evaluate_v2, exact_match, f1,
};
pub use normalize::normalize_answer;
pub use question::{Answer, Question, Questions, Skipped};
pub(in crate::data) use read::{Entry, Gathered, Given};
pub use read::{Purpose, ReadOptions, Version, read};
pub use windows::{Window, Windows};
