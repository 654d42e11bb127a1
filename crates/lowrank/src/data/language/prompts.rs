//! Prompts that are to be answered.

use std::path::Path;

use super::causal::in_order;
use super::example::{Completion, Conversation, Rows};
use crate::data::batch::{Batch, TokenRows};
use crate::data::batches::Pass;
use crate::data::chat::{ChatTemplate, Message};
use crate::data::collector::{Collector, Outputs, Prediction, Scores};
use crate::data::dataset::{Dataset, no_such_row};
use crate::data::example::Labels;
use crate::data::reader::Reader;
use crate::data::stream::continuation;
use crate::data::tasks::TaskInfo;
use crate::data::tokenizer::Tokenizer;
use crate::fnv::Fnv;
use crate::{Error, Result};

/// The tokens of prompts, whole: what is beyond the model's positions is an error, for an answer to half a question is
/// none.
pub struct PromptDataset {
    prompts: Vec<Vec<u32>>,
    lines: Vec<usize>,
    tokenizer: Tokenizer,
    /// The most tokens of an answer.
    longest_answer: usize,
    /// The token that a chat template ends an answer with.
    turn_end: Option<u32>,
}

impl PromptDataset {
    /// The prompts of rows; their completions are not looked at.
    ///
    /// # Errors
    /// The tokeniser refuses a text; a prompt is empty, or leaves the model no position for an answer.
    pub fn from_completions(reader: &Reader, rows: &Rows<Completion>) -> Result<Self> {
        let tokenizer = reader.tokenizer()?;
        Self::new(reader, &rows.path, &rows.rows, |row| Ok((prompt_ids(tokenizer, &row.prompt)?, row.line)))
    }

    /// Conversations up to the assistant's last turn, which is not looked at, and the beginning of another one.
    ///
    /// # Errors
    /// As [`PromptDataset::from_completions`]; if the chat template refuses a conversation.
    pub fn from_conversations(
        reader: &Reader,
        template: &ChatTemplate,
        rows: &Rows<Conversation>,
    ) -> Result<Self> {
        let tokenizer = reader.tokenizer()?;
        let prompts = Self::new(reader, &rows.path, &rows.rows, |row| {
            let refuse = |error: Error| Error::row(&rows.path, row.line, error.to_string());
            let asked = asked(&row.messages);
            let text = template.render(asked, row.tools.as_ref(), true).map_err(refuse)?;
            Ok((tokenizer.encode_with_offsets(&text, false)?.ids, row.line))
        })?;
        let turn_end = template.turn_end(&tokenizer.special_tokens()).and_then(|token| tokenizer.id(token));
        Ok(Self { turn_end, ..prompts })
    }

    /// Adds the prompts of another file.
    pub(crate) fn append(&mut self, other: Self) {
        self.prompts.extend(other.prompts);
        self.lines.extend(other.lines);
    }

    fn new<T: Sync>(
        reader: &Reader,
        path: &Path,
        rows: &[T],
        make: impl Fn(&T) -> Result<(Vec<u32>, usize)> + Sync,
    ) -> Result<Self> {
        let positions = reader.info.positions();
        let (mut prompts, mut lines) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        in_order(rows, make, |_, (ids, line)| {
            if ids.is_empty() {
                return Err(Error::row(path, line, "its prompt is empty"));
            }
            if positions > 0 && ids.len() >= positions {
                let reason = format!(
                    "its prompt has {} tokens, which leaves none of the model's {positions} positions",
                    ids.len()
                );
                return Err(Error::row(path, line, reason));
            }
            prompts.push(ids);
            lines.push(line);
            Ok(())
        })?;
        reader.check_vocabulary(prompts.iter().flatten().copied().max())?;
        let tokenizer = reader.tokenizer()?.clone();
        Ok(Self { prompts, lines, tokenizer, longest_answer: reader.max_length, turn_end: None })
    }
}

/// The tokens that a text is gone on from: without an end token, with which there would be nothing to go on from.
pub(crate) fn prompt_ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let mut ids = tokenizer.encode_with_offsets(text, true)?.ids;
    // Where the text itself ends with that token, so be it.
    let added = tokenizer.encode_with_offsets(text, false)?.ids.last() != ids.last();
    if added && tokenizer.eos_id().is_some() && ids.last() == tokenizer.eos_id().as_ref() {
        ids.pop();
    }
    Ok(ids)
}

/// A conversation without the answer at its end.
fn asked(messages: &[Message]) -> &[Message] {
    match messages.split_last() {
        Some((last, before)) if last.get("role").and_then(|role| role.as_str()) == Some("assistant") => {
            before
        }
        _ => messages,
    }
}

impl Dataset for PromptDataset {
    fn len(&self) -> usize {
        self.prompts.len()
    }

    fn gather(&self, rows: &[u32], first: usize, _: Option<Pass>) -> Result<Batch> {
        let mut tokens = TokenRows::default();
        for &row in rows {
            let prompt = self.prompts.get(row as usize).ok_or_else(|| no_such_row(row, self.len()))?;
            tokens.push(prompt, &[]);
        }
        Batch::of_tokens(tokens, Labels::None, first)
    }

    fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        for prompt in &self.prompts {
            hash.add_word(prompt.len() as u64);
            prompt.iter().for_each(|&id| hash.add_word(u64::from(id)));
        }
        hash.0
    }

    fn tokens(&self) -> usize {
        self.prompts.iter().map(Vec::len).sum()
    }

    fn lengths(&self) -> Vec<usize> {
        self.prompts.iter().map(Vec::len).collect()
    }

    fn collector<'a>(&'a self, _: &'a TaskInfo) -> Box<dyn Collector + 'a> {
        Box::new(Answers { data: self, texts: Vec::with_capacity(self.len()) })
    }
}

/// The collector of what is written after prompts.
struct Answers<'a> {
    data: &'a PromptDataset,
    texts: Vec<Prediction>,
}

impl Collector for Answers<'_> {
    fn add(&mut self, rows: &[u32], _: &Batch, outputs: Outputs<'_>) -> Result<()> {
        for (&row, written) in rows.iter().zip(outputs.written) {
            let missing = || no_such_row(row, self.data.len());
            let prompt = self.data.prompts.get(row as usize).ok_or_else(missing)?;
            let line = *self.data.lines.get(row as usize).ok_or_else(missing)?;
            let text = continuation(prompt, written, |ids| self.data.tokenizer.decode(ids, true))?;
            self.texts.push(Prediction::Text { line, text });
        }
        Ok(())
    }

    fn scores(&self, _: f64) -> Result<Scores> {
        Err(Error::Usage("prompts without their answers have no score".into()))
    }

    fn predictions(&self) -> Result<Vec<Prediction>> {
        Ok(self.texts.clone())
    }

    fn writes(&self) -> Option<usize> {
        Some(self.data.longest_answer)
    }

    fn ends(&self) -> &[u32] {
        self.data.turn_end.as_slice()
    }

    fn reads_logits(&self) -> bool {
        false
    }
}
