//! Causal language modelling as a data set: every token is to be told from those before it.

use super::causal::{CausalDataset, CausalExample};
use crate::Result;
use crate::data::batch::{Batch, TokenRows};
use crate::data::batches::Pass;
use crate::data::collector::{Collector, Outputs, Prediction, Scores};
use crate::data::dataset::{Dataset, no_such_row};
use crate::data::example::{IGNORED, Labels};
use crate::data::tasks::TaskInfo;

impl Dataset for CausalDataset {
    fn len(&self) -> usize {
        self.len()
    }

    fn gather(&self, rows: &[u32], first: usize, _: Option<Pass>) -> Result<Batch> {
        let (mut tokens, mut labels) = (TokenRows::default(), Vec::new());
        for &row in rows {
            let example = self.get(row as usize).ok_or_else(|| no_such_row(row, self.len()))?;
            tokens.push(example.ids, &[]);
            labels.extend(next_tokens(&example));
        }
        Batch::of_tokens(tokens, Labels::Tokens(labels), first)
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint()
    }

    fn tokens(&self) -> usize {
        self.tokens()
    }

    fn lengths(&self) -> Vec<usize> {
        self.iter().map(|example| example.ids.len()).collect()
    }

    fn collector<'a>(&'a self, _: &'a TaskInfo) -> Box<dyn Collector + 'a> {
        Box::new(Perplexity)
    }

    fn truncated(&self) -> usize {
        self.truncated
    }

    fn skipped(&self) -> usize {
        self.skipped
    }

    fn skipped_because(&self) -> Option<String> {
        self.skipped_because.clone()
    }
}

/// What each token is to be followed by, where that is learnt.
fn next_tokens<'a>(example: &CausalExample<'a>) -> impl Iterator<Item = i64> + use<'a> {
    let next = example.ids.iter().zip(example.targets).skip(1);
    next.map(|(id, target)| if *target { i64::from(*id) } else { IGNORED }).chain([IGNORED])
}

/// The collector of tasks whose loss says all.
struct Perplexity;

impl Collector for Perplexity {
    fn add(&mut self, _: &[u32], _: &Batch, _: Outputs<'_>) -> Result<()> {
        Ok(())
    }

    fn scores(&self, loss: f64) -> Result<Scores> {
        // JSON knows no infinity.
        let perplexity = if loss.is_nan() { loss } else { loss.exp().min(f64::MAX) };
        Ok(Scores::from([("perplexity".to_owned(), perplexity), ("loss".to_owned(), loss)]))
    }

    fn predictions(&self) -> Result<Vec<Prediction>> {
        Ok(Vec::new())
    }

    fn reads_logits(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_labelled_with_the_token_that_follows_if_that_is_learnt() {
        let mut data = CausalDataset::empty();
        data.push(&[5, 6, 7, 8], &[true, false, true, true], 1);
        data.push(&[3, 4], &[false, true], 2);
        let batch = data.gather(&[0, 1], 4, None).unwrap();
        let ignored = IGNORED;
        assert_eq!(batch.labels, Labels::Tokens(vec![ignored, 7, 8, ignored, 4, ignored]));
        assert_eq!((batch.labels.len(), batch.examples.clone(), batch.tokens()), (3, vec![4, 5], 6));
        assert!(data.gather(&[2], 0, None).is_err());
    }

    #[test]
    fn perplexity_is_the_exponential_of_the_loss_and_stays_a_number() {
        assert_eq!(Perplexity.scores(0.0).unwrap()["perplexity"], 1.0);
        assert!((Perplexity.scores(2.5).unwrap()["perplexity"] - 2.5f64.exp()).abs() < 1e-9);
        assert_eq!(Perplexity.scores(1e6).unwrap()["perplexity"], f64::MAX);
    }
}
