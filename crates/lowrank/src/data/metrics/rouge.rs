//! ROUGE: how much of a text's n-grams, and of its longest common subsequence, a prediction shares.

use std::collections::HashMap;

/// ROUGE-1, ROUGE-2 and ROUGE-L of predictions, as means over them.
///
/// # Source
/// `rouge-score`'s `RougeScorer(["rouge1", "rouge2", "rougeL"])` without its stemmer: F-measures, of the best of several
/// references for each of the three. Hugging Face's `evaluate` reports the median of a bootstrap of these means, which
/// is another number at each call; this is the mean itself.
///
/// ```
/// use lowrank::data::metrics::Rouge;
///
/// let mut rouge = Rouge::default();
/// rouge.add("the cat sat", &["The cat sat down."]);
/// assert_eq!(rouge.scores()[0], ("rouge1", 6.0 / 7.0));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Rouge {
    sums: [f64; 3],
    examples: usize,
}

impl Rouge {
    /// Adds a prediction beside the texts that would have been right.
    pub fn add<S: AsRef<str>>(&mut self, prediction: &str, references: &[S]) {
        let prediction = words(prediction);
        let mut best = [0.0f64; 3];
        for reference in references {
            let reference = words(reference.as_ref());
            let scores = [
                f_measure(shared(&prediction, &reference, 1), counts(&prediction, &reference, 1)),
                f_measure(shared(&prediction, &reference, 2), counts(&prediction, &reference, 2)),
                f_measure(common(&prediction, &reference), (prediction.len(), reference.len())),
            ];
            for (best, score) in best.iter_mut().zip(scores) {
                *best = best.max(score);
            }
        }
        for (sum, score) in self.sums.iter_mut().zip(best) {
            *sum += score;
        }
        self.examples += 1;
    }

    /// The three means, from 0 to 1; 0 without predictions.
    pub fn scores(&self) -> [(&'static str, f64); 3] {
        let mean = |sum: f64| sum / self.examples.max(1) as f64;
        let [one, two, longest] = self.sums;
        [("rouge1", mean(one)), ("rouge2", mean(two)), ("rougeL", mean(longest))]
    }
}

/// Runs of ASCII letters and digits of the text in lower case; everything else stands between words.
fn words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// How many n-grams two texts share, each as often as the text that has it less often.
fn shared(prediction: &[String], reference: &[String], n: usize) -> usize {
    let mut left: HashMap<&[String], usize> = HashMap::new();
    for ngram in reference.windows(n) {
        *left.entry(ngram).or_default() += 1;
    }
    let taken = |ngram: &&[String]| match left.get_mut(*ngram) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    };
    prediction.windows(n).filter(taken).count()
}

fn counts(prediction: &[String], reference: &[String], n: usize) -> (usize, usize) {
    (prediction.windows(n).len(), reference.windows(n).len())
}

/// The length of the longest common subsequence, with one row of its table.
fn common(prediction: &[String], reference: &[String]) -> usize {
    let mut row = vec![0usize; reference.len() + 1];
    for word in prediction {
        let mut diagonal = 0;
        for (place, other) in reference.iter().enumerate() {
            let above = row[place + 1];
            row[place + 1] = if word == other { diagonal + 1 } else { above.max(row[place]) };
            diagonal = above;
        }
    }
    row[reference.len()]
}

fn f_measure(hits: usize, (prediction, reference): (usize, usize)) -> f64 {
    if hits == 0 {
        return 0.0;
    }
    let (precision, recall) = (hits as f64 / prediction as f64, hits as f64 / reference as f64);
    2.0 * precision * recall / (precision + recall)
}
