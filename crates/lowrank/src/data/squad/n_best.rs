//! The best spans of a window, by its start and end logits.

use std::cmp::Ordering;

use super::windows::Window;

/// A span that may be the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    /// Begin and end in the context, in code points.
    pub place: [u32; 2],
    pub start_logit: f32,
    pub end_logit: f32,
    /// Of equals the one of the earlier window, and in it the one found earlier, is the better.
    pub found: (u32, u32),
}

impl Span {
    pub fn score(&self) -> f32 {
        self.start_logit + self.end_logit
    }

    /// The better first.
    pub fn order(&self, other: &Self) -> Ordering {
        let by_score = other.score().partial_cmp(&self.score()).unwrap_or(Ordering::Equal);
        by_score.then(self.found.cmp(&other.found))
    }
}

/// That the context of a window has no answer.
pub(super) fn null(window: &Window<'_>, number: u32, start: &[f32], end: &[f32]) -> Span {
    let logit = |logits: &[f32]| logits.get(window.cls).copied().map_or(f32::MIN / 4.0, finite);
    Span { place: [0, 0], start_logit: logit(start), end_logit: logit(end), found: (number, u32::MAX) }
}

/// The best spans of a window whose ends are among its `n_best` best starts and ends, the best first.
pub(super) fn spans(
    window: &Window<'_>,
    number: u32,
    (start, end): (&[f32], &[f32]),
    n_best: usize,
    max_answer_length: usize,
) -> Vec<Span> {
    let place = |token: usize| window.spans.get(token.checked_sub(window.context.start)?);
    let ends = best(end, n_best);
    let mut spans = Vec::new();
    let mut found = 0;
    for from in best(start, n_best) {
        for &to in &ends {
            let (Some(first), Some(last)) = (place(from), place(to)) else { continue };
            if to < from || to - from + 1 > max_answer_length {
                continue;
            }
            spans.push(Span {
                place: [first[0], last[1]],
                start_logit: finite(start[from]),
                end_logit: finite(end[to]),
                found: (number, found),
            });
            found += 1;
        }
    }
    spans.sort_unstable_by(Span::order);
    spans.truncate(n_best);
    spans
}

/// The places of the largest logits, the largest first; of equals the last first, as a reversed stable sort has them.
fn best(logits: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..logits.len()).collect();
    let order = |a: &usize, b: &usize| {
        let by_logit = finite(logits[*b]).partial_cmp(&finite(logits[*a])).unwrap_or(Ordering::Equal);
        by_logit.then(b.cmp(a))
    };
    if count < places.len() {
        places.select_nth_unstable_by(count, order);
        places.truncate(count);
    }
    places.sort_unstable_by(order);
    places
}

/// A logit that can be added to another and compared: one that is not a number is the least.
fn finite(logit: f32) -> f32 {
    const LIMIT: f32 = f32::MAX / 4.0;
    if logit.is_nan() { -LIMIT } else { logit.clamp(-LIMIT, LIMIT) }
}
