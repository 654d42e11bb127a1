//! GLUE's TSV: tabs between columns, no quoting.

use std::borrow::Cow;
use std::path::Path;

use super::lines::Lines;
use super::{Layout, Visit};
use crate::{Error, Result};

/// Returns the errors of the rows that were left out because they are of another width than the header.
pub(super) fn read(path: &Path, layout: &Layout, visit: &mut Visit<'_>) -> Result<Vec<Error>> {
    let mut lines = Lines::open(path)?;
    let Some((line, first)) = lines.next()? else { return Ok(Vec::new()) };
    let header: Vec<&str> = first.split('\t').collect();
    let named = header.iter().any(|column| layout.text.names.iter().any(|name| name == column));
    let (places, has_header) = match layout.headerless {
        Some(places) if !named => (places, false),
        _ => (layout.places(path, &header)?, true),
    };
    let mut skipped = Vec::new();
    let mut row = |line: usize, text: &str| {
        let fields: Vec<&str> = text.split('\t').collect();
        if fields.len() == places.columns {
            return visit(places.row(line, |place| Cow::Borrowed(fields[place])));
        }
        let ragged = places.ragged(path, line, fields.len());
        if !layout.skip_ragged {
            return Err(ragged);
        }
        skipped.push(ragged);
        Ok(true)
    };
    let mut more = has_header || row(line, first)?;
    while more {
        let Some((line, text)) = lines.next()? else { break };
        more = row(line, text)?;
    }
    Ok(skipped)
}
