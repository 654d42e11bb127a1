//! Spelling suggestions for error messages.

/// The candidates that look most like `name`, the nearest first: at most three, none that is far off.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(usize, &str)> =
        candidates.into_iter().map(|candidate| (distance(name, candidate), candidate)).collect();
    scored.sort_unstable();
    scored.dedup();
    let limit = (name.chars().count() / 2).max(2);
    scored.into_iter().filter(|(d, _)| *d <= limit).take(3).map(|(_, c)| c.to_owned()).collect()
}

/// Levenshtein's distance, letters compared without case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word() {
        assert_eq!(nearest("lerning_rate", ["learning_rate", "lr_schedule", "seed"]), ["learning_rate"]);
        assert_eq!(nearest("Quary", ["query", "key", "value"]), ["query"]);
        assert!(nearest("zzzzzz", ["query", "key"]).is_empty());
    }
}
