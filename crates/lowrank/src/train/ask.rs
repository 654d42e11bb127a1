//! A model and a task, ready to be evaluated or asked about a file.

use std::path::{Path, PathBuf};

use lowrank_kernels::Compute;

use super::adapted_model::{AdaptedModel, LoadOptions};
use super::dataset::note_losses;
use super::evaluate::{collect, evaluate};
use super::events::Observer;
use super::reading::{Noted, Reading};
use crate::adapter::AdapterFile;
use crate::data::{Columns, Dataset, Prediction, Scores, Task, TaskOptions, tasks};
use crate::hub::{self, RepositoryKind};
use crate::models::{HeadStyle, LoadIn};
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
    /// The file with the examples, a folder with a validation file, or the id of a data set of the Hub.
    pub data: &'a Path,
    /// Where the texts and the label are in a table; what is absent here and below is as the run that made the adapter or
    /// the model noted it, if it was of this task, else as the task has it.
    pub columns: Columns,
    /// The names of the head's outputs in their order; empty: as the adapter's run, the model or the task has them.
    pub labels: Vec<String>,
    /// The longest example in tokens.
    pub max_length: Option<usize>,
    /// By how many tokens the windows of a longer text overlap, where the task cuts windows.
    pub stride: Option<usize>,
    /// What is put before each source of an encoder-decoder.
    pub source_prefix: Option<&'a str>,
    /// Whether documents follow one another in blocks of one length.
    pub packing: Option<bool>,
    /// By how much "no answer" must be the better one to be said, where it may be.
    pub null_threshold: f64,
    /// The number of rows to read; 0: all.
    pub limit: usize,
    /// The type that is computed in; absent: the machine's own.
    pub compute: Option<Compute>,
    /// The layers of the head.
    pub style: HeadStyle,
    /// What the weights are loaded as.
    pub load_in: LoadIn,
}

impl AskOptions<'_> {
    /// Checks that what is given has a meaning for the task, even where it is the usual value.
    fn check_given(&self) -> Result<()> {
        let windows = tasks::usual_length(self.task).1 > 0;
        let foreign = [
            ("packing", self.packing.is_some() && self.task != tasks::TEXT, "packs no documents"),
            ("stride", self.stride.is_some() && !windows, "cuts no windows"),
        ];
        match foreign.into_iter().find(|(_, given, _)| *given) {
            Some((key, _, reason)) => {
                Err(Error::setting(key, format!("{} {reason}; leave it out", self.task)))
            }
            None => Ok(()),
        }
    }

    /// What is given here in the place of what was noted.
    fn over(&self, noted: Reading) -> Reading {
        let mut columns = noted.columns;
        columns.extend(&self.columns);
        Reading {
            columns,
            max_length: self.max_length.unwrap_or(noted.max_length),
            stride: self.stride.unwrap_or(noted.stride),
            source_prefix: self.source_prefix.map_or(noted.source_prefix, str::to_owned),
            packing: self.packing.unwrap_or(noted.packing),
        }
    }
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
    adapted: AdaptedModel,
    /// Labels that the adapter's run noted.
    noted_labels: Option<Vec<String>>,
    reading: Reading,
}

impl Ask {
    /// Loads the model and its adapter.
    ///
    /// # Errors
    /// As [`AdaptedModel::load`]; if something is given that has no meaning for the task; if the model has no head and
    /// no adapter brings one.
    pub fn load(options: &AskOptions<'_>) -> Result<Self> {
        options.check_given()?;
        let load = LoadOptions {
            compute: options.compute,
            num_labels: None,
            head: Some(tasks::head(options.task)?),
            style: options.style,
            load_in: options.load_in,
            ..LoadOptions::default()
        };
        let adapted = AdaptedModel::load(options.model, options.adapter, load)?;
        check_head(options, &adapted)?;
        let noted = match options.adapter {
            Some(adapter) => Noted::of(&hub::resolve(adapter, RepositoryKind::Adapter)?.path),
            None => Noted::of(adapted.folder()),
        };
        let noted_labels =
            noted.as_ref().filter(|_| options.adapter.is_some()).and_then(|n| n.labels.clone());
        let noted = noted.and_then(|noted| noted.reading(options.task));
        let reading = options.over(noted.unwrap_or_else(|| Reading::usual(options.task)));
        reading.check(options.task)?;
        Ok(Self { adapted, noted_labels, reading })
    }

    /// The task's metrics on labelled examples, and how many they are. The labels are those of the options, else those
    /// that the adapter's run noted, else the model's own, else the task's, or for a table of one's own those of the
    /// file.
    ///
    /// # Errors
    /// As [`tasks::open`]; if the task has another number of labels than the head; if the file cannot be read or an
    /// example has no label; or as [`AdaptedModel::forward`].
    pub fn evaluate(&self, options: &AskOptions<'_>, observer: &mut dyn Observer) -> Result<(Scores, usize)> {
        let files = tasks::evaluation(options.task, options.data)?;
        let labels = self.labels(options)?;
        let known = labels.names.is_some() || tasks::has_labels(options.task);
        let task = self.open(options, labels, &files)?;
        if !known && !task.info().regression {
            let names = task.info().labels.join(", ");
            observer.note(&format!("nobody noted the labels; those of the file, in this order: {names}"));
        }
        let dataset = self.dataset(options, &*task, &files, true, observer)?;
        let mut progress = |done| {
            observer.evaluating(done, dataset.len());
            Ok(())
        };
        let adapter = self.adapted.first_adapter();
        let scores = evaluate(&self.adapted, adapter, &*dataset, task.info(), &mut progress)?;
        Ok((scores, dataset.questions()))
    }

    /// The answers to examples, in the order of their file, whose labels are not looked at. The names of the labels come
    /// from where [`Ask::evaluate`] has them, but never from the file: they are `LABEL_0` and so on, as in Transformers,
    /// where nobody noted them.
    ///
    /// # Errors
    /// As [`Ask::evaluate`].
    pub fn predict(&self, options: &AskOptions<'_>, observer: &mut dyn Observer) -> Result<Vec<Prediction>> {
        let files = tasks::evaluation(options.task, options.data)?;
        let width = self.adapted.model().info().num_labels;
        let mut labels = self.labels(options)?;
        if labels.names.is_none() && !tasks::has_labels(options.task) {
            labels.names = Some((0..width).map(|id| format!("LABEL_{id}")).collect());
        }
        let task = self.open(options, labels, &files)?;
        let dataset = self.dataset(options, &*task, &files, false, observer)?;
        let mut collector = dataset.collector(task.info());
        let mut progress = |done| {
            observer.evaluating(done, dataset.len());
            Ok(())
        };
        let adapter = self.adapted.first_adapter();
        collect(&self.adapted, adapter, &*dataset, &mut *collector, &mut progress)?;
        collector.predictions()
    }

    /// The task, its labels fitting the head.
    fn open(&self, options: &AskOptions<'_>, labels: Labelling, files: &[PathBuf]) -> Result<Box<dyn Task>> {
        let width = self.adapted.model().info().num_labels;
        let given = labels.names.clone().filter(|_| labels.of_this_head).unwrap_or_default();
        let task_options = TaskOptions {
            columns: self.reading.columns.clone(),
            source_prefix: self.reading.source_prefix.clone(),
            labels: labels.names,
            regression: width == 1,
            strict: false,
            training_file: files.first().map(PathBuf::as_path),
            further_files: files.get(1..).unwrap_or_default(),
            model_labels: Vec::new(),
            null_threshold: options.null_threshold,
        };
        let task = tasks::open(options.task, &task_options)?;
        let info = task.info();
        if info.head.is_language_model() {
            if options.labels.is_empty() {
                return Ok(task);
            }
            return Err(Error::setting("labels", format!("{} has no labels", options.task)));
        }
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
        let width = self.adapted.model().info().num_labels;
        if !options.labels.is_empty() {
            return Ok(Labelling { names: Some(options.labels.clone()), of_this_head: true });
        }
        if let Some(labels) = self.noted_labels.clone().filter(|labels| labels.len() == width) {
            return Ok(Labelling { names: Some(labels), of_this_head: true });
        }
        if let Some(adapter) = options.adapter {
            let folder = hub::resolve(adapter, RepositoryKind::Adapter)?.path;
            if AdapterFile::open(&folder)?.num_labels().is_some() {
                // The adapter's head is not the one that the model's configuration names.
                return Ok(Labelling::default());
            }
        }
        let own = &self.adapted.config().labels;
        let generic = own.iter().enumerate().all(|(id, name)| *name == format!("LABEL_{id}"));
        let names = (own.len() == width && !generic).then(|| own.clone());
        Ok(Labelling { names, of_this_head: false })
    }

    fn dataset(
        &self,
        options: &AskOptions<'_>,
        task: &dyn Task,
        files: &[PathBuf],
        labelled: bool,
        observer: &mut dyn Observer,
    ) -> Result<Box<dyn Dataset>> {
        let info = self.adapted.model().info();
        self.adapted.notes().iter().for_each(|note| observer.note(note));
        let reader = self.reading.reader(self.adapted.folder(), info, observer);
        let dataset = task.dataset(files, options.limit, labelled, &reader)?;
        note_losses(&*dataset, "", reader.max_length, observer);
        Ok(dataset)
    }
}

fn check_head(options: &AskOptions<'_>, adapted: &AdaptedModel) -> Result<()> {
    match adapted.report().missing_head.first() {
        Some(missing) if options.adapter.is_none() => {
            let reason =
                format!("it has no head for this ({missing} is missing): name an adapter, or train one");
            Err(Error::file(options.model, reason))
        }
        _ => Ok(()),
    }
}
