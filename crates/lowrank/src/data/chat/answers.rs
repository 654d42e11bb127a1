//! Which part of a rendered conversation the assistant wrote, where the template does not say.

use std::ops::Range;

use serde_json::Value;

use super::generation::Marks;
use super::{ChatTemplate, Message, Rendered, message};
use crate::Result;

/// A turn is what a conversation has beyond the text that asks for it. Where a template writes earlier turns otherwise
/// than last ones, so that no beginning of the conversation begins the whole, marks in the turns' contents tell.
pub(super) fn find(
    template: &ChatTemplate,
    messages: &[Message],
    tools: Option<&Value>,
    special_tokens: &[String],
) -> Result<Rendered> {
    let text = template.render(messages, tools, false)?;
    let turns: Vec<usize> = (0..messages.len()).filter(|&place| is_answer(&messages[place])).collect();
    // A template may refuse a part of a conversation that it takes as a whole.
    let prefix = |end: usize, answer: bool| {
        let prefix = template.render(messages.get(..end)?, tools, answer).ok()?;
        text.starts_with(&prefix).then_some(prefix.len())
    };
    let marked = |side: Side| by_marks(template, messages, tools, &text, &turns, side);
    let (mut starts, mut ends) = (None, None);
    let mut answers: Vec<Range<usize>> = Vec::with_capacity(turns.len());
    for (number, &place) in turns.iter().enumerate() {
        // Nothing asks for an answer that comes first.
        let asked = if place == 0 { None } else { prefix(place, true) };
        let start = asked.or_else(|| {
            let mark = *starts.get_or_insert_with(|| marked(Side::Start)).as_ref()?.get(number)?;
            let asking = template.render(&messages[..place], tools, true).ok();
            Some(asking.map_or(mark, |asking| before_blanks(&text[..mark], &asking)))
        });
        let last = (place + 1 == messages.len()).then_some(text.len());
        let end = last
            .or_else(|| prefix(place + 1, false))
            .or_else(|| ends.get_or_insert_with(|| marked(Side::End)).as_ref()?.get(number).copied());
        let after = answers.last().map_or(0, |last| last.end);
        match start.zip(end) {
            Some((start, end)) if after <= start && start <= end => {
                answers.push(up_to_end_token(&text, start..end, special_tokens));
            }
            _ => return Ok(Rendered { text, answers: None }),
        }
    }
    Ok(Rendered { text, answers: Some(answers) })
}

impl ChatTemplate {
    /// The one of `special_tokens` that is written after an answer, which a base model's own configuration may not name as
    /// its end; none if there is no such token, or the template refuses a question with an answer.
    pub fn turn_end<'t>(&self, special_tokens: &'t [String]) -> Option<&'t str> {
        let messages = [message("user", "a"), message("assistant", "b")];
        let rendered = self.render_answers(&messages, None, special_tokens).ok()?;
        let answer = rendered.answers?.pop()?;
        let closed = rendered.text.get(answer)?;
        let last =
            special_tokens.iter().filter(|token| !token.is_empty() && closed.ends_with(token.as_str()));
        last.max_by_key(|token| token.len()).map(String::as_str)
    }
}

/// Where a mark stands in a turn's content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Start,
    End,
}

fn is_answer(message: &Message) -> bool {
    message.get("role").and_then(Value::as_str) == Some("assistant")
}

/// One side of the contents of all turns, by a mark in each; none if the template changes or drops one.
fn by_marks(
    template: &ChatTemplate,
    messages: &[Message],
    tools: Option<&Value>,
    text: &str,
    turns: &[usize],
    side: Side,
) -> Option<Vec<usize>> {
    let marks = Marks::unused(messages, tools);
    let mut messages = messages.to_vec();
    for &place in turns {
        let content = messages[place].get_mut("content")?;
        // A template may trim the content: the mark stands where it cannot be cut off.
        let whole = content.as_str()?;
        let at = match side {
            Side::Start => whole.len() - whole.trim_start().len(),
            Side::End => whole.trim_end().len(),
        };
        let (before, after) = whole.split_at(at);
        *content = format!("{before}{}{}{after}", marks.open, marks.close).into();
    }
    let (unmarked, spans) = marks.take_out(&template.render(&messages, tools, false).ok()?);
    let spans = spans.filter(|spans| unmarked == text && spans.len() == turns.len())?;
    Some(spans.into_iter().map(|span| span.start).collect())
}

/// Where an answer begins whose content begins at the end of `before`: a template may put a blank between, which is the
/// answer's if the text that asks for one does not end with it.
fn before_blanks(before: &str, asking: &str) -> usize {
    let alike = |end: &usize| {
        let pairs = before.as_bytes()[..*end].iter().rev().zip(asking.as_bytes().iter().rev());
        pairs.take_while(|(a, b)| a == b).count()
    };
    let ends = (before.trim_end().len()..=before.len()).filter(|&end| before.is_char_boundary(end));
    ends.max_by_key(alike).unwrap_or(before.len())
}

/// The span with the end token that closes it or follows it, and without the blanks that come after that token.
fn up_to_end_token(text: &str, span: Range<usize>, special_tokens: &[String]) -> Range<usize> {
    let inner = text[span.clone()].trim_end();
    let one_of = |fits: &dyn Fn(&str) -> bool| {
        special_tokens.iter().filter(|token| !token.is_empty() && fits(token)).map(String::len).max()
    };
    if one_of(&|token| inner.ends_with(token)).is_some() {
        return span.start..span.start + inner.len();
    }
    let rest = &text[span.end..];
    span.start..span.end + one_of(&|token| rest.starts_with(token)).unwrap_or(0)
}
