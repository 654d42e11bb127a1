//! A text or a pair of texts, and what it is labelled with.

/// One row of a text classification or regression data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The text, or the first of a pair.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// The label; none where the data is only to be predicted.
    pub label: Option<Label>,
    /// The line in its file, counted from 1.
    pub line: usize,
}

/// What an example is labelled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Label {
    /// A class, by its place in the label set.
    Class(u32),
    /// A number to be met by regression.
    Score(f32),
}

/// The examples of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Examples {
    /// The examples in file order.
    pub rows: Vec<Example>,
    /// How many rows could not be used and were left out.
    pub skipped: usize,
    /// What is wrong with the first of these.
    pub skipped_because: Option<String>,
}

/// The labels of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// One class per example.
    Classes(Vec<i64>),
    /// One number per example.
    Scores(Vec<f32>),
    /// One class per token, or for a language model the next token; −100 where none is to be met.
    Tokens(Vec<i64>),
    /// Where each example's answer begins and ends, as tokens of its sequence; [`NOWHERE`] where nobody knows.
    Spans {
        /// The first tokens.
        starts: Vec<i64>,
        /// The last tokens.
        ends: Vec<i64>,
    },
    /// There are none.
    None,
}

/// The class that is not to be met, as in PyTorch.
pub const IGNORED: i64 = -100;

/// The place of an answer's token that does not count: beyond the end of every sequence.
pub const NOWHERE: i64 = i64::MAX;

impl Labels {
    /// Gathers labels of one kind; [`Labels::None`] if any is missing or they are of two kinds.
    pub fn gather(labels: impl IntoIterator<Item = Option<Label>>) -> Self {
        let (mut classes, mut scores, mut count) = (Vec::new(), Vec::new(), 0);
        for label in labels {
            count += 1;
            match label {
                Some(Label::Class(class)) => classes.push(i64::from(class)),
                Some(Label::Score(score)) => scores.push(score),
                None => {}
            }
        }
        match count {
            0 => Self::None,
            n if n == classes.len() => Self::Classes(classes),
            n if n == scores.len() => Self::Scores(scores),
            _ => Self::None,
        }
    }

    /// How many labels there are: the targets that a batch's loss is averaged over.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Scores(scores) => scores.len(),
            Self::Tokens(tokens) => tokens.iter().filter(|token| **token != IGNORED).count(),
            Self::Spans { starts, .. } => starts.iter().filter(|start| **start != NOWHERE).count(),
            Self::None => 0,
        }
    }

    /// Whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
