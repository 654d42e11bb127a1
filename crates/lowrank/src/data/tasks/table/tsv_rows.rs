//! GLUE's TSV: tabs between columns, no quoting.

use std::borrow::Cow;
use std::path::Path;

use super::lines::Lines;
use super::{Layout, Places, Visit};
use crate::Result;

pub(super) fn read(path: &Path, layout: &Layout, visit: &mut Visit<'_>) -> Result<()> {
    let mut lines = Lines::open(path)?;
    let Some((line, first)) = lines.next()? else { return Ok(()) };
    let header: Vec<&str> = first.split('\t').collect();
    let named = header.iter().any(|column| layout.text.names.iter().any(|name| name == column));
    let places = match layout.headerless {
        Some(places) if !named => {
            if !visit_row(path, &places, line, first, visit)? {
                return Ok(());
            }
            places
        }
        _ => layout.places(path, &header)?,
    };
    while let Some((line, text)) = lines.next()? {
        if !visit_row(path, &places, line, text, visit)? {
            break;
        }
    }
    Ok(())
}

fn visit_row(path: &Path, places: &Places, line: usize, text: &str, visit: &mut Visit<'_>) -> Result<bool> {
    let fields: Vec<&str> = text.split('\t').collect();
    if fields.len() != places.columns {
        return Err(places.ragged(path, line, fields.len()));
    }
    visit(places.row(line, |place| Cow::Borrowed(fields[place])))
}
