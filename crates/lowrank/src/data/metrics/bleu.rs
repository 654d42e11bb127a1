//! BLEU of a corpus.

use std::collections::HashMap;

/// The longest n-grams that are counted.
const ORDER: usize = 4;

/// What BLEU is computed from, gathered prediction by prediction.
///
/// # Source
/// `sacrebleu`'s default: the tokeniser `13a`, case kept, n-grams of up to 4 words, exponential smoothing, effective
/// order off, the closest reference's length, from 0 to 100.
///
/// ```
/// use lowrank::data::metrics::Bleu;
///
/// let mut bleu = Bleu::default();
/// bleu.add("The cat is on the mat.", &["The cat is on the mat.", "There is a cat."]);
/// assert!((bleu.score() - 100.0).abs() < 1e-9);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Bleu {
    matches: [u64; ORDER],
    totals: [u64; ORDER],
    predicted: u64,
    expected: u64,
}

impl Bleu {
    /// Adds a prediction beside the texts that would have been right.
    pub fn add<S: AsRef<str>>(&mut self, prediction: &str, references: &[S]) {
        let prediction = tokens(prediction);
        let references: Vec<_> = references.iter().map(|text| tokens(text.as_ref())).collect();
        let length = prediction.len();
        let closest = references.iter().map(Vec::len).min_by_key(|&other| (other.abs_diff(length), other));
        self.predicted += length as u64;
        self.expected += closest.unwrap_or(0) as u64;
        for n in 1..=ORDER {
            let mut allowed: HashMap<&[String], usize> = HashMap::new();
            for reference in &references {
                for (ngram, count) in ngrams(reference, n) {
                    let most = allowed.entry(ngram).or_default();
                    *most = count.max(*most);
                }
            }
            let found = ngrams(&prediction, n);
            let matched =
                found.iter().map(|(ngram, &count)| count.min(allowed.get(ngram).copied().unwrap_or(0)));
            self.matches[n - 1] += matched.sum::<usize>() as u64;
            self.totals[n - 1] += found.values().sum::<usize>() as u64;
        }
    }

    /// The score of all predictions together; 0 where no word was right, or an order has no n-gram at all.
    pub fn score(&self) -> f64 {
        if self.matches == [0; ORDER] || self.totals.contains(&0) {
            return 0.0;
        }
        let mut smoothing = 1.0;
        let logs = self.matches.iter().zip(self.totals).map(|(&matches, total)| {
            let matches = if matches == 0 {
                smoothing *= 2.0;
                1.0 / smoothing
            } else {
                matches as f64
            };
            (100.0 * matches / total as f64).ln()
        });
        let mean = logs.sum::<f64>() / ORDER as f64;
        let (predicted, expected) = (self.predicted as f64, self.expected as f64);
        let brevity = if predicted < expected { (1.0 - expected / predicted).exp() } else { 1.0 };
        brevity * mean.exp()
    }
}

fn ngrams(words: &[String], n: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for ngram in words.windows(n) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

/// The words and marks of a text.
///
/// # Source
/// `mteval-v13a.pl`, in the order of `sacrebleu`'s substitutions.
fn tokens(text: &str) -> Vec<String> {
    let text = text.trim_end_matches(blank).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let mut letters = vec![' '];
    for letter in text.chars() {
        match letter {
            '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/' => {
                letters.extend([' ', letter, ' ']);
            }
            _ => letters.push(letter),
        }
    }
    letters.push(' ');
    let dot = |letter: char| matches!(letter, '.' | ',');
    let digit = |letter: char| letter.is_ascii_digit();
    let letters = part(&letters, |a, b| !digit(a) && dot(b), |a, b| [a, ' ', b, ' ']);
    let letters = part(&letters, |a, b| dot(a) && !digit(b), |a, b| [' ', a, ' ', b]);
    let letters = part(&letters, |a, b| digit(a) && b == '-', |a, b| [a, ' ', b, ' ']);
    letters.split(|&letter| blank(letter)).filter(|word| !word.is_empty()).map(String::from_iter).collect()
}

/// Rewrites pairs of letters from the left, each letter at most once, as a regular expression's substitution does.
fn part(
    letters: &[char],
    here: impl Fn(char, char) -> bool,
    to: impl Fn(char, char) -> [char; 4],
) -> Vec<char> {
    let mut out = Vec::with_capacity(letters.len() * 2);
    let mut rest = letters;
    loop {
        rest = match *rest {
            [a, b, ref after @ ..] if here(a, b) => {
                out.extend(to(a, b));
                after
            }
            [a, ref after @ ..] => {
                out.push(a);
                after
            }
            [] => return out,
        };
    }
}

/// What Python's `split` takes for a blank: Unicode's white space and four control characters.
fn blank(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}
