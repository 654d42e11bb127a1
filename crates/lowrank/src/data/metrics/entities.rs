//! Entities in the tags of a text's words.

use std::collections::HashSet;

/// Counts entities that are found and those that are there.
///
/// # Source
/// `seqeval` 1.2.2 in its default mode, which reads every scheme of tags as `conlleval` does; the average is micro.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entities {
    right: usize,
    predicted: usize,
    expected: usize,
}

impl Entities {
    /// Adds the tags of a text.
    pub fn add(&mut self, predicted: &[&str], expected: &[&str]) {
        let (predicted, expected) = (entities(predicted), entities(expected));
        self.right += predicted.intersection(&expected).count();
        self.predicted += predicted.len();
        self.expected += expected.len();
    }

    /// The share of the entities that are found which are right.
    pub fn precision(&self) -> f64 {
        ratio(self.right, self.predicted)
    }

    /// The share of the entities that are there which are found.
    pub fn recall(&self) -> f64 {
        ratio(self.right, self.expected)
    }

    /// The harmonic mean of the two.
    pub fn f1(&self) -> f64 {
        ratio(2 * self.right, self.predicted + self.expected)
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The entities of a text: what each is, its first and its last word.
fn entities<'t>(tags: &[&'t str]) -> HashSet<(&'t str, usize, usize)> {
    let mut found = HashSet::new();
    let (mut previous, mut begin) = (('O', ""), 0);
    for (place, tag) in tags.iter().copied().chain(["O"]).enumerate() {
        let tag = parts(tag);
        if ends(previous, tag) {
            found.insert((previous.1, begin, place.saturating_sub(1)));
        }
        if starts(previous, tag) {
            begin = place;
        }
        previous = tag;
    }
    found
}

/// What a tag says of its word's place in an entity, and which kind of entity that is.
fn parts(tag: &str) -> (char, &str) {
    let mut characters = tag.chars();
    let Some(first) = characters.next() else { return ('O', "_") };
    let rest = characters.as_str();
    let kind = rest.split_once('-').map_or(rest, |(_, kind)| kind);
    (first, if kind.is_empty() { "_" } else { kind })
}

fn ends((before, kind_before): (char, &str), (tag, kind): (char, &str)) -> bool {
    matches!(before, 'E' | 'S')
        || (matches!(before, 'B' | 'I') && matches!(tag, 'B' | 'S' | 'O'))
        || (!matches!(before, 'O' | '.') && kind_before != kind)
}

fn starts((before, kind_before): (char, &str), (tag, kind): (char, &str)) -> bool {
    matches!(tag, 'B' | 'S')
        || (matches!(before, 'E' | 'S' | 'O') && matches!(tag, 'E' | 'I'))
        || (!matches!(tag, 'O' | '.') && kind_before != kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f1(predicted: &str, expected: &str) -> f64 {
        let mut entities = Entities::default();
        let [predicted, expected] = [predicted, expected].map(|text| text.split(' ').collect::<Vec<_>>());
        entities.add(&predicted, &expected);
        entities.f1()
    }

    /// The numbers are `seqeval`'s.
    #[test]
    fn an_entity_is_right_if_its_kind_and_both_ends_are() {
        let all = [
            ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", 1.0),
            ("B-PER O O B-LOC", "B-PER I-PER O B-LOC", 0.5),
            ("B-ORG I-ORG O B-LOC", "B-PER I-PER O B-LOC", 0.5),
            ("I-PER I-PER O O", "B-PER I-PER O B-LOC", 2.0 / 3.0),
            ("B-PER B-PER O O", "B-PER I-PER O O", 0.0),
            ("B-PER I-LOC O O", "B-PER I-PER O O", 0.0),
            ("O O O O", "B-PER I-PER O O", 0.0),
            ("O O", "O O", 0.0),
            ("S-A E-A B-A O", "S-A I-A E-A O", 0.4),
            ("X Y-Z O .", "X X-Z O NOUN", 0.8),
            ("B I B-A", "B I I-A", 1.0),
        ];
        for (predicted, expected, score) in all {
            assert!((f1(predicted, expected) - score).abs() < 1e-12, "{predicted} for {expected}");
        }
    }
}
