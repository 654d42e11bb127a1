//! Tables of text that fit the width of a terminal.

use std::collections::BTreeSet;
use std::fmt;

/// The characters of a line.
pub(crate) const LINE: usize = 80;
/// What stands between two columns.
const GAP: usize = 2;
/// No name is shortened below this.
const SHORTEST_NAME: usize = 16;
/// What names may take at most where they leave too little room for all other columns.
const LONGEST_NAME: usize = 48;

/// Writes lines of cells in columns, the first, which has names, to the left and all others to the right; the first line
/// is the heading.
///
/// Where they do not fit a line of 80 characters, names are shortened, as long as that leaves them different, and then
/// the columns that are left over are a further table under the same names.
pub(crate) fn write_columns(f: &mut fmt::Formatter<'_>, lines: &[Vec<String>]) -> fmt::Result {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| characters(&line[column])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let Some((&longest, others)) = widths.split_first() else { return Ok(()) };
    let names: Vec<&str> = lines.iter().map(|line| line[0].as_str()).collect();
    let needed = if longest + room(others) <= LINE { longest } else { fewest_characters(&names, longest) };
    let tables = tables(others, LINE.saturating_sub(needed));
    let left = tables.iter().map(|columns| LINE.saturating_sub(room(&others[columns.clone()]))).min();
    let name_width = left.unwrap_or(LINE).clamp(needed, longest.max(needed));
    for (number, columns) in tables.into_iter().enumerate() {
        if number > 0 {
            writeln!(f)?;
        }
        for line in lines {
            write!(f, "{:name_width$}", shortened(&line[0], name_width))?;
            for (cell, width) in line[1..][columns.clone()].iter().zip(&others[columns.clone()]) {
                write!(f, "{:GAP$}{cell:>width$}", "")?;
            }
            writeln!(f)?;
        }
    }
    Ok(())
}

/// What columns of these widths take beside the names.
fn room(widths: &[usize]) -> usize {
    widths.iter().map(|width| GAP + width).sum()
}

/// The columns of each table, where so much room is beside the names: as many as fit, and one at least.
fn tables(widths: &[usize], left: usize) -> Vec<std::ops::Range<usize>> {
    let mut tables = Vec::new();
    let mut start = 0;
    for end in 1..=widths.len() {
        if end == widths.len() || room(&widths[start..=end]) > left {
            tables.push(start..end);
            start = end;
        }
    }
    if tables.is_empty() {
        // Names alone.
        tables.push(0..0);
    }
    tables
}

/// The least that names can be shortened to without two of them becoming one.
fn fewest_characters(names: &[&str], longest: usize) -> usize {
    let heading = names.first().map_or(0, |heading| characters(heading));
    let different = names.iter().collect::<BTreeSet<_>>().len();
    let stay_different = |width: &usize| {
        names.iter().map(|name| shortened(name, *width)).collect::<BTreeSet<_>>().len() == different
    };
    let widths = SHORTEST_NAME.max(heading)..LONGEST_NAME.min(longest);
    widths.into_iter().find(stay_different).unwrap_or(LONGEST_NAME.min(longest).max(heading))
}

/// A name from a file, shortened so that it and `rest` fit a line. It may hold what a terminal obeys, which is escaped.
pub(crate) fn fitting(name: &str, rest: &str) -> String {
    let left = LINE.saturating_sub(characters(rest)).max(SHORTEST_NAME);
    shortened(&name.escape_debug().to_string(), left)
}

/// A name of at most so many characters. What is left out of a longer one is in its middle, and its end, which tells it
/// from others, begins with a part of a dotted name if it can.
fn shortened(name: &str, width: usize) -> String {
    let length = characters(name);
    if length <= width {
        return name.to_owned();
    }
    let last = |count: usize| -> String { name.chars().skip(length - count).collect() };
    let first = |count: usize| -> String { name.chars().take(count).collect() };
    let kept = width.saturating_sub(1);
    let parts = name.match_indices('.').map(|(place, _)| characters(&name[place + 1..]));
    let of_parts = parts.into_iter().find(|part| (kept / 2..=kept).contains(part));
    let end = of_parts.unwrap_or(kept - kept / 4);
    format!("{}…{}", first(kept - end), last(end))
}

fn characters(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table(Vec<Vec<String>>);

    impl fmt::Display for Table {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write_columns(f, &self.0)
        }
    }

    fn table(names: &[String], columns: usize) -> String {
        let line = |name: &String| [vec![name.clone()], vec!["1.2345".to_owned(); columns]].concat();
        Table(["tensor".to_owned()].iter().chain(names).map(line).collect()).to_string()
    }

    #[test]
    fn a_long_name_loses_its_middle_at_a_dot() {
        let name = "roberta.encoder.layer.11.attention.self.query";
        assert_eq!(shortened(name, 45), name);
        assert_eq!(shortened(name, 30), "…layer.11.attention.self.query");
        assert_eq!(shortened(name, 28), "robe…11.attention.self.query");
        assert_eq!(shortened(name, 24), "…11.attention.self.query");
        assert_eq!(shortened("a_name_without_any_dot", 9), "a_…ny_dot");
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let names = ["short".to_owned(), "roberta.encoder.layer.0.attention.self".to_owned()];
        let text = table(&names, 4);
        assert!(text.contains(&names[1]) && !text.contains('…'), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn no_table_is_wider_than_a_line_and_its_names_stay_different() {
        for depth in [1, 12, 101] {
            for columns in [0, 1, 6, 9, 17] {
                let name = |layer| {
                    format!("roberta.encoder.a_longer_name.layer.{layer}.attention.output.dense.weight")
                };
                let names: Vec<String> = (0..depth).map(name).collect();
                let text = table(&names, columns);
                assert!(text.lines().all(|line| line.chars().count() <= LINE), "{text}");
                let first = text.split("\n\n").next().unwrap();
                let told: BTreeSet<&str> =
                    first.lines().map(|line| line.split("  ").next().unwrap()).collect();
                assert_eq!(told.len(), depth + 1, "{text}");
                let cells = text.matches("1.2345").count();
                assert_eq!(cells, (depth + 1) * columns, "{text}");
            }
        }
    }
}
