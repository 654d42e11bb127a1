//! What the demonstration found.

use std::fmt;

use serde::Serialize;

use crate::adapter::Grouped;

/// The result of the demonstration.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// What was trained, in order: the base model, then the adapters.
    pub rows: Vec<Row>,
    /// Answers of one loaded base model under one adapter after the other.
    pub switch: Vec<Switch>,
    /// Whether each adapter gave the same logits, bit for bit, after the switch there and back.
    pub same_after_switching_back: bool,
    /// The parameters of the base model.
    pub base_parameters: u64,
    /// All of it, in seconds.
    pub seconds: f64,
}

/// One training run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The task.
    pub task: String,
    /// `full` or `lora`.
    pub method: String,
    /// Accuracy with an untrained head, before the run.
    pub accuracy_before: f64,
    /// Accuracy after it.
    pub accuracy_after: f64,
    /// What was trained.
    pub trainable_parameters: u64,
    /// The size of what was saved: the adapter, or the whole model.
    pub file_bytes: u64,
    /// The time of the run.
    pub seconds: f64,
}

/// A sentence, and what each adapter says of it.
#[derive(Clone, Debug, Serialize)]
pub struct Switch {
    /// The sentence.
    pub text: String,
    /// Adapter and answer, in the order in which they were asked.
    pub answers: Vec<(String, String)>,
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nOne base model of {} parameters, and two adapters for it:\n",
            Grouped(self.base_parameters)
        )?;
        writeln!(
            f,
            "{:<12}{:<8}{:>8}{:>8}{:>12}{:>12}{:>10}",
            "task", "method", "before", "after", "trained", "file", "seconds"
        )?;
        for row in &self.rows {
            let (trained, size) = (Grouped(row.trainable_parameters).to_string(), size(row.file_bytes));
            writeln!(
                f,
                "{:<12}{:<8}{:>7.1}%{:>7.1}%{trained:>12}{size:>12}{:>10.1}",
                row.task,
                row.method,
                100.0 * row.accuracy_before,
                100.0 * row.accuracy_after,
                row.seconds,
            )?;
        }
        writeln!(f, "\nThe base model is loaded once; the adapters take turns:\n")?;
        for switch in &self.switch {
            writeln!(f, "  {}", switch.text)?;
            let answers: Vec<_> =
                switch.answers.iter().map(|(adapter, answer)| format!("{adapter}: {answer}")).collect();
            writeln!(f, "    {}", answers.join(", then "))?;
        }
        let same = if self.same_after_switching_back { "the same bits" } else { "OTHER BITS" };
        writeln!(f, "\nSwitching there and back gives {same}.")?;
        write!(f, "All of it took {:.0} seconds.", self.seconds)
    }
}

fn size(bytes: u64) -> String {
    format!("{:.1} kB", bytes as f64 / 1000.0)
}
