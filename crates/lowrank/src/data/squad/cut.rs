//! Cutting questions and their contexts into windows.

use rayon::prelude::*;

use super::normalize::is_space;
use super::question::{Question, Questions, Skipped};
use super::windows::Windows;
use crate::Result;
use crate::data::Tokenizer;
use crate::data::tokenizer::{EncodedWindow, WindowEncoder};

/// Contexts tokenised in parallel at a time; what these hold is the only memory beside the packed result.
const CHUNK: usize = 512;

/// How windows are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOptions {
    /// Tokens of a window, special tokens included.
    pub max_length: usize,
    /// Tokens of the context that consecutive windows share.
    pub stride: usize,
    /// Whether to keep where each token is in its context, which [`AnswerFinder`](super::AnswerFinder) needs.
    pub spans: bool,
}

impl Default for WindowOptions {
    fn default() -> Self {
        Self { max_length: 384, stride: 128, spans: true }
    }
}

impl Windows {
    /// Tokenises questions and contexts on all threads.
    ///
    /// White space before a question is left out, as it is in `run_qa.py`. A question too long for its windows is left
    /// out, and stands in [`Windows::skipped`].
    ///
    /// # Errors
    /// The tokeniser refuses a text; windows of this length cannot move on.
    pub fn new(tokenizer: &Tokenizer, questions: &Questions, options: &WindowOptions) -> Result<Self> {
        let encoder = WindowEncoder::new(tokenizer, options.max_length, options.stride)?;
        let mut windows = Self::none();
        let of_one_context: Vec<&[Question]> =
            questions.rows.chunk_by(|one, next| one.context == next.context).collect();
        let mut row = 0;
        for chunk in of_one_context.chunks(CHUNK) {
            let encoded: Vec<Vec<Encoded>> =
                chunk.par_iter().map(|rows| encode(&encoder, questions, rows)).collect::<Result<_>>()?;
            for (question, encoded) in chunk.iter().copied().flatten().zip(encoded.into_iter().flatten()) {
                match encoded {
                    Encoded::Windows(of_question) => {
                        for window in of_question {
                            windows.push(window, row, question, options.spans)?;
                        }
                    }
                    Encoded::TooLong(tokens) => windows.skip(question, tokens, &encoder, options),
                }
                row += 1;
            }
        }
        windows.shrink();
        Ok(windows)
    }

    fn skip(
        &mut self,
        question: &Question,
        tokens: usize,
        encoder: &WindowEncoder<'_>,
        options: &WindowOptions,
    ) {
        let WindowOptions { max_length, stride, .. } = options;
        let longest = encoder.longest_first();
        let reason = format!(
            "its {tokens} tokens leave no room in windows of max_length {max_length} with stride {stride}; at most \
             {longest} do"
        );
        self.skipped.push(Skipped { id: question.id.clone(), reason });
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
