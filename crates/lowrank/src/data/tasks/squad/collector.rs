//! From the logits of windows to answers and their scores.

use super::dataset::SquadDataset;
use crate::data::batch::Batch;
use crate::data::collector::{Collector, Outputs, Prediction, Scores};
use crate::data::squad::{
    self, AnswerFinder, Candidate, EvaluationV2, NoAnswer, Version, evaluate_v1, evaluate_v2,
};
use crate::{Error, Result};

/// The collector of a [`SquadDataset`].
pub(super) struct AnswerCollector<'a> {
    dataset: &'a SquadDataset,
    /// Absent where the windows do not know where in their contexts they are: those that are trained on.
    finder: Option<AnswerFinder<'a>>,
    /// Windows that were added.
    seen: usize,
}

impl<'a> AnswerCollector<'a> {
    pub fn new(dataset: &'a SquadDataset) -> Self {
        let finder = AnswerFinder::new(&dataset.questions, &dataset.windows, dataset.answers).ok();
        Self { dataset, finder, seen: 0 }
    }

    fn answers(&self) -> Result<Vec<squad::Prediction>> {
        match &self.finder {
            Some(finder) if self.seen == self.dataset.windows.len() => Ok(finder.finish()),
            _ => Err(Error::Usage(format!(
                "answers are of all {} windows, and {} were read",
                self.dataset.windows.len(),
                self.seen
            ))),
        }
    }
}

impl Collector for AnswerCollector<'_> {
    fn add(&mut self, rows: &[u32], batch: &Batch, outputs: Outputs<'_>) -> Result<()> {
        let Some(finder) = &mut self.finder else {
            return Err(Error::Usage("answers are not looked for in data that is trained on".to_owned()));
        };
        let offsets = batch.text().map_or(&[][..], |text| text.offsets.as_slice());
        for (&row, pair) in rows.iter().zip(offsets.windows(2)) {
            let tokens = outputs.logits.get(2 * pair[0]..2 * pair[1]).unwrap_or_default();
            let (starts, ends): (Vec<f32>, Vec<f32>) =
                tokens.chunks_exact(2).map(|token| (token[0], token[1])).unzip();
            finder.add(row as usize, &starts, &ends)?;
            self.seen += 1;
        }
        Ok(())
    }

    fn scores(&self, loss: f64) -> Result<Scores> {
        let (answers, questions) = (self.answers()?, &self.dataset.questions.rows);
        let mut scores = match self.dataset.version {
            Version::V1 => {
                let texts: Vec<Option<&str>> =
                    answers.iter().map(|answer| Some(answer.text.as_str())).collect();
                let scores = evaluate_v1(questions, &texts)?;
                named([("exact_match", scores.exact_match), ("f1", scores.f1)])
            }
            Version::V2 => {
                let threshold = self.dataset.answers.null_threshold.unwrap_or_default();
                let texts: Vec<Option<&str>> = answers.iter().map(|answer| Some(best(answer))).collect();
                // Where there is nothing but "no answer", the odds do not matter.
                let odds: Vec<f64> =
                    answers.iter().map(|answer| answer.null_odds.unwrap_or_default()).collect();
                let no_answer = NoAnswer { probabilities: &odds, threshold };
                of_both(&evaluate_v2(questions, &texts, Some(no_answer))?)
            }
        };
        scores.insert("loss".to_owned(), loss);
        Ok(scores)
    }

    fn predictions(&self) -> Result<Vec<Prediction>> {
        let answers = self.answers()?.into_iter().zip(&self.dataset.questions.rows);
        Ok(answers
            .map(|(answer, question)| {
                let squad::Prediction { text, probability, null_odds, n_best } = answer;
                Prediction::Answer { id: question.id.clone(), answer: text, probability, null_odds, n_best }
            })
            .collect())
    }
}

/// The best answer that is one; empty if there is none.
fn best(answer: &squad::Prediction) -> &str {
    let mut texts = answer.n_best.iter().map(|Candidate { text, .. }| text.as_str());
    // Without odds the only text is a placeholder.
    answer.null_odds.and_then(|_| texts.find(|text| !text.is_empty())).unwrap_or_default()
}

/// The names are those of Hugging Face's `squad_v2` metric, but for the two that SQuAD 1.1 has, too.
fn of_both(evaluation: &EvaluationV2) -> Scores {
    let mut scores = named([("exact_match", evaluation.all.exact), ("f1", evaluation.all.f1)]);
    if let Some(part) = &evaluation.has_answer {
        scores.extend(named([("HasAns_exact", part.exact), ("HasAns_f1", part.f1)]));
    }
    if let Some(part) = &evaluation.no_answer {
        scores.extend(named([("NoAns_exact", part.exact), ("NoAns_f1", part.f1)]));
    }
    if let Some(best) = &evaluation.best {
        scores.extend(named([("best_exact", best.exact), ("best_exact_thresh", best.exact_threshold)]));
        scores.extend(named([("best_f1", best.f1), ("best_f1_thresh", best.f1_threshold)]));
    }
    scores
}

fn named<const N: usize>(scores: [(&str, f64); N]) -> Scores {
    scores.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
