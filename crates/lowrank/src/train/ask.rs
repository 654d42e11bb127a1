//! A model and a task, ready to be evaluated or asked about a file.

use std::path::Path;

use lowrank_kernels::Compute;
use serde::Serialize;

use super::classifier::{Classifier, LoadOptions};
use super::dataset::{max_length, tokenize};
use super::evaluate::{Scores, all_logits, evaluate};
use super::events::Observer;
use super::output::SUMMARY_FILE;
use crate::adapter::AdapterFile;
use crate::data::metrics::argmax;
use crate::data::{Columns, DataFiles, Examples, Task, TaskOptions, TokenizedDataset, tasks};
use crate::hub::{self, RepositoryKind};
use crate::{Error, Result};

/// What to ask, and whom.
#[derive(Clone, Debug)]
pub struct AskOptions<'a> {
    /// The base model: a folder or Hub id.
    pub model: &'a str,
    /// The adapter: a folder or Hub id.
    pub adapter: Option<&'a str>,
    /// The task's name.
    pub task: &'a str,
    /// The file with the examples, or a folder with a validation file.
    pub data: &'a Path,
    /// Where the texts and the label are in a table.
    pub columns: Columns,
    /// The longest example in tokens.
    pub max_length: usize,
    /// The number of rows to read; 0: all.
    pub limit: usize,
    /// The type that is computed in; absent: the machine's own.
    pub compute: Option<Compute>,
}

/// The answer to one example.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The example's line in its file, from 1.
    pub line: usize,
    /// The label; absent in regression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The label's probability; absent in regression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// The number that was predicted; absent in classification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// The model's outputs.
    pub logits: Vec<f32>,
}

/// A model that is ready for a task.
pub struct Ask {
    classifier: Classifier,
    task: Box<dyn Task>,
}

impl Ask {
    /// Loads the model and opens the task. The labels are those that the adapter's run noted, else the model's own,
    /// else the task's, or for a table of one's own those of the file.
    ///
    /// # Errors
    /// As [`Classifier::load`] and [`tasks::open`]; if the model has no head for the task, or one of another width.
    pub fn load(options: &AskOptions<'_>) -> Result<Self> {
        let load = LoadOptions { compute: options.compute, num_labels: None };
        let classifier = Classifier::load(options.model, options.adapter, load)?;
        let width = classifier.model().info().num_labels;
        check_head(options, &classifier)?;
        let data = DataFiles::evaluation(options.data)?;
        let task_options = TaskOptions {
            columns: options.columns.clone(),
            labels: labels(options, &classifier)?,
            regression: width == 1,
            training_file: Some(&data),
        };
        let task = tasks::open(options.task, &task_options)?;
        let info = task.info();
        if info.num_labels != width {
            let reason =
                format!("its head has {width} outputs, and {} has {} labels", options.task, info.num_labels);
            return Err(Error::file(options.adapter.unwrap_or(options.model), reason));
        }
        Ok(Self { classifier, task })
    }

    /// The task's metrics on labelled examples.
    ///
    /// # Errors
    /// If the file cannot be read or an example has no label, or as [`Classifier::forward`].
    pub fn evaluate(&self, options: &AskOptions<'_>, observer: &mut dyn Observer) -> Result<(Scores, usize)> {
        let examples = self.task.read(&DataFiles::evaluation(options.data)?, options.limit)?;
        let dataset = self.tokenize(options, &examples, observer)?;
        let scores = evaluate(&self.classifier, self.classifier.first_adapter(), &dataset, self.task.info())?;
        Ok((scores, dataset.len()))
    }

    /// The answers to examples, in the order of their file; labels are not looked at.
    ///
    /// # Errors
    /// If the file cannot be read, or as [`Classifier::forward`].
    pub fn predict(&self, options: &AskOptions<'_>, observer: &mut dyn Observer) -> Result<Vec<Prediction>> {
        let examples = self.task.read_unlabelled(&DataFiles::evaluation(options.data)?, options.limit)?;
        let dataset = self.tokenize(options, &examples, observer)?;
        let (width, names) = (self.classifier.model().info().num_labels, &self.task.info().labels);
        let mut lines = dataset.iter().map(|example| example.line);
        let mut predictions = Vec::with_capacity(dataset.len());
        all_logits(&self.classifier, self.classifier.first_adapter(), &dataset, |_, logits| {
            let rows = logits.chunks(width).zip(&mut lines);
            predictions.extend(rows.map(|(row, line)| predict_one(row, line, names)));
            Ok(())
        })?;
        Ok(predictions)
    }

    fn tokenize(
        &self,
        options: &AskOptions<'_>,
        examples: &Examples,
        observer: &mut dyn Observer,
    ) -> Result<TokenizedDataset> {
        let info = self.classifier.model().info();
        let length = max_length(options.max_length, info, observer);
        let dataset = tokenize(&self.classifier.tokenizer()?, examples, length, info)?;
        if dataset.truncated > 0 {
            observer.note(&format!("{} examples are cut to {length} tokens", dataset.truncated));
        }
        Ok(dataset)
    }
}

fn check_head(options: &AskOptions<'_>, classifier: &Classifier) -> Result<()> {
    match classifier.report().missing_head.first() {
        Some(missing) if options.adapter.is_none() => {
            let reason =
                format!("it has no head for this ({missing} is missing): name an adapter, or train one");
            Err(Error::file(options.model, reason))
        }
        _ => Ok(()),
    }
}

/// The names of the head's outputs in their order, as far as somebody wrote them down.
fn labels(options: &AskOptions<'_>, classifier: &Classifier) -> Result<Option<Vec<String>>> {
    let width = classifier.model().info().num_labels;
    if let Some(adapter) = options.adapter {
        let folder = hub::resolve(adapter, RepositoryKind::Adapter)?.path;
        if let Some(labels) = labels_of_run(&folder).filter(|labels| labels.len() == width) {
            return Ok(Some(labels));
        }
        if AdapterFile::open(&folder)?.num_labels().is_some() {
            // The adapter's head is not the one that the model's configuration names.
            return Ok(None);
        }
    }
    let own = &classifier.config().labels;
    let generic = own.iter().enumerate().all(|(id, name)| *name == format!("LABEL_{id}"));
    Ok((own.len() == width && !generic).then(|| own.clone()))
}

/// The labels in the summary of the run that made an adapter. An adapter from elsewhere has none.
fn labels_of_run(folder: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(folder.join(SUMMARY_FILE)).ok()?;
    let summary: serde_json::Value = serde_json::from_str(&text).ok()?;
    summary.get("labels")?.as_array()?.iter().map(|label| label.as_str().map(str::to_owned)).collect()
}

fn predict_one(logits: &[f32], line: usize, names: &[String]) -> Prediction {
    let mut prediction =
        Prediction { line, label: None, probability: None, score: None, logits: logits.to_vec() };
    if names.is_empty() {
        prediction.score = logits.first().copied();
    } else {
        let class = argmax(logits) as usize;
        prediction.label = names.get(class).cloned();
        prediction.probability = Some(softmax_of(logits, class));
    }
    prediction
}

fn softmax_of(logits: &[f32], class: usize) -> f64 {
    let own = logits.get(class).copied().unwrap_or(f32::NAN);
    1.0 / logits.iter().map(|logit| f64::from(logit - own).exp()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_its_label_and_probability_or_its_number() {
        let names = ["no".to_owned(), "yes".to_owned()];
        let answer = predict_one(&[0.0, 3f32.ln()], 7, &names);
        assert_eq!((answer.line, answer.label.as_deref(), answer.score), (7, Some("yes"), None));
        assert!((answer.probability.unwrap() - 0.75).abs() < 1e-6);
        let number = predict_one(&[2.5], 1, &[]);
        assert_eq!((number.label, number.probability, number.score), (None, None, Some(2.5)));
    }
}
