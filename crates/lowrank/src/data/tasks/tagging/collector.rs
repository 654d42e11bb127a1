//! From the logits of tokens to the labels of words.

use super::dataset::TaggedDataset;
use crate::data::batch::Batch;
use crate::data::collector::{Collector, Outputs, Prediction, Scores};
use crate::data::metrics::{Entities, accuracy, argmax};
use crate::data::tasks::TaskInfo;
use crate::{Error, Result};

/// The collector of a [`TaggedDataset`].
pub(super) struct TagCollector<'a> {
    dataset: &'a TaggedDataset,
    task: &'a TaskInfo,
    /// For each example the class of each word that the model sees; empty as long as nobody asked.
    predicted: Vec<Vec<u32>>,
}

impl<'a> TagCollector<'a> {
    pub fn new(dataset: &'a TaggedDataset, task: &'a TaskInfo) -> Self {
        Self { dataset, task, predicted: vec![Vec::new(); dataset.lines.len()] }
    }

    fn check(&self) -> Result<()> {
        match self.predicted.iter().filter(|classes| classes.is_empty()).count() {
            0 => Ok(()),
            missing => Err(Error::Usage(format!("{missing} examples have no outputs"))),
        }
    }

    fn name(&self, class: u32) -> &str {
        self.task.labels.get(class as usize).map_or("O", String::as_str)
    }
}

impl Collector for TagCollector<'_> {
    fn add(&mut self, rows: &[u32], batch: &Batch, outputs: Outputs<'_>) -> Result<()> {
        let offsets = batch.text().map_or(&[][..], |text| text.offsets.as_slice());
        for (&row, offset) in rows.iter().zip(offsets) {
            let row = row as usize;
            let (Some(seen), Some(predicted)) = (self.dataset.seen(row), self.predicted.get_mut(row)) else {
                return Err(Error::Usage(format!("there is no example {row}")));
            };
            let class = |[token, _]: &[u32; 2]| {
                let at = (offset + *token as usize) * outputs.width;
                outputs.logits.get(at..at + outputs.width).map(argmax)
            };
            let classes: Option<Vec<u32>> = seen.firsts.iter().map(class).collect();
            *predicted = classes.ok_or_else(|| Error::Usage("fewer logits than tokens".to_owned()))?;
        }
        Ok(())
    }

    fn scores(&self, loss: f64) -> Result<Scores> {
        self.check()?;
        let mut entities = Entities::default();
        let (mut all_predicted, mut all_expected) = (Vec::new(), Vec::new());
        for (row, predicted) in self.predicted.iter().enumerate() {
            let expected = self.dataset.seen(row).map_or(&[][..], |seen| seen.classes);
            let names = |classes: &[u32]| classes.iter().map(|&class| self.name(class)).collect::<Vec<_>>();
            entities.add(&names(predicted), &names(expected));
            all_predicted.extend_from_slice(predicted);
            all_expected.extend_from_slice(expected);
        }
        let scores = [
            ("f1", entities.f1()),
            ("precision", entities.precision()),
            ("recall", entities.recall()),
            ("accuracy", accuracy(&all_predicted, &all_expected)),
            ("loss", loss),
        ];
        Ok(scores.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn predictions(&self) -> Result<Vec<Prediction>> {
        self.check()?;
        let answers = self.predicted.iter().enumerate().map(|(row, predicted)| {
            let words = self.dataset.words.get(row).map_or(0, |words| *words as usize);
            let mut tags = vec![None; words];
            let firsts = self.dataset.seen(row).map_or(&[][..], |seen| seen.firsts);
            for ([_, word], class) in firsts.iter().zip(predicted) {
                if let Some(tag) = tags.get_mut(*word as usize) {
                    *tag = Some(self.name(*class).to_owned());
                }
            }
            let line = self.dataset.lines.get(row).map_or(0, |line| *line as usize);
            Prediction::Tags { line, tags }
        });
        Ok(answers.collect())
    }
}
