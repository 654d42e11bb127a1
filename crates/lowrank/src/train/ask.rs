//! A model and a task, ready to be evaluated or asked about a file.

use std::path::Path;

use lowrank_kernels::Compute;
use serde::Serialize;

use super::classifier::{Classifier, LoadOptions};
use super::dataset::{labels_of_run, max_length, tokenize};
use super::evaluate::{Scores, all_logits, evaluate};
use super::events::Observer;
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
    /// The names of the head's outputs in their order; empty: as the adapter's run, the model or the task has them.
    pub labels: Vec<String>,
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

/// The names of the outputs of a head.
#[derive(Debug, Default)]
struct Labelling {
    names: Option<Vec<String>>,
    /// Whether they were given or noted for this very head, so that a task of other labels is a mistake.
    of_this_head: bool,
}

/// A model that is ready to be asked.
pub struct Ask {
    classifier: Classifier,
}

impl Ask {
    /// Loads the model and its adapter.
    ///
    /// # Errors
    /// As [`Classifier::load`]; if the model has no head and no adapter brings one.
    pub fn load(options: &AskOptions<'_>) -> Result<Self> {
        let load = LoadOptions { compute: options.compute, num_labels: None };
        let classifier = Classifier::load(options.model, options.adapter, load)?;
        check_head(options, &classifier)?;
        Ok(Self { classifier })
    }

    /// The task's metrics on labelled examples, and how many they are. The labels are those of the options, else those
    /// that the adapter's run noted, else the model's own, else the task's, or for a table of one's own those of the
    /// file.
    ///
    /// # Errors
    /// As [`tasks::open`]; if the task has another number of labels than the head; if the file cannot be read or an
    /// example has no label; or as [`Classifier::forward`].
    pub fn evaluate(&self, options: &AskOptions<'_>, observer: &mut dyn Observer) -> Result<(Scores, usize)> {
        let file = DataFiles::evaluation(options.data)?;
        let labels = self.labels(options)?;
        let known = labels.names.is_some() || tasks::has_labels(options.task);
        let task = self.open(options, labels, &file)?;
        if !known && !task.info().regression {
            let names = task.info().labels.join(", ");
            observer.note(&format!("nobody noted the labels; those of the file, in this order: {names}"));
        }
        let examples = task.read(&file, options.limit)?;
        let dataset = self.tokenize(options, &examples, observer)?;
        let mut progress = |done| {
            observer.evaluating(done, dataset.len());
            Ok(())
        };
        let adapter = self.classifier.first_adapter();
        let scores = evaluate(&self.classifier, adapter, &dataset, task.info(), &mut progress)?;
        Ok((scores, dataset.len()))
    }

    /// The answers to examples, in the order of their file, whose labels are not looked at. The names of the labels come
    /// from where [`Ask::evaluate`] has them, but never from the file: they are `LABEL_0` and so on, as in Transformers,
    /// where nobody noted them.
    ///
    /// # Errors
    /// As [`Ask::evaluate`].
    pub fn predict(&self, options: &AskOptions<'_>, observer: &mut dyn Observer) -> Result<Vec<Prediction>> {
        let file = DataFiles::evaluation(options.data)?;
        let width = self.classifier.model().info().num_labels;
        let mut labels = self.labels(options)?;
        if labels.names.is_none() && !tasks::has_labels(options.task) {
            labels.names = Some((0..width).map(|id| format!("LABEL_{id}")).collect());
        }
        let task = self.open(options, labels, &file)?;
        let examples = task.read_unlabelled(&file, options.limit)?;
        let dataset = self.tokenize(options, &examples, observer)?;
        let names = &task.info().labels;
        let mut lines = dataset.iter().map(|example| example.line);
        let mut predictions = Vec::with_capacity(dataset.len());
        all_logits(&self.classifier, self.classifier.first_adapter(), &dataset, |_, logits| {
            let rows = logits.chunks(width).zip(&mut lines);
            predictions.extend(rows.map(|(row, line)| predict_one(row, line, names)));
            observer.evaluating(predictions.len(), dataset.len());
            Ok(())
        })?;
        Ok(predictions)
    }

    /// The task, its labels fitting the head.
    fn open(&self, options: &AskOptions<'_>, labels: Labelling, file: &Path) -> Result<Box<dyn Task>> {
        let width = self.classifier.model().info().num_labels;
        let given = labels.names.clone().filter(|_| labels.of_this_head).unwrap_or_default();
        let task_options = TaskOptions {
            columns: options.columns.clone(),
            labels: labels.names,
            regression: width == 1,
            strict: false,
            training_file: Some(file),
        };
        let task = tasks::open(options.task, &task_options)?;
        let info = task.info();
        if info.num_labels != width {
            let reason = match &info.labels[..] {
                [] => format!("its head has {width} outputs, and {} is of one number", options.task),
                labels => format!(
                    "its head has {width} outputs, and {} has {} labels ({}); --labels names those of the head",
                    options.task,
                    labels.len(),
                    labels.join(", ")
                ),
            };
            return Err(Error::file(options.adapter.unwrap_or(options.model), reason));
        }
        let other = given.iter().zip(&info.labels).any(|(given, own)| !given.eq_ignore_ascii_case(own));
        let (own, given) = (info.labels.join(", "), given.join(", "));
        if other && !options.labels.is_empty() {
            return Err(Error::setting("labels", format!("{} has the labels {own}", options.task)));
        }
        if let (true, Some(adapter)) = (other, options.adapter) {
            let reason =
                format!("its labels are {given}, and those of {} are {own}: name its task", options.task);
            return Err(Error::file(adapter, reason));
        }
        Ok(task)
    }

    /// The names of the head's outputs in their order, as far as somebody wrote them down.
    fn labels(&self, options: &AskOptions<'_>) -> Result<Labelling> {
        let width = self.classifier.model().info().num_labels;
        if !options.labels.is_empty() {
            return Ok(Labelling { names: Some(options.labels.clone()), of_this_head: true });
        }
        if let Some(adapter) = options.adapter {
            let folder = hub::resolve(adapter, RepositoryKind::Adapter)?.path;
            if let Some(labels) = labels_of_run(&folder).filter(|labels| labels.len() == width) {
                return Ok(Labelling { names: Some(labels), of_this_head: true });
            }
            if AdapterFile::open(&folder)?.num_labels().is_some() {
                // The adapter's head is not the one that the model's configuration names.
                return Ok(Labelling::default());
            }
        }
        let own = &self.classifier.config().labels;
        let generic = own.iter().enumerate().all(|(id, name)| *name == format!("LABEL_{id}"));
        let names = (own.len() == width && !generic).then(|| own.clone());
        Ok(Labelling { names, of_this_head: false })
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
