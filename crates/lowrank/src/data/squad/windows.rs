//! Questions with their contexts as windows of tokens, packed.

use std::ops::Range;

use super::positions::positions;
use super::question::{Question, Skipped};
use crate::data::tokenizer::EncodedWindow;
use crate::data::type_ids::TypeIds;
use crate::fnv::Fnv;
use crate::{Error, Result};

/// What stands for a place that nobody says.
const UNKNOWN: u32 = u32::MAX;

/// The windows of all questions, one after the other, those of a question together.
#[derive(Debug, Clone, Default)]
pub struct Windows {
    ids: Vec<u32>,
    type_ids: TypeIds,
    /// `windows + 1` places in `ids`.
    bounds: Vec<usize>,
    places: Vec<Places>,
    /// Begin and end in the context, in code points, of the contexts' tokens only; empty if they are not kept.
    spans: Vec<[u32; 2]>,
    /// `windows + 1` places in `spans`.
    span_bounds: Vec<usize>,
    /// The questions that are too long for a window and have none.
    pub skipped: Vec<Skipped>,
}

/// What is known of a window besides its tokens.
#[derive(Debug, Clone, Copy)]
struct Places {
    question: u32,
    cls: u32,
    context: [u32; 2],
    answer: [u32; 2],
}

/// One of the [`Windows`].
#[derive(Debug, Clone)]
pub struct Window<'a> {
    /// Its token ids, special tokens included.
    pub ids: &'a [u32],
    /// Its token types; empty if all are 0.
    pub type_ids: &'a [u8],
    /// The row of its question.
    pub question: usize,
    /// The place of its first special token, which stands for "no answer here".
    pub cls: usize,
    /// The places of the context's tokens.
    pub context: Range<usize>,
    /// The places of the first answer's first and last token, both `cls` where it is not here or there is none; none
    /// where nobody says.
    pub answer: Option<(usize, usize)>,
    /// For each of the context's tokens, its begin and end in the context, in code points; empty if not kept.
    pub spans: &'a [[u32; 2]],
}

impl Windows {
    /// No windows yet.
    pub(super) fn none() -> Self {
        Self { bounds: vec![0], span_bounds: vec![0], ..Self::default() }
    }

    /// Gives back what was reserved and is not needed.
    pub(super) fn shrink(&mut self) {
        self.ids.shrink_to_fit();
        self.type_ids.shrink_to_fit();
        self.spans.shrink_to_fit();
    }

    /// Adds a window of the question at `row`; `keep`s its spans.
    pub(super) fn push(
        &mut self,
        window: EncodedWindow,
        row: usize,
        question: &Question,
        keep: bool,
    ) -> Result<()> {
        let EncodedWindow { ids, type_ids, cls, second, spans } = window;
        let answer = match answer(question) {
            Place::Unknown => [UNKNOWN; 2],
            Place::Nowhere => [narrow(cls)?; 2],
            Place::At(answer) => {
                let (start, end) = positions(&spans, second.start, cls, &answer);
                [narrow(start)?, narrow(end)?]
            }
        };
        self.type_ids.push(self.ids.len(), &type_ids, ids.len());
        self.ids.extend_from_slice(&ids);
        self.bounds.push(self.ids.len());
        if keep {
            self.spans.extend_from_slice(&spans);
        }
        self.span_bounds.push(self.spans.len());
        let context = [narrow(second.start)?, narrow(second.end)?];
        self.places.push(Places { question: narrow(row)?, cls: narrow(cls)?, context, answer });
        Ok(())
    }

    /// Adds the windows of other questions, the first of which is at `row`.
    pub(in crate::data) fn append(&mut self, other: Self, row: usize) {
        let (tokens, spans) = (self.ids.len(), self.spans.len());
        self.type_ids.append(tokens, other.type_ids, other.ids.len());
        self.ids.extend(other.ids);
        self.bounds.extend(other.bounds.iter().skip(1).map(|bound| tokens + bound));
        let row = u32::try_from(row).unwrap_or(u32::MAX);
        let places = other.places.into_iter();
        self.places.extend(places.map(|p| Places { question: row.saturating_add(p.question), ..p }));
        self.spans.extend(other.spans);
        self.span_bounds.extend(other.span_bounds.iter().skip(1).map(|bound| spans + bound));
        self.skipped.extend(other.skipped);
    }

    /// How many windows there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many tokens all windows have together.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The length of the longest window.
    pub fn longest(&self) -> usize {
        self.bounds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// The largest token id, to be compared with the model's vocabulary.
    pub fn largest_id(&self) -> Option<u32> {
        self.ids.iter().copied().max()
    }

    /// A number that changes with the tokens, segments and answers: FNV-1a over all of them.
    pub fn fingerprint(&self) -> u64 {
        let ids = self.ids.iter().map(|&id| u64::from(id));
        let bounds = self.bounds.iter().map(|&bound| bound as u64);
        let answers = self
            .places
            .iter()
            .map(|Places { answer: [start, end], .. }| (u64::from(*start) << 32) | u64::from(*end));
        let mut hash = Fnv::default();
        ids.chain(self.type_ids.words()).chain(bounds).chain(answers).for_each(|word| hash.add_word(word));
        hash.0
    }

    /// The window at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<Window<'_>> {
        let places = self.places.get(index)?;
        let tokens = *self.bounds.get(index)?..*self.bounds.get(index + 1)?;
        let spans = *self.span_bounds.get(index)?..*self.span_bounds.get(index + 1)?;
        let [start, end] = places.answer.map(|place| place as usize);
        Some(Window {
            ids: &self.ids[tokens.clone()],
            type_ids: self.type_ids.get(tokens),
            question: places.question as usize,
            cls: places.cls as usize,
            context: places.context[0] as usize..places.context[1] as usize,
            answer: (places.answer[0] != UNKNOWN).then_some((start, end)),
            spans: &self.spans[spans],
        })
    }

    /// The windows in the order of their questions.
    pub fn iter(&self) -> impl Iterator<Item = Window<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// Where the answer to be trained is, in code points of the context.
enum Place {
    Unknown,
    Nowhere,
    At(Range<u32>),
}

fn answer(question: &Question) -> Place {
    match question.answers.as_deref() {
        None => Place::Unknown,
        Some([]) => Place::Nowhere,
        Some([first, ..]) => {
            let end = first.start.map(|start| start + first.text.chars().count());
            match (first.start.map(u32::try_from), end.map(u32::try_from)) {
                (Some(Ok(start)), Some(Ok(end))) => Place::At(start..end),
                _ => Place::Unknown,
            }
        }
    }
}

fn narrow(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::Usage(format!("{number} questions or tokens are too many")))
}
