//! Answers as the official scripts compare them.

use std::sync::LazyLock;

use fancy_regex::Regex;

/// Articles as whole words. A word is of letters and numbers, as `\w` is in Python and not in Rust, whose one counts
/// combining marks as well.
static ARTICLES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_])").expect("the pattern is valid")
});

/// Lower case, without ASCII punctuation, without English articles, with single spaces.
///
/// # Source
/// `normalize_answer` of `evaluate-v1.1.py` and `evaluate-v2.0.py`, in that order.
pub fn normalize_answer(text: &str) -> String {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let text = ARTICLES.replace_all(&text, " ");
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// Whether Python's `str.isspace` holds: Unicode's white space and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
