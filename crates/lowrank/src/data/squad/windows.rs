//! Questions with their contexts as windows of tokens, packed.

use std::ops::Range;

use rayon::prelude::*;

use super::normalize::is_space;
use super::positions::positions;
use super::question::{Question, Questions, Skipped};
use crate::data::Tokenizer;
use crate::data::tokenizer::{EncodedWindow, WindowEncoder};
use crate::{Error, Result};

/// Contexts tokenised in parallel at a time; what these hold is the only memory beside the packed result.
const CHUNK: usize = 512;

/// What stands for a place that nobody says.
const UNKNOWN: u32 = u32::MAX;

/// How windows are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOptions {
    /// Tokens of a window, special tokens included.
    pub max_length: usize,
    /// Tokens of the context that consecutive windows share.
    pub stride: usize,
    /// Whether to keep where each token is in its context, which [`AnswerFinder`](super::AnswerFinder) needs.
    pub spans: bool,
    /// Whether a question too long for its windows is an error; it is left out otherwise.
    pub strict: bool,
}

impl Default for WindowOptions {
    fn default() -> Self {
        Self { max_length: 384, stride: 128, spans: true, strict: false }
    }
}

/// The windows of all questions, one after the other, those of a question together.
#[derive(Debug, Clone, Default)]
pub struct Windows {
    ids: Vec<u32>,
    /// Of each token; empty if all are 0.
    type_ids: Vec<u8>,
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
    /// Tokenises questions and contexts on all threads.
    ///
    /// White space before a question is left out, as it is in `run_qa.py`.
    ///
    /// # Errors
    /// The tokeniser refuses a text; windows of this length cannot move on; with [`WindowOptions::strict`] a question
    /// is too long for its windows.
    pub fn new(tokenizer: &Tokenizer, questions: &Questions, options: &WindowOptions) -> Result<Self> {
        let encoder = WindowEncoder::new(tokenizer, options.max_length, options.stride)?;
        let mut windows = Self { bounds: vec![0], span_bounds: vec![0], ..Self::default() };
        let of_one_context: Vec<&[Question]> =
            questions.rows.chunk_by(|one, next| one.context == next.context).collect();
        let mut row = 0;
        for chunk in of_one_context.chunks(CHUNK) {
            let encoded: Vec<Vec<Encoded>> = chunk
                .par_iter()
                .map(|rows| encode(&encoder, questions, rows))
                .collect::<Result<_>>()?;
            for (question, encoded) in chunk.iter().copied().flatten().zip(encoded.into_iter().flatten()) {
                match encoded {
                    Encoded::Windows(of_question) => {
                        for window in of_question {
                            windows.push(window, row, question, options.spans)?;
                        }
                    }
                    Encoded::TooLong(tokens) => windows.skip(question, tokens, &encoder, options)?,
                }
                row += 1;
            }
        }
        windows.ids.shrink_to_fit();
        windows.type_ids.shrink_to_fit();
        windows.spans.shrink_to_fit();
        Ok(windows)
    }

    fn push(&mut self, window: EncodedWindow, row: usize, question: &Question, keep: bool) -> Result<()> {
        let EncodedWindow { ids, type_ids, cls, second, spans } = window;
        let answer = match answer(question) {
            Place::Unknown => [UNKNOWN; 2],
            Place::Nowhere => [narrow(cls)?; 2],
            Place::At(answer) => {
                let (start, end) = positions(&spans, second.start, cls, &answer);
                [narrow(start)?, narrow(end)?]
            }
        };
        if type_ids.iter().any(|&id| id != 0) {
            self.type_ids.resize(self.ids.len(), 0);
            self.type_ids.extend(type_ids.iter().map(|&id| u8::try_from(id).unwrap_or(u8::MAX)));
        } else if !self.type_ids.is_empty() {
            self.type_ids.resize(self.ids.len() + ids.len(), 0);
        }
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

    fn skip(
        &mut self,
        question: &Question,
        tokens: usize,
        encoder: &WindowEncoder<'_>,
        options: &WindowOptions,
    ) -> Result<()> {
        let WindowOptions { max_length, stride, .. } = options;
        let longest = encoder.longest_first();
        let reason = format!(
            "its {tokens} tokens leave no room in windows of max_length {max_length} with stride {stride}; at most \
             {longest} do"
        );
        let id = question.id.clone();
        if options.strict {
            return Err(Error::Usage(format!("question {id:?}: {reason}")));
        }
        self.skipped.push(Skipped { id, reason });
        Ok(())
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

    /// The window at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<Window<'_>> {
        let places = self.places.get(index)?;
        let tokens = *self.bounds.get(index)?..*self.bounds.get(index + 1)?;
        let spans = *self.span_bounds.get(index)?..*self.span_bounds.get(index + 1)?;
        let [start, end] = places.answer.map(|place| place as usize);
        Some(Window {
            ids: &self.ids[tokens.clone()],
            type_ids: self.type_ids.get(tokens).unwrap_or(&[]),
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

/// A question's windows, or its tokens if they are too many.
enum Encoded {
    Windows(Vec<EncodedWindow>),
    TooLong(usize),
}

/// The questions on one context, which is tokenised once.
fn encode(encoder: &WindowEncoder<'_>, questions: &Questions, rows: &[Question]) -> Result<Vec<Encoded>> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let context = encoder.part(questions.context(first))?;
    rows.iter()
        .map(|question| {
            let text = encoder.part(question.text.trim_start_matches(is_space))?;
            let windows = encoder.windows(&text, &context)?;
            Ok(windows.map_or_else(|| Encoded::TooLong(text.len()), Encoded::Windows))
        })
        .collect()
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
