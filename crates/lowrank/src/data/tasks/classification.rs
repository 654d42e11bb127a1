//! Text classification and regression on a table of one's own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::labels::{LabelSet, Target, canonical, several};
use super::table::{self, Format, Layout, Need, Role};
use super::tabular::{TabularTask, info};
use super::{Columns, TaskOptions};
use crate::{Error, Result};

/// The task's name in a run file.
pub(super) const NAME: &str = "text-classification";

/// Texts or pairs of texts with labels, in JSON lines, CSV or TSV with a header, or Parquet; with the label set of the
/// options, else that of their training file.
pub(super) fn open(options: &TaskOptions<'_>) -> Result<TabularTask> {
    let layout = layout(&options.columns);
    let target = match (&options.labels, options.training_file) {
        _ if options.regression => Target::Score,
        (Some(labels), _) if !labels.is_empty() => Target::Classes(LabelSet::new(labels.clone())),
        (_, Some(path)) => discover(path, options.further_files, &layout)?,
        _ => return Err(Error::Usage(format!("{NAME} needs a label set or a file to learn it from"))),
    };
    let metrics: &[&str] = match &target {
        Target::Score => &["pearson", "spearmanr"],
        Target::Classes(set) if set.names.len() == 2 => &["accuracy", "f1"],
        Target::Classes(_) => &["accuracy"],
    };
    Ok(TabularTask { info: info(NAME, &target, metrics), target, layout, format })
}

/// The label set of some files: what Parquet tells of its classes; else numbers in their order, other labels sorted;
/// numbers with a fraction make regression.
fn discover(path: &Path, further: &[PathBuf], layout: &Layout) -> Result<Target> {
    if let Some(names) = table::class_names(path, layout)? {
        return Ok(Target::Classes(LabelSet::new(names)));
    }
    let mut labels = BTreeSet::new();
    for path in std::iter::once(path).chain(further.iter().map(PathBuf::as_path)) {
        table::read(path, format(path)?, layout, 0, &mut |row| {
            let label = canonical(row.label.as_deref().unwrap_or_default());
            if label.is_empty() {
                return Err(Error::row(path, row.line, "its label is empty"));
            }
            labels.insert(label);
            Ok(())
        })?;
    }
    let number = |label: &String| label.parse::<f64>().ok().filter(|number| number.is_finite());
    let integers: Option<Vec<i64>> = labels.iter().map(|label| label.parse().ok()).collect();
    if integers.is_none() && labels.iter().all(|label| number(label).is_some()) {
        return Ok(Target::Score);
    }
    let mut names: Vec<String> = labels.into_iter().collect();
    if integers.is_some() {
        names.sort_by_key(|label| label.parse::<i64>().unwrap_or(i64::MAX));
    }
    Ok(Target::Classes(LabelSet::new(several(path, names)?)))
}

fn layout(columns: &Columns) -> Layout {
    // A second text that was asked for by its name must be there.
    let pair = if columns.text_pair.as_ref().is_some_and(|name| !name.is_empty()) {
        Need::Required
    } else {
        Need::Optional
    };
    Layout {
        text: Role::new("text", columns.text.as_ref(), &["text", "sentence", "sentence1"], Need::Required),
        pair: Role::new("text_pair", columns.text_pair.as_ref(), &["text_pair", "sentence2"], pair),
        label: Role::new("label", columns.label.as_ref(), &["label", "labels"], Need::Required),
        headerless: None,
        skip_ragged: false,
        names_classes: true,
    }
}

fn format(path: &Path) -> Result<Format> {
    Format::of(path).ok_or_else(|| {
        Error::file(path, "its name does not tell what it holds: .jsonl, .csv, .tsv or .parquet is needed")
    })
}
