//! Conversations: lists of messages, or instructions with their answers.

use std::path::Path;

use serde_json::Value;

use super::LanguageOptions;
use super::completions::Roles;
use crate::Result;
use crate::data::chat::{Message, message};
use crate::data::language::{Conversation, Rows};
use crate::data::tasks::table::{Need, Record, Role, records};

/// The first `limit` conversations of a file (0: all): a column `messages` of objects with `role` and `content`, or else
/// the columns of a prompt, what it is about and the answer, which become messages of the user and the assistant.
///
/// # Errors
/// The file cannot be read or holds no rows; a row is malformed, lacks the columns, or a message has no role.
pub fn conversations(path: &Path, options: &LanguageOptions, limit: usize) -> Result<Rows<Conversation>> {
    let columns = &options.columns;
    let messages = Role::new("messages", columns.messages.as_ref(), &["messages"], Need::Required);
    let tools = Role::new("tools", columns.tools.as_ref(), &["tools"], Need::Optional);
    let system = Role::new("system message", columns.system.as_ref(), &["system"], Need::Optional);
    let parts = Roles::new(options);
    let mut rows = Vec::new();
    records(path, limit, &mut |record| {
        let asked = columns.messages.is_none() && (columns.prompt.is_some() || record.has(&parts.prompt));
        let conversation = if asked && !record.has(&messages) {
            let mut conversation = Vec::with_capacity(3);
            if let Some(text) = record.text(&system)?.filter(|text| !text.is_empty()) {
                conversation.push(message("system", &text));
            }
            conversation.push(message("user", &parts.prompt(record)?));
            if let Some(answer) = record.text(&parts.completion)? {
                conversation.push(message("assistant", &answer));
            }
            conversation
        } else {
            list(record, &messages)?
        };
        let tools = record.json(&tools)?.map(|tools| tools.into_owned());
        let tools = tools.filter(|tools| tools.as_array().is_none_or(|tools| !tools.is_empty()));
        rows.push(Conversation { messages: conversation, tools, line: record.line });
        Ok(())
    })?;
    Ok(Rows { path: path.to_path_buf(), rows })
}

fn list(record: &Record<'_>, role: &Role) -> Result<Vec<Message>> {
    let value = record.json(role)?;
    let name = role.names.first().map_or("messages", String::as_str);
    let Some(Value::Array(items)) = value.as_deref() else {
        return Err(record.refuse(format!("{name:?} must be a list of messages")));
    };
    if items.is_empty() {
        return Err(record.refuse(format!("{name:?} is an empty list")));
    }
    let checked = |(number, item): (usize, &Value)| {
        let wrong = |what: &str| record.refuse(format!("{name}[{number}] {what}"));
        let message = item.as_object().ok_or_else(|| wrong("must be an object with a role and a content"))?;
        match message.get("role") {
            Some(Value::String(_)) => {}
            Some(_) => return Err(wrong("has a role that is not a text")),
            None => return Err(wrong("has no role")),
        }
        match message.get("content") {
            Some(Value::String(_) | Value::Array(_)) => Ok(message.clone()),
            // Where tools are called there may be nothing said.
            None | Some(Value::Null) if message.contains_key("tool_calls") => Ok(message.clone()),
            None | Some(Value::Null) => Err(wrong("has no content")),
            Some(_) => Err(wrong("has a content that is neither a text nor a list")),
        }
    };
    items.iter().enumerate().map(checked).collect()
}
