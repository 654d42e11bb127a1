//! Tasks whose examples are the rows of a table.

use std::path::Path;

use super::labels::Target;
use super::table::{self, Format, Layout, Need, Role, Row};
use super::{Task, TaskInfo};
use crate::data::example::{Example, Examples};
use crate::{Error, Result};

/// A task over texts or pairs of texts, one a row.
pub(super) struct TabularTask {
    pub(super) info: TaskInfo,
    pub(super) target: Target,
    pub(super) layout: Layout,
    /// What a file holds, by its name.
    pub(super) format: fn(&Path) -> Result<Format>,
}

impl TabularTask {
    fn read_rows(
        &self,
        path: &Path,
        layout: &Layout,
        limit: usize,
        target: Option<&Target>,
    ) -> Result<Examples> {
        let mut rows = Vec::new();
        let skipped = table::read(path, (self.format)(path)?, layout, limit, &mut |row| {
            rows.push(example(path, row, target)?);
            Ok(())
        })?;
        Ok(Examples { rows, skipped })
    }
}

impl Task for TabularTask {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Examples> {
        self.read_rows(path, &self.layout, limit, Some(&self.target))
    }

    fn read_unlabelled(&self, path: &Path, limit: usize) -> Result<Examples> {
        self.read_rows(path, &unlabelled(&self.layout), limit, None)
    }
}

/// The facts of a task with these answers and metrics, the main one first.
pub(super) fn info(name: &str, target: &Target, metrics: &[&'static str]) -> TaskInfo {
    let labels = match target {
        Target::Classes(set) => set.names.clone(),
        Target::Score => Vec::new(),
    };
    TaskInfo {
        name: name.to_owned(),
        num_labels: labels.len().max(1),
        regression: *target == Target::Score,
        positive: match target {
            Target::Classes(set) => set.positive(),
            Target::Score => 0,
        },
        labels,
        main_metric: metrics.first().copied().unwrap_or("loss"),
        metrics: metrics.to_vec(),
    }
}

/// The same columns without the label.
fn unlabelled(layout: &Layout) -> Layout {
    Layout { label: Role { need: Need::Ignored, ..layout.label.clone() }, ..layout.clone() }
}

/// The example of a row; without a target its label is not looked at.
fn example(path: &Path, row: Row<'_>, target: Option<&Target>) -> Result<Example> {
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
