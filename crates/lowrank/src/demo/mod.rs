//! The demonstration: a small language, a base model for it, two adapters, and the switch between them.
//!
//! Nothing is prepared: the language is made up here, and everything is trained with [`train::run`] from ordinary
//! run files, as a user would.

mod language;
mod report;
mod start;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use lowrank_kernels::Compute;

pub use language::{Question, Sentence, vocabulary};
pub use report::{DemoReport, Row, Switch};

use crate::adapter::ParameterCount;
use crate::data::metrics::argmax;
use crate::data::{Dataset, Example, Examples, Reader, Scores, TokenizedDataset};
use crate::hub::{ADAPTER_FILE, MODEL_FILE};
use crate::models::{initialise_head, read_config};
use crate::tape::AdapterId;
use crate::train::{
    self, AdaptedModel, LoadOptions, Method, Observer, RunData, RunFile, RunOptions, Summary, evaluate,
};
use crate::{Error, Result};

/// The places of the demonstration and how it computes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where data, models and runs stay; a temporary folder that is removed where this is absent.
    pub folder: Option<PathBuf>,
    /// The type that is computed in; absent: the machine's own.
    pub compute: Option<Compute>,
}

/// A run of the demonstration.
struct Plan {
    question: Question,
    method: Method,
    /// What is said when it begins.
    note: &'static str,
    /// The `[train]` section of its run file.
    settings: &'static str,
}

const RUNS: [Plan; 3] = [
    Plan {
        question: Question::Order,
        method: Method::Full,
        note: "The base model: all of it learns which sentences have their words in order.",
        settings: "[train]\nepochs = 4\nlearning_rate = 2e-3\n",
    },
    Plan {
        question: Question::Sentiment,
        method: Method::Lora,
        note: "An adapter on the frozen base: is something called good or bad?",
        settings: "[train]\nepochs = 5\nlearning_rate = 4e-3\n",
    },
    Plan {
        question: Question::Number,
        method: Method::Lora,
        note: "Another one: does one person act, or several?",
        settings: "[train]\nepochs = 2\nlearning_rate = 4e-3\n",
    },
];

/// The `[lora]` section of both adapters.
const LORA: &str = "[lora]\nr = 8\nlora_alpha = 16\ntarget_modules = \"all-linear\"\n\n";

/// The folder of the untrained model.
const START: &str = "start";
/// The folder of the base model: the output of the first run.
const BASE: &str = "order";

const TRAINING_SENTENCES: usize = 4000;
const VALIDATION_SENTENCES: usize = 500;
const SHOWN_SENTENCES: usize = 4;
/// Streams of sentences beyond those of the training data.
const VALIDATION: u64 = 100;
const SHOWN: u64 = 200;

/// Runs the demonstration.
///
/// # Errors
/// If a file cannot be written, or as [`train::run`].
pub fn run(options: &Options, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<DemoReport> {
    match &options.folder {
        Some(folder) => run_in(folder, options.compute, observer, stop),
        None => {
            let folder = tempfile::Builder::new().prefix("lowrank-demo-").tempdir();
            let folder = folder.map_err(Error::io(std::env::temp_dir()))?;
            run_in(folder.path(), options.compute, observer, stop)
        }
    }
}

fn run_in(
    folder: &Path,
    compute: Option<Compute>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<DemoReport> {
    let begun = Instant::now();
    start::write_model(&folder.join(START))?;
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    for (stream, plan) in (1..).zip(&RUNS) {
        let run = write_run(folder, plan, stream, compute)?;
        let accuracy_before = untrained_accuracy(&run)?;
        observer.note(&format!("\n{}", plan.note));
        let summary = train::run(&run, RunOptions { resume: false, overwrite: true }, observer, stop);
        let summary = summary.map_err(|error| match error {
            // Its checkpoint is of no use: the demonstration begins anew.
            Error::Interrupted { .. } => Error::Interrupted { step: 0 },
            error => error,
        })?;
        rows.push(row(&run, &summary, accuracy_before)?);
        labels.push(summary.labels);
    }
    let (base_parameters, switch, same_after_switching_back) = switch(folder, &labels[1..], compute)?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(DemoReport { rows, switch, same_after_switching_back, base_parameters, seconds })
}

/// Writes the data and the run file of a run, and reads the run file as any other.
fn write_run(folder: &Path, plan: &Plan, stream: u64, compute: Option<Compute>) -> Result<RunFile> {
    let name = plan.question.name();
    let (train, validation) = (format!("{name}-train.tsv"), format!("{name}-dev.tsv"));
    start::write_examples(&folder.join(&train), plan.question, stream, TRAINING_SENTENCES)?;
    start::write_examples(
        &folder.join(&validation),
        plan.question,
        VALIDATION + stream,
        VALIDATION_SENTENCES,
    )?;
    let model = if plan.method == Method::Full { START } else { BASE };
    let method = if plan.method == Method::Full { "full" } else { "lora" };
    let text = format!(
        "model = \"{model}\"\ntask = \"text-classification\"\noutput = \"{name}\"\nmethod = \"{method}\"\n\n\
         [data]\ntrain = \"{train}\"\nvalidation = \"{validation}\"\nmax_length = 32\n\n{}{}",
        if plan.method == Method::Full { "" } else { LORA },
        plan.settings
    );
    let path = folder.join(format!("{name}.toml"));
    start::write_text(&path, &text)?;
    let mut run = RunFile::read(&path)?;
    run.train.dtype = compute;
    Ok(run)
}

/// The accuracy of a run's model before the run, under a head that knows nothing.
fn untrained_accuracy(run: &RunFile) -> Result<f64> {
    let data = RunData::open(run, &read_config(Path::new(&run.model_source()))?)?;
    let task = data.task.info();
    let num_labels = Some(task.num_labels);
    let load = LoadOptions { compute: Some(run.compute()), num_labels, ..LoadOptions::default() };
    let mut adapted = AdaptedModel::load(&run.model_source(), None, load)?;
    initialise_head(adapted.model_mut(), run.train.seed)?;
    let files = data.files.validation.as_ref().unwrap_or(&data.files.train);
    let info = adapted.model().info();
    let reader = Reader::new(adapted.folder(), info, info.max_length);
    let dataset = data.task.dataset(files, 0, true, &reader)?;
    Ok(accuracy(&evaluate(&adapted, None, &*dataset, task, &mut |_| Ok(()))?))
}

fn accuracy(scores: &Scores) -> f64 {
    scores.get("accuracy").copied().unwrap_or(f64::NAN)
}

fn row(run: &RunFile, summary: &Summary, accuracy_before: f64) -> Result<Row> {
    let file = run.output.join(if run.method == Method::Full { MODEL_FILE } else { ADAPTER_FILE });
    Ok(Row {
        task: run.output.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        method: summary.method.clone(),
        accuracy_before,
        accuracy_after: accuracy(&summary.eval),
        trainable_parameters: summary.trainable_parameters,
        file_bytes: fs::metadata(&file).map_err(Error::io(&file))?.len(),
        seconds: summary.total_seconds,
    })
}

/// Loads the base model once, with both adapters, and asks it under the one, the other, and the one again.
fn switch(
    folder: &Path,
    labels: &[Vec<String>],
    compute: Option<Compute>,
) -> Result<(u64, Vec<Switch>, bool)> {
    let path = |plan: &Plan| folder.join(plan.question.name()).to_string_lossy().into_owned();
    let load = LoadOptions { compute, ..LoadOptions::default() };
    let mut adapted = AdaptedModel::load(&path(&RUNS[0]), Some(&path(&RUNS[1])), load)?;
    adapted.attach(&path(&RUNS[2]))?;
    let texts: Vec<String> =
        start::sentences(Question::Sentiment, SHOWN, SHOWN_SENTENCES).iter().map(Sentence::text).collect();
    let example = |text: &String| Example { text: text.clone(), text_pair: None, label: None, line: 1 };
    let examples = Examples { rows: texts.iter().map(example).collect(), ..Examples::default() };
    let dataset = TokenizedDataset::new(&adapted.tokenizer()?, &examples, adapted.model().info().max_length)?;
    let batch = dataset.gather(&(0..dataset.len() as u32).collect::<Vec<_>>(), 0, None)?;

    let turns = [0, 1, 0];
    let logits = turns.map(|turn| adapted.logits(&batch, Some(AdapterId(turn))));
    let [first, second, third] = logits;
    let logits = [first?, second?, third?];
    let width = adapted.model().info().num_labels;
    let answer = |sentence: usize, turn: usize| {
        let adapter = usize::from(turns[turn]);
        let class = argmax(&logits[turn][sentence * width..][..width]) as usize;
        let answer = labels[adapter].get(class).cloned().unwrap_or_default();
        (RUNS[1 + adapter].question.name().to_owned(), answer)
    };
    let shown = texts.into_iter().enumerate().map(|(sentence, text)| {
        let answers = (0..turns.len()).map(|turn| answer(sentence, turn)).collect();
        Switch { text, answers }
    });
    Ok((ParameterCount::of_base(adapted.model()).all, shown.collect(), logits[0] == logits[2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_learn_what_the_base_model_does_not_know_and_switch_without_a_trace() {
        let report = run(&Options::default(), &mut train::Silent, &AtomicBool::new(false)).unwrap();
        for row in &report.rows {
            assert!(row.accuracy_before < 0.7, "{row:?}");
            assert!(row.accuracy_after > 0.9, "{row:?}");
        }
        let [base, adapters @ ..] = &report.rows[..] else { panic!("three rows") };
        assert!(adapters.iter().all(|row| row.file_bytes * 4 < base.file_bytes));
        assert!(report.same_after_switching_back);
        for switch in &report.switch {
            assert_eq!(switch.answers[0], switch.answers[2]);
        }
    }
}
