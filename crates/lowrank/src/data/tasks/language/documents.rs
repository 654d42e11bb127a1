//! Texts to be continued anywhere.

use std::path::Path;

use super::LanguageOptions;
use crate::Result;
use crate::data::language::{Document, Rows};
use crate::data::tasks::table::{Need, Role, no_rows, records};
use crate::text::read_text;

/// The first `limit` documents of a file (0: all): a `.txt` or `.md` file is one, a row of `.jsonl`, `.json`, `.csv` or
/// `.tsv` holds one in its column `text`.
///
/// # Errors
/// The file cannot be read, is not UTF-8 or holds no rows; a row is malformed or lacks the column.
pub fn documents(path: &Path, options: &LanguageOptions, limit: usize) -> Result<Rows<Document>> {
    let mut rows = Vec::new();
    if is_text(path) {
        let text = read_text(path)?;
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        if text.is_empty() {
            return Err(no_rows(path));
        }
        rows.push(Document { text, line: 1 });
    } else {
        let text = Role::new("text", options.columns.text.as_ref(), &["text", "content"], Need::Required);
        records(path, limit, &mut |record| {
            let text = record.text(&text)?.unwrap_or_default().into_owned();
            rows.push(Document { text, line: record.line });
            Ok(())
        })?;
    }
    Ok(Rows { path: path.to_path_buf(), rows })
}

/// Whether a file's name says that it holds text and no table.
pub(super) fn is_text(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    extension.eq_ignore_ascii_case("txt") || extension.eq_ignore_ascii_case("md")
}
