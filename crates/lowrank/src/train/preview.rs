//! A run's data as its model will see them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::dataset::{RunData, note_losses, reader};
use super::events::Observer;
use super::run_file::RunFile;
use crate::Result;
use crate::data::tasks::{PreviewedExample, PreviewedImage};
use crate::data::{Dataset, TaskInfo};
use crate::hub::{self, RepositoryKind};
use crate::models::{self, HeadSpec};

/// The data of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Preview {
    /// The task.
    pub task: String,
    /// The longest example that is allowed, in tokens.
    pub max_length: usize,
    /// The first training examples.
    pub examples: Vec<PreviewedExample>,
    /// The training data.
    pub train: Statistics,
    /// The validation data.
    pub validation: Option<Statistics>,
}

/// A data set in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Statistics {
    /// Its examples.
    pub examples: usize,
    /// Its tokens.
    pub tokens: usize,
    /// The mean length of an example, in tokens.
    pub mean_length: f64,
    /// The length that half of the examples do not exceed.
    pub median_length: usize,
    /// The length that 95 of 100 examples do not exceed.
    pub p95_length: usize,
    /// The length of the longest.
    pub max_length: usize,
    /// Examples that lost their ends.
    pub truncated: usize,
    /// Rows that could not be used.
    pub skipped: usize,
    /// How often each label comes; empty in regression.
    pub labels: BTreeMap<String, usize>,
}

/// Reads the data of a run, and shows its first `count` training examples.
///
/// # Errors
/// If the data cannot be read, or the model has no configuration or tokeniser.
pub fn preview(run: &RunFile, count: usize, observer: &mut dyn Observer) -> Result<Preview> {
    let folder = hub::resolve(&run.model_source(), RepositoryKind::Configuration)?.path;
    let config = models::read_config(&folder)?;
    let data = RunData::open(run, &config)?;
    let task = data.task.info().clone();
    let model = models::from_config(&config, HeadSpec::new(task.head, task.num_labels))?;
    let reader = reader(run, &folder, model.info(), observer);
    let train = data.task.training_set(&data.files.train, run.data.limit, &reader)?;
    note_losses(&*train, "training", reader.max_length, observer);
    let train = Statistics::of(&*train, &task);
    let validation = match &data.files.validation {
        Some(files) => {
            let validation = data.task.dataset(files, 0, true, &reader)?;
            note_losses(&*validation, "validation", reader.max_length, observer);
            Some(Statistics::of(&*validation, &task))
        }
        None => None,
    };
    let first = if run.data.limit > 0 { count.min(run.data.limit) } else { count };
    let examples = match data.files.train.first() {
        Some(file) if first > 0 => data.task.preview(file, first, &reader)?,
        _ => Vec::new(),
    };
    Ok(Preview { task: task.name, max_length: reader.max_length, examples, train, validation })
}

impl Statistics {
    fn of(dataset: &dyn Dataset, task: &TaskInfo) -> Self {
        let mut lengths = dataset.lengths();
        lengths.sort_unstable();
        let labels = dataset.label_counts(task);
        Self {
            examples: lengths.len(),
            tokens: dataset.tokens(),
            mean_length: dataset.tokens() as f64 / lengths.len().max(1) as f64,
            median_length: quantile(&lengths, 0.5),
            p95_length: quantile(&lengths, 0.95),
            max_length: lengths.last().copied().unwrap_or(0),
            truncated: dataset.truncated(),
            skipped: dataset.skipped(),
            labels,
        }
    }
}

/// The smallest value that this share of the values does not exceed.
fn quantile(sorted: &[usize], share: f64) -> usize {
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(0)
}

/// What stands around tokens that are trained: brackets where there are no colours.
const BRACKETS: (&str, &str) = ("[[", "]]");
/// Green, and back.
const COLOURS: (&str, &str) = ("\x1b[32m", "\x1b[0m");

impl Preview {
    /// The preview for a terminal, where what is trained has a colour.
    pub fn coloured(&self) -> impl fmt::Display {
        struct Coloured<'a>(&'a Preview);
        impl fmt::Display for Coloured<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, COLOURS)
            }
        }
        Coloured(self)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, marks: (&str, &str)) -> fmt::Result {
        for example in &self.examples {
            if let Some(PreviewedImage { file, width, height }) = &example.image {
                writeln!(f, "{file}: {width} × {height}, label {}\n", example.label)?;
                continue;
            }
            let cut = if example.truncated { format!(", cut to {}", self.max_length) } else { String::new() };
            match &example.id {
                Some(id) => write!(f, "question {id}")?,
                None => write!(f, "line {}", example.line)?,
            }
            let trained = example.trained.iter().filter(|trained| **trained).count();
            let of = if trained > 0 { format!(", {trained} trained") } else { String::new() };
            write!(f, ": {} tokens{of}{cut}", example.ids.len())?;
            match (example.label.as_str(), &example.answer) {
                ("", _) => writeln!(f)?,
                (label, None) if example.id.is_some() => writeln!(f, ", not here: {label}")?,
                (label, Some(_)) => writeln!(f, ", answer «{label}»")?,
                (label, None) => writeln!(f, ", label {label}")?,
            }
            writeln!(f, "  text    {}", example.text)?;
            if let Some(pair) = &example.text_pair {
                writeln!(f, "  {}  {pair}", if trained > 0 { "target" } else { "pair  " })?;
            }
            writeln!(f, "  tokens  {}", marked(example, marks))?;
            let ids: Vec<String> = example.ids.iter().map(u32::to_string).collect();
            writeln!(f, "  ids     {}\n", ids.join(" "))?;
        }
        write!(f, "train: {}", self.train)?;
        match &self.validation {
            Some(validation) => write!(f, "\nvalidation: {validation}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, BRACKETS)
    }
}

/// The tokens with what is to be learnt of them: a label after its token, an answer in angle quotes, marks around each
/// stretch of those that are trained.
fn marked(example: &PreviewedExample, (open, close): (&str, &str)) -> String {
    let trained = |place: usize| example.trained.get(place).copied().unwrap_or(false);
    let mark = |(place, token): (usize, &String)| {
        let begins = trained(place) && (place == 0 || !trained(place - 1));
        let ends = trained(place) && !trained(place + 1);
        let tag = example.tags.get(place).filter(|tag| !tag.is_empty());
        let tag = tag.map(|tag| format!("/{tag}")).unwrap_or_default();
        let at = |end: usize| example.answer.is_some_and(|answer| answer[end] == place);
        let before = [(begins, open), (at(0), "«")];
        let after = [(at(1), "»"), (ends, close)];
        let shown = |marks: [(bool, &str); 2]| -> String {
            marks.into_iter().filter(|(shown, _)| *shown).map(|(_, mark)| mark).collect()
        };
        format!("{}{token}{}{tag}", shown(before), shown(after))
    };
    example.tokens.iter().enumerate().map(mark).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            examples,
            tokens,
            mean_length,
            median_length,
            p95_length,
            max_length,
            truncated,
            skipped,
            ..
        } = self;
        writeln!(f, "{examples} examples, {tokens} tokens; {truncated} cut, {skipped} skipped")?;
        write!(
            f,
            "  length: mean {mean_length:.1}, median {median_length}, p95 {p95_length}, max {max_length}"
        )?;
        if self.labels.is_empty() {
            return Ok(());
        }
        let labels: Vec<String> = self.labels.iter().map(|(name, count)| format!("{name} {count}")).collect();
        write!(f, "\n  labels: {}", labels.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::{BRACKETS, PreviewedExample, marked, quantile};

    #[test]
    fn each_stretch_of_trained_tokens_stands_between_marks() {
        let shown = |trained: &[bool]| {
            let tokens = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
            let example = PreviewedExample { tokens, trained: trained.to_vec(), ..Default::default() };
            marked(&example, BRACKETS)
        };
        assert_eq!(shown(&[false, true, true, false]), "a [[b c]] d");
        assert_eq!(shown(&[true, false, false, true]), "[[a]] b c [[d]]");
        assert_eq!(shown(&[]), "a b c d");
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<usize> = (1..=100).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.95)), (50, 95));
        assert_eq!((quantile(&[7], 0.95), quantile(&[], 0.5)), (7, 0));
    }
}
