//! A small language with an English look, and three questions that can be asked about its sentences.
//!
//! Every sentence has an answer to each question, independent of the others, so that what a model learns for one
//! does not answer the next.

use lowrank_kernels::random::Philox;

/// Words that go together, each in the singular and the plural.
struct Topic {
    places: [[&'static str; 2]; 2],
    people: [[&'static str; 2]; 3],
    things: [[&'static str; 2]; 4],
}

const TOPICS: [Topic; 4] = [
    Topic {
        places: [["harbour", "harbours"], ["island", "islands"]],
        people: [["sailor", "sailors"], ["fisher", "fishers"], ["captain", "captains"]],
        things: [["net", "nets"], ["boat", "boats"], ["anchor", "anchors"], ["sail", "sails"]],
    },
    Topic {
        places: [["market", "markets"], ["bakery", "bakeries"]],
        people: [["cook", "cooks"], ["baker", "bakers"], ["waiter", "waiters"]],
        things: [["soup", "soups"], ["cake", "cakes"], ["oven", "ovens"], ["spoon", "spoons"]],
    },
    Topic {
        places: [["theatre", "theatres"], ["studio", "studios"]],
        people: [["singer", "singers"], ["drummer", "drummers"], ["composer", "composers"]],
        things: [["song", "songs"], ["violin", "violins"], ["opera", "operas"], ["flute", "flutes"]],
    },
    Topic {
        places: [["meadow", "meadows"], ["orchard", "orchards"]],
        people: [["farmer", "farmers"], ["shepherd", "shepherds"], ["gardener", "gardeners"]],
        things: [["apple", "apples"], ["tractor", "tractors"], ["fence", "fences"], ["lamb", "lambs"]],
    },
];

const PREPOSITIONS: [&str; 3] = ["near", "behind", "beyond"];
const NEUTRAL: [&str; 4] = ["young", "old", "tall", "quiet"];
const VERBS: [&str; 6] = ["found", "sold", "watched", "carried", "painted", "described"];
const DEGREES: [&str; 2] = ["very", "quite"];
const NEGATIONS: [&str; 2] = ["not", "never"];
const GOOD: [&str; 6] = ["lovely", "perfect", "charming", "splendid", "reliable", "pleasant"];
const BAD: [&str; 6] = ["awful", "broken", "ugly", "shabby", "useless", "boring"];
const OTHERS: [&str; 5] = ["the", ",", "which", "was", "were"];

/// What can be asked about a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Are the words in their right places?
    Order,
    /// Is the thing called good or bad? A negation turns the answer round.
    Sentiment,
    /// Is it one person who acts, or several? Places and things have numbers too.
    Number,
}

impl Question {
    /// The name, for files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Sentiment => "sentiment",
            Self::Number => "number",
        }
    }
}

/// A sentence, with the answer to each question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    words: Vec<&'static str>,
    order: &'static str,
    sentiment: &'static str,
    number: &'static str,
}

impl Sentence {
    /// Makes up a sentence.
    pub fn draw(generator: &mut Philox) -> Self {
        let topic = &TOPICS[below(generator, TOPICS.len())];
        let elsewhere = &TOPICS[below(generator, TOPICS.len())];
        let [place, person, thing] = [0, 1, 2].map(|_| below(generator, 2));
        let good = below(generator, 2);
        let negated = below(generator, 4) == 0;
        let mut words = Vec::with_capacity(16);
        if below(generator, 2) == 1 {
            words.extend([
                pick(generator, &PREPOSITIONS),
                "the",
                pick(generator, &elsewhere.places)[place],
                ",",
            ]);
        }
        words.push("the");
        if below(generator, 2) == 1 {
            words.push(pick(generator, &NEUTRAL));
        }
        words.extend([pick(generator, &topic.people)[person], pick(generator, &VERBS)]);
        words.extend(["the", pick(generator, &topic.things)[thing], ",", "which", ["was", "were"][thing]]);
        if negated {
            words.push(pick(generator, &NEGATIONS));
        }
        if below(generator, 2) == 1 {
            words.push(pick(generator, &DEGREES));
        }
        words.push(pick(generator, [&BAD, &GOOD][good]));
        Self {
            words,
            order: "right",
            sentiment: ["bad", "good"][good ^ usize::from(negated)],
            number: ["one", "several"][person],
        }
    }

    /// Words with spaces between.
    pub fn text(&self) -> String {
        self.words.join(" ")
    }

    /// The same sentence with two words exchanged.
    #[must_use]
    pub fn disordered(mut self, generator: &mut Philox) -> Self {
        let first = below(generator, self.words.len());
        let others = |place: &usize| self.words[*place] != self.words[first];
        let second = pick(generator, &(0..self.words.len()).filter(others).collect::<Vec<_>>());
        self.words.swap(first, second);
        self.order = "wrong";
        self
    }

    /// The answer to a question.
    pub fn answer(&self, question: Question) -> &'static str {
        match question {
            Question::Order => self.order,
            Question::Sentiment => self.sentiment,
            Question::Number => self.number,
        }
    }
}

/// Every word, the special tokens first: the lines of a `vocab.txt`.
pub fn vocabulary() -> Vec<&'static str> {
    let mut words = vec!["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    words.extend(OTHERS);
    for list in [&PREPOSITIONS[..], &NEUTRAL, &VERBS, &DEGREES, &NEGATIONS, &GOOD, &BAD] {
        words.extend(list);
    }
    for topic in &TOPICS {
        words.extend(topic.places.iter().chain(&topic.people).chain(&topic.things).flatten());
    }
    words
}

fn pick<T: Copy>(generator: &mut Philox, items: &[T]) -> T {
    items[below(generator, items.len())]
}

fn below(generator: &mut Philox, n: usize) -> usize {
    generator.below(n as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[test]
    fn every_word_of_a_sentence_is_in_the_vocabulary_once() {
        let words = vocabulary();
        let known: HashSet<&str> = words.iter().copied().collect();
        assert_eq!(known.len(), words.len());
        let mut generator = Philox::new(1, 0);
        for _ in 0..500 {
            let sentence = Sentence::draw(&mut generator);
            assert!(sentence.words.iter().all(|word| known.contains(word)), "{}", sentence.text());
        }
    }

    #[test]
    fn no_single_word_is_right_more_often_than_the_negations_leave_it() {
        let mut generator = Philox::new(2, 0);
        let sentences: Vec<Sentence> = (0..4000).map(|_| Sentence::draw(&mut generator)).collect();
        for (question, people) in [(Question::Sentiment, true), (Question::Number, false)] {
            let mut counts: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
            for sentence in &sentences {
                let second = usize::from(["good", "several"].contains(&sentence.answer(question)));
                for word in &sentence.words {
                    counts.entry(word).or_default()[second] += 1.0;
                }
            }
            let persons: HashSet<&str> =
                TOPICS.iter().flat_map(|topic| topic.people.iter().flatten().copied()).collect();
            for (word, [first, second]) in counts {
                if people || !persons.contains(word) {
                    // One sentence in four is negated, so an adjective alone is right three times in four, give or take.
                    let share = first / (first + second);
                    assert!((0.15..0.85).contains(&share), "{word} tells {question:?}: {share}");
                }
            }
        }
    }
}
