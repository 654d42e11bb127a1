//! `{% generation %}` blocks: what they hold is found in the text by marks around it.

use std::ops::Range;
use std::sync::LazyLock;

use fancy_regex::Regex;
use minijinja::{Environment, State};
use serde_json::Value;

use super::Message;

/// The variable that holds the marks, where blocks are to be marked.
pub(super) const MARKS: &str = "lowrank_generation_marks";

/// Two letters that stand nowhere else in a conversation.
pub(super) struct Marks {
    pub open: char,
    pub close: char,
}

/// The template with each generation block as a block of a filter, which Jinja's grammar has, and whether it had any.
pub(super) fn rewrite(template: &str) -> (String, bool) {
    static BLOCK: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?\s*)(end)?generation(\s*[-+]?)%\}").ok());
    let Some(block) = BLOCK.as_ref() else { return (template.to_owned(), false) };
    let mut marked = false;
    let text = block.replace_all(template, |found: &fancy_regex::Captures<'_>| {
        marked = true;
        let part = |number| found.get(number).map_or("", |part| part.as_str());
        let name = if part(2).is_empty() { "filter lowrank_generation" } else { "endfilter" };
        format!("{{%{}{name}{}%}}", part(1), part(3))
    });
    (text.into_owned(), marked)
}

pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("lowrank_generation", |state: &mut State<'_, '_>, text: String| {
        let mark = |place: usize| state.lookup(MARKS)?.get_item_by_index(place).ok();
        match (mark(0), mark(1)) {
            (Some(open), Some(close)) if !open.is_undefined() => format!("{open}{text}{close}"),
            _ => text,
        }
    });
}

impl Marks {
    /// Two of Unicode's non-characters that the conversation does not have.
    pub fn unused(messages: &[Message], tools: Option<&Value>) -> Self {
        let absent = |mark: &char| {
            !messages.iter().flat_map(Message::values).chain(tools).any(|value| has(value, *mark))
        };
        let mut free = ('\u{fdd0}'..='\u{fdef}').filter(absent);
        // A conversation that has all of these does not exist outside of an attack, which gains nothing but a span.
        Self { open: free.next().unwrap_or('\u{fdd0}'), close: free.next().unwrap_or('\u{fdd1}') }
    }

    /// The text without marks, and the bytes that stood between them; none if they are not in order.
    pub fn take_out(&self, marked: &str) -> (String, Option<Vec<Range<usize>>>) {
        let (mut text, mut spans) = (String::with_capacity(marked.len()), Vec::new());
        let (mut open, mut in_order) = (None, true);
        for letter in marked.chars() {
            if letter == self.open {
                in_order &= open.replace(text.len()).is_none();
            } else if letter == self.close {
                match open.take() {
                    Some(start) => spans.push(start..text.len()),
                    None => in_order = false,
                }
            } else {
                text.push(letter);
            }
        }
        in_order &= open.is_none();
        (text, in_order.then_some(spans))
    }
}

fn has(value: &Value, mark: char) -> bool {
    match value {
        Value::String(text) => text.contains(mark),
        Value::Array(items) => items.iter().any(|item| has(item, mark)),
        Value::Object(items) => items.iter().any(|(key, item)| key.contains(mark) || has(item, mark)),
        _ => false,
    }
}
