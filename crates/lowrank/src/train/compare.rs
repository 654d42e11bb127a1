//! LoRA beside full training, on the same data.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::events::Summary;
use crate::Result;
use crate::adapter::Grouped;
use crate::data::Scores;
use crate::error::Error;
use crate::hub::{ADAPTER_CONFIG, ADAPTER_FILE, MODEL_CONFIG, MODEL_FILE};
use crate::text::decimals;

/// What a finished run cost, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// `lora` or `full`.
    pub method: String,
    /// What was trained.
    pub trainable_parameters: u64,
    /// All parameters.
    pub all_parameters: u64,
    /// The most memory that the run's process held.
    pub peak_rss_bytes: u64,
    /// The mean time of a step.
    pub step_seconds: f64,
    /// The metrics of the result.
    pub eval: Scores,
    /// What the result takes on the disk: the adapter or the model, without checkpoints and logs.
    pub bytes_on_disk: u64,
}

/// Runs side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// One for each method.
    pub runs: Vec<Compared>,
}

impl Compared {
    /// What a run's summary and its output folder say.
    ///
    /// # Errors
    /// If the folder does not hold the result.
    pub fn of(summary: &Summary, folder: &Path) -> Result<Self> {
        let files = if summary.method == "full" {
            [MODEL_FILE, MODEL_CONFIG]
        } else {
            [ADAPTER_FILE, ADAPTER_CONFIG]
        };
        let size = |name: &str| {
            let path = folder.join(name);
            path.metadata().map(|data| data.len()).map_err(Error::io(&path))
        };
        Ok(Self {
            method: summary.method.clone(),
            trainable_parameters: summary.trainable_parameters,
            all_parameters: summary.all_parameters,
            peak_rss_bytes: summary.peak_rss_bytes,
            step_seconds: summary.train_seconds / summary.steps.max(1) as f64,
            eval: summary.eval.clone(),
            bytes_on_disk: size(files[0])? + size(files[1])?,
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics: BTreeSet<&String> = self.runs.iter().flat_map(|run| run.eval.keys()).collect();
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let mut rows: Vec<(&str, Vec<String>)> = vec![
            ("", self.each(|run| run.method.clone())),
            ("trainable parameters", self.each(|run| Grouped(run.trainable_parameters).to_string())),
            ("all parameters", self.each(|run| Grouped(run.all_parameters).to_string())),
            ("peak memory", self.each(|run| megabytes(run.peak_rss_bytes))),
            ("step", self.each(|run| format!("{:.4} s", run.step_seconds))),
        ];
        for name in metrics {
            let score = |run: &Compared| run.eval.get(name).map_or_else(String::new, |x| decimals(*x, 4));
            rows.push((name, self.each(score)));
        }
        rows.push(("on disk", self.each(|run| megabytes(run.bytes_on_disk))));
        let name_width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let width = rows.iter().flat_map(|(_, cells)| cells).map(String::len).max().unwrap_or(0);
        for (index, (name, cells)) in rows.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{name:name_width$}")?;
            cells.iter().try_for_each(|cell| write!(f, "  {cell:>width$}"))?;
        }
        Ok(())
    }
}

impl Comparison {
    fn each(&self, cell: impl Fn(&Compared) -> String) -> Vec<String> {
        self.runs.iter().map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stand_in_columns_with_every_metric_that_one_of_them_has() {
        let run = |method: &str, eval: &[(&str, f64)]| Compared {
            method: method.into(),
            trainable_parameters: 74_498,
            all_parameters: 22_788_484,
            peak_rss_bytes: 444_108_800,
            step_seconds: 0.1714,
            eval: eval.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            bytes_on_disk: 301_000,
        };
        let runs = vec![run("lora", &[("accuracy", 0.8211), ("loss", 0.4)]), run("full", &[("loss", 0.3)])];
        let text = Comparison { runs }.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "                            lora        full");
        assert_eq!(lines[2], "all parameters        22,788,484  22,788,484");
        assert_eq!(lines[5].trim_end(), "accuracy                  0.8211");
        assert_eq!(lines[6], "loss                      0.4000      0.3000");
        assert_eq!(lines[7], "on disk                   0.3 MB      0.3 MB");
    }
}
