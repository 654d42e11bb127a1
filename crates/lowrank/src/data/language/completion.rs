//! Prompts with completions and conversations as tokens, of which only the answers are learnt.

use std::ops::Range;

use super::causal::{CausalDataset, Tokens, check_length, in_order};
use super::example::{Completion, Conversation, Rows};
use crate::data::chat::ChatTemplate;
use crate::data::tokenizer::{Located, Tokenizer};
use crate::{Error, Result};

impl CausalDataset {
    /// Tokenises prompts with their completions on all threads; the completion and the end-of-text token are learnt.
    ///
    /// A prompt and its completion are tokenised as one text. A token that has letters of both is learnt.
    ///
    /// # Errors
    /// The tokeniser refuses a text, or `max_length` is below 2; `strict` and a prompt that leaves no room.
    pub fn from_completions(
        tokenizer: &Tokenizer,
        rows: &Rows<Completion>,
        max_length: usize,
        strict: bool,
    ) -> Result<Self> {
        check_length(max_length)?;
        let mut dataset = Self::empty();
        let make = |row: &Completion| completion_tokens(tokenizer, row);
        in_order(&rows.rows, make, |row, tokens| {
            let refuse = |reason: String| Error::row(&rows.path, row.line, reason);
            dataset.push_cut(tokens, max_length, strict, refuse)
        })?;
        Ok(dataset.finished())
    }

    /// Tokenises conversations on all threads as their chat template writes them; what the assistant says is learnt, each
    /// turn with its end token.
    ///
    /// # Errors
    /// The template refuses a conversation, the tokeniser a text, or `max_length` is below 2; `strict` and a conversation
    /// of which nothing is learnt: without an answer, with one that the template changes beyond recognition, or with too
    /// long a beginning.
    pub fn from_conversations(
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        rows: &Rows<Conversation>,
        max_length: usize,
        strict: bool,
    ) -> Result<Self> {
        check_length(max_length)?;
        let special_tokens = tokenizer.special_tokens();
        let mut dataset = Self::empty();
        let make = |row: &Conversation| {
            let rendered = template.render_answers(&row.messages, row.tools.as_ref(), &special_tokens);
            let rendered = rendered.map_err(|error| Error::row(&rows.path, row.line, error.to_string()))?;
            let Some(answers) = rendered.answers else { return Ok(None) };
            let Located { ids, offsets } = tokenizer.encode_with_offsets(&rendered.text, false)?;
            Ok(Some(Tokens { ids, targets: within(&offsets, &answers), line: row.line }))
        };
        in_order(&rows.rows, make, |row, tokens| {
            let refuse = |reason: String| Error::row(&rows.path, row.line, reason);
            match tokens {
                Some(tokens) => dataset.push_cut(tokens, max_length, strict, refuse),
                None => {
                    let reason = "the chat template changes an answer, so that it cannot be told which part of the \
                                  text it is; {% generation %} blocks in the template would tell";
                    dataset.skip(strict, refuse(reason.to_owned()))
                }
            }
        })?;
        Ok(dataset.finished())
    }

    /// Adds an example, cut to `max_length` tokens.
    fn push_cut(
        &mut self,
        mut tokens: Tokens,
        max_length: usize,
        strict: bool,
        refuse: impl Fn(String) -> Error,
    ) -> Result<()> {
        let length = tokens.ids.len();
        tokens.ids.truncate(max_length);
        tokens.targets.truncate(max_length);
        if self.push(&tokens.ids, &tokens.targets, tokens.line) {
            if length > max_length {
                self.note_cut();
            }
            return Ok(());
        }
        let reason = if length > max_length {
            format!(
                "its prompt leaves no room for an answer in the {max_length} tokens of data.max_length; \
                 it has {length} with the answer"
            )
        } else {
            "it has no answer to learn from".to_owned()
        };
        self.skip(strict, refuse(reason))
    }
}

fn completion_tokens(tokenizer: &Tokenizer, row: &Completion) -> Result<Tokens> {
    let text = format!("{}{}", row.prompt, row.completion.as_deref().unwrap_or_default());
    let Located { mut ids, offsets } = tokenizer.encode_with_offsets(&text, true)?;
    let answer = row.prompt.len()..text.len();
    let mut targets = within(&offsets, std::slice::from_ref(&answer));
    if let (Some(end), Some(_)) = (tokenizer.eos_id(), &row.completion) {
        if ids.last() == Some(&end) {
            targets.pop();
        } else {
            ids.push(end);
        }
        targets.push(true);
    }
    Ok(Tokens { ids, targets, line: row.line })
}

/// Whether each token has bytes of one of the spans, which are in order.
///
/// Tokenisers leave blanks out of a token's bytes and give each token of a divided character all of that character: so
/// a token has what lies between the end of those before it and its own end, and one that has nothing is as the one
/// before it.
fn within(offsets: &[(usize, usize)], spans: &[Range<usize>]) -> Vec<bool> {
    let mut spans = spans.iter().filter(|span| !span.is_empty()).peekable();
    let (mut reached, mut last) = (0, false);
    let of_token = |&(_, end): &(usize, usize)| {
        let start = reached;
        if end > start {
            while spans.next_if(|span| span.end <= start).is_some() {}
            last = spans.peek().is_some_and(|span| span.start < end);
            reached = end;
        }
        last
    };
    offsets.iter().map(of_token).collect()
}
