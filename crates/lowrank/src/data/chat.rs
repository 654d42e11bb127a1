//! Conversations as a model wants them: its own chat template.

mod answers;
mod files;
mod generation;
mod python;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use serde_json::{Map, Value, json};

use crate::{Error, Result, foreign};

/// One message of a conversation: its `role`, its `content`, and whatever else the template reads.
pub type Message = Map<String, Value>;

/// A message that has a role and a content only.
///
/// ```
/// use lowrank::data::chat::message;
///
/// assert_eq!(message("user", "Hello!")["content"], "Hello!");
/// ```
pub fn message(role: &str, content: &str) -> Message {
    Message::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())])
}

/// A model's chat templates, compiled.
///
/// # Source
/// Transformers' `apply_chat_template`: the same variables, functions and treatment of white space. `strftime_now`
/// tells the time in UTC.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    templates: Vec<Source>,
    /// The special tokens by their names in `tokenizer_config.json`.
    tokens: Map<String, Value>,
}

/// Where a template was read.
#[derive(Debug, Clone)]
struct Source {
    name: String,
    path: PathBuf,
    /// Whether the template is a file of its own, so that its lines are the file's.
    own_file: bool,
    /// Whether it says which text the model generates.
    marked: bool,
}

/// A conversation as one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What the model reads, special tokens included.
    pub text: String,
    /// The bytes of `text` that the assistant wrote, its end tokens included, in order; none if they cannot be told.
    pub answers: Option<Vec<Range<usize>>>,
}

/// More steps than any honest template takes for one conversation.
const FUEL: u64 = 5_000_000;

impl ChatTemplate {
    /// The chat template of a model folder, if it has one: `chat_template.jinja`, else what `tokenizer_config.json` has
    /// under `chat_template`, a text or a list of named ones.
    ///
    /// # Errors
    /// One of these files cannot be read, or a template is malformed.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        let files = files::read(folder.as_ref())?;
        if files.templates.is_empty() {
            return Ok(None);
        }
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| Error::Usage(error.to_string()))?);
        python::add_to(&mut environment);
        generation::add_to(&mut environment);
        let mut templates = Vec::with_capacity(files.templates.len());
        for files::Template { name, path, own_file, text } in files.templates {
            let (text, marked) = generation::rewrite(&text);
            let source = Source { name, path, own_file, marked };
            // The library counts columns in 16 bits, and trips over a mistake beyond them.
            foreign::guarded(|| environment.add_template_owned(source.name.clone(), text))
                .ok_or_else(|| Error::file(&source.path, "the chat template fails: it cannot be parsed"))?
                .map_err(|error| source.failed(&error))?;
            templates.push(source);
        }
        Ok(Some(Self { environment: Arc::new(environment), templates, tokens: files.tokens }))
    }

    /// A conversation as the text that the model reads, followed by the beginning of an answer if asked for.
    ///
    /// # Errors
    /// The template fails or refuses the conversation: its file and line, and what it says.
    pub fn render(&self, messages: &[Message], tools: Option<&Value>, answer: bool) -> Result<String> {
        self.render_marked(messages, tools, answer, None)
    }

    /// A conversation as the text that the model is trained on, and which parts of it are the assistant's.
    ///
    /// They are what the template's own `{% generation %}` blocks hold, if it has such; else for each turn of the
    /// assistant what follows the text that asks for it, up to its end token, which is one of `special_tokens`.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_answers(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        special_tokens: &[String],
    ) -> Result<Rendered> {
        let source = self.source(tools)?;
        if source.marked {
            let marks = generation::Marks::unused(messages, tools);
            let marked = self.render_marked(messages, tools, false, Some(&marks))?;
            let (text, answers) = marks.take_out(&marked);
            return Ok(Rendered { text, answers });
        }
        answers::find(self, messages, tools, special_tokens)
    }

    fn render_marked(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        answer: bool,
        marks: Option<&generation::Marks>,
    ) -> Result<String> {
        let source = self.source(tools)?;
        let mut context = self.tokens.clone();
        context.insert("messages".to_owned(), messages.iter().map(as_given).collect());
        context.insert("tools".to_owned(), tools.cloned().unwrap_or(Value::Null));
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), answer.into());
        if let Some(marks) = marks {
            context.insert(generation::MARKS.to_owned(), json!([marks.open, marks.close]));
        }
        self.environment
            .get_template(&source.name)
            .and_then(|template| template.render(minijinja::Value::from(minijinja::value::Serde(&context))))
            .map_err(|error| source.failed(&error))
    }

    /// The template for a conversation with or without tools.
    fn source(&self, tools: Option<&Value>) -> Result<&Source> {
        let named = |name: &str| self.templates.iter().find(|source| source.name == name);
        tools.and_then(|_| named("tool_use")).or_else(|| named("default")).ok_or_else(|| {
            let names: Vec<&str> = self.templates.iter().map(|source| source.name.as_str()).collect();
            let path = self.templates.first().map_or(Path::new(""), |source| &source.path);
            Error::file(path, format!("no chat template called default; there is {}", names.join(", ")))
        })
    }
}

impl Source {
    fn failed(&self, error: &minijinja::Error) -> Error {
        let reason = match (error.kind(), error.detail()) {
            (minijinja::ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
            (kind, Some(detail)) => format!("{kind}: {detail}"),
            (kind, None) => kind.to_string(),
        };
        match error.line() {
            Some(line) if self.own_file => {
                Error::row(&self.path, line, format!("the chat template fails: {reason}"))
            }
            Some(line) => Error::file(
                &self.path,
                format!("line {line} of the chat template {:?} fails: {reason}", self.name),
            ),
            None => Error::file(&self.path, format!("the chat template fails: {reason}")),
        }
    }
}

/// A message without what is null, and with its reasoning under each of the names that templates read.
fn as_given(message: &Message) -> Value {
    let mut given: Message =
        message.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    let reasoning = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| given.get(*name));
    if let Some(reasoning) = reasoning.cloned() {
        given.entry("thinking").or_insert_with(|| reasoning.clone());
        given.insert("reasoning_content".to_owned(), reasoning);
    }
    Value::Object(given)
}
