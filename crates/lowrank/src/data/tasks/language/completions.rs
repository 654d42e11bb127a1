//! Prompts and what is to follow them.

use std::borrow::Cow;
use std::path::Path;

use super::LanguageOptions;
use super::documents::is_text;
use crate::Error;
use crate::Result;
use crate::data::language::{Completion, Rows};
use crate::data::tasks::table::{Lines, Need, Record, Role, no_rows, records};

/// What stands between the two parts of a line in a text file, as in the E2E data.
const BAR: &str = "||";

/// The column whose text goes on in the completion, as TRL has it.
const TRL_PROMPT: &str = "prompt";

/// Where prompts and completions are.
pub(super) struct Roles {
    pub prompt: Role,
    input: Role,
    pub completion: Role,
}

impl Roles {
    pub fn new(options: &LanguageOptions) -> Self {
        let columns = &options.columns;
        let prompt = [TRL_PROMPT, "instruction", "question"];
        let completion = ["completion", "output", "response", "answer"];
        Self {
            prompt: Role::new("prompt", columns.prompt.as_ref(), &prompt, Need::Required),
            input: Role::new("input", columns.input.as_ref(), &["input"], Need::Optional),
            completion: Role::new("completion", columns.completion.as_ref(), &completion, options.answer()),
        }
    }

    /// The prompt, with what it is about on a line of its own.
    pub fn prompt<'r>(&self, record: &'r Record<'_>) -> Result<Cow<'r, str>> {
        let prompt = record.text(&self.prompt)?.unwrap_or_default();
        match record.text(&self.input)? {
            Some(input) if !input.is_empty() => Ok(Cow::Owned(format!("{prompt}\n{input}"))),
            _ => Ok(prompt),
        }
    }
}

/// Shows the two parts of the first `limit` lines of a text file (0: all), without the blanks around them.
pub(super) fn parted_lines(
    path: &Path,
    options: &LanguageOptions,
    limit: usize,
    visit: &mut dyn FnMut(&str, Option<&str>, usize),
) -> Result<()> {
    let (mut lines, mut rows) = (Lines::open(path)?, 0);
    while let Some((line, text)) = lines.next()? {
        let (given, wanted) = match text.split_once(BAR) {
            Some((given, wanted)) => (given, Some(wanted)),
            None if options.unlabelled => (text, None),
            None => {
                let reason = format!("a line must be PROMPT{BAR}COMPLETION, and has no {BAR}");
                return Err(Error::row(path, line, reason));
            }
        };
        visit(given.trim(), wanted.map(str::trim), line);
        rows += 1;
        if rows == limit {
            break;
        }
    }
    if rows == 0 { Err(no_rows(path)) } else { Ok(()) }
}

/// The first `limit` prompts of a file (0: all) with their completions: from the columns of a table, or from the lines of
/// a `.txt` file, `PROMPT||COMPLETION`. What is called `prompt` is followed by its completion at once; an instruction, a
/// question or a column of any other name is a text by itself, after which a line ends.
///
/// # Errors
/// The file cannot be read or holds no rows; a row is malformed or lacks a column, a line its bars.
pub fn completions(path: &Path, options: &LanguageOptions, limit: usize) -> Result<Rows<Completion>> {
    let mut rows = Vec::new();
    if is_text(path) {
        let separator = options.separator.as_deref().unwrap_or("\n");
        parted_lines(path, options, limit, &mut |prompt, completion, line| {
            let completion = completion.map(str::to_owned);
            rows.push(Completion { prompt: format!("{prompt}{separator}"), completion, line });
        })?;
    } else {
        let roles = Roles::new(options);
        records(path, limit, &mut |record| {
            let prompt = roles.prompt(record)?;
            let separator = match &options.separator {
                Some(separator) => separator,
                None if record.column(&roles.prompt) == Some(TRL_PROMPT) => "",
                None if prompt.is_empty() || prompt.ends_with(char::is_whitespace) => "",
                None => "\n",
            };
            rows.push(Completion {
                prompt: format!("{prompt}{separator}"),
                completion: record.text(&roles.completion)?.map(Cow::into_owned),
                line: record.line,
            });
            Ok(())
        })?;
    }
    Ok(Rows { path: path.to_path_buf(), rows })
}
