//! The tasks of GLUE in their published files.

use std::path::Path;

use super::labels::{LabelSet, Target};
use super::table::{Format, Layout, Need, Places, Role};
use super::tabular::{TabularTask, info};
use super::{Columns, TaskOptions};
use crate::Result;

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

/// The task of this name, if it is one of GLUE's.
pub(super) fn open(name: &str, options: &TaskOptions<'_>) -> Option<TabularTask> {
    let facts = FACTS.iter().find(|facts| facts.name == name)?;
    let target = match facts.labels {
        [] => Target::Score,
        labels => Target::Classes(LabelSet::published(labels, options.labels.as_deref())),
    };
    let info = info(facts.name, &target, facts.metrics);
    let mut layout = layout(facts, &options.columns);
    // Some rows of the published training data are torn: Hugging Face's reader leaves them out as well.
    layout.skip_ragged = facts.name == "qqp" && !options.strict;
    Some(TabularTask { info, target, layout, format })
}

/// GLUE's own files are TSV whatever they are called.
fn format(path: &Path) -> Result<Format> {
    Ok(Format::of(path).unwrap_or(Format::Tsv))
}

fn layout(facts: &Facts, columns: &Columns) -> Layout {
    let role = |what, chosen: &Option<String>, usual: &[&str]| {
        let need = if usual.is_empty() { Need::Ignored } else { Need::Required };
        Role::new(what, chosen.as_ref(), usual, need)
    };
    Layout {
        text: role("text", &columns.text, facts.text),
        pair: role("text_pair", &columns.text_pair, facts.pair),
        label: role("label", &columns.label, facts.label),
        headerless: (facts.name == "cola" && columns.text.is_none()).then_some(COLA),
        skip_ragged: false,
        names_classes: false,
    }
}
