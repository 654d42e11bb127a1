//! The tasks of GLUE in their published files.

use std::path::Path;

use super::labels::{LabelSet, Target};
use super::table::{self, Format, Layout, Need, Places, Role, Row};
use super::{Columns, Task, TaskInfo, TaskOptions};
use crate::data::example::{Example, Examples};
use crate::{Error, Result};

/// What tells one of GLUE's tasks from the others.
struct Facts {
    name: &'static str,
    text: &'static [&'static str],
    pair: &'static [&'static str],
    label: &'static [&'static str],
    /// In the order of the numbers in the files and of Hugging Face's ids; none: a score.
    labels: &'static [&'static str],
    /// The main one first.
    metrics: &'static [&'static str],
}

const ACCURACY: &[&str] = &["accuracy"];
const F1: &[&str] = &["f1", "accuracy"];
const SENTENCE: &[&str] = &["sentence"];
const FIRST: &[&str] = &["sentence1"];
const SECOND: &[&str] = &["sentence2"];
const LABEL: &[&str] = &["label"];
const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];

const FACTS: [Facts; 8] = [
    Facts {
        name: "sst2",
        text: SENTENCE,
        pair: &[],
        label: LABEL,
        labels: &["negative", "positive"],
        metrics: ACCURACY,
    },
    Facts {
        name: "cola",
        text: SENTENCE,
        pair: &[],
        label: &["label", "is_acceptable"],
        labels: &["unacceptable", "acceptable"],
        metrics: &["matthews_correlation"],
    },
    Facts { name: "rte", text: FIRST, pair: SECOND, label: LABEL, labels: ENTAILMENT, metrics: ACCURACY },
    Facts {
        name: "mrpc",
        text: &["#1 String", "sentence1"],
        pair: &["#2 String", "sentence2"],
        label: &["Quality", "label"],
        labels: &["not_equivalent", "equivalent"],
        metrics: F1,
    },
    Facts {
        name: "stsb",
        text: FIRST,
        pair: SECOND,
        label: &["score", "label"],
        labels: &[],
        metrics: &["pearson", "spearmanr"],
    },
    Facts {
        name: "qnli",
        text: &["question"],
        pair: &["sentence"],
        label: LABEL,
        labels: ENTAILMENT,
        metrics: ACCURACY,
    },
    Facts {
        name: "qqp",
        text: &["question1"],
        pair: &["question2"],
        label: &["is_duplicate", "label"],
        labels: &["not_duplicate", "duplicate"],
        metrics: F1,
    },
    Facts {
        name: "mnli",
        text: &["sentence1", "premise"],
        pair: &["sentence2", "hypothesis"],
        label: &["gold_label", "label"],
        labels: &["entailment", "neutral", "contradiction"],
        metrics: ACCURACY,
    },
];

/// CoLA's train and dev files have no header: source, label, the author's mark, sentence.
const COLA: Places = Places { text: 3, pair: None, label: Some(1), columns: 4 };

/// One of GLUE's tasks.
pub(super) struct Glue {
    info: TaskInfo,
    target: Target,
    layout: Layout,
}

impl Glue {
    /// The task of this name, if it is one of GLUE's.
    pub fn new(name: &str, options: &TaskOptions<'_>) -> Result<Option<Self>> {
        let Some(facts) = FACTS.iter().find(|facts| facts.name == name) else { return Ok(None) };
        let target = match facts.labels {
            [] => Target::Score,
            labels => Target::Classes(LabelSet::published(labels, options.labels.as_deref())),
        };
        let info = super::info(facts.name, &target, facts.metrics);
        let layout = layout(facts, &options.columns);
        Ok(Some(Self { info, target, layout }))
    }

    fn read_rows(&self, path: &Path, layout: &Layout, limit: usize, labelled: bool) -> Result<Examples> {
        // GLUE's own files are TSV whatever they are called.
        let format = Format::of(path).unwrap_or(Format::Tsv);
        let mut examples = Examples::default();
        table::read(path, format, layout, limit, &mut |row| {
            examples.rows.push(example(path, row, labelled.then_some(&self.target))?);
            Ok(())
        })?;
        Ok(examples)
    }
}

impl Task for Glue {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Examples> {
        self.read_rows(path, &self.layout, limit, true)
    }

    fn read_unlabelled(&self, path: &Path, limit: usize) -> Result<Examples> {
        self.read_rows(path, &super::unlabelled(&self.layout), limit, false)
    }
}

fn layout(facts: &Facts, columns: &Columns) -> Layout {
    let role = |what, chosen: &Option<String>, usual: &[&str]| {
        let names = match chosen {
            Some(name) if !name.is_empty() => vec![name.clone()],
            _ => usual.iter().map(|&name| name.to_owned()).collect(),
        };
        let need = if usual.is_empty() { Need::Ignored } else { Need::Required };
        Role { what, names, need }
    };
    Layout {
        text: role("text", &columns.text, facts.text),
        pair: role("text_pair", &columns.text_pair, facts.pair),
        label: role("label", &columns.label, facts.label),
        headerless: (facts.name == "cola" && columns.text.is_none()).then_some(COLA),
    }
}

/// The example of a row; without a target its label is not looked at.
pub(super) fn example(path: &Path, row: Row<'_>, target: Option<&Target>) -> Result<Example> {
    let Row { line, text, pair, label } = row;
    let label = match (target, label) {
        (Some(target), Some(label)) => {
            Some(target.read(&label).map_err(|reason| Error::row(path, line, reason))?)
        }
        (Some(_), None) => return Err(Error::row(path, line, "it has no label")),
        (None, _) => None,
    };
    Ok(Example { text: text.into_owned(), text_pair: pair.map(|pair| pair.into_owned()), label, line })
}
