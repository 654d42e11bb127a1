//! Where an answer is among the tokens of a window.

use std::ops::Range;

/// The places of the answer's first and last token in a window, or twice `cls` where it is not all in it.
///
/// `spans` are the context's tokens in it, the first of them at `first`; all of them and `answer` in code points.
///
/// # Source
/// `prepare_train_features` of Transformers' `run_qa.py`; where the answer begins in the window's last token, that one
/// walks on to the end of the padding, this stays.
pub(super) fn positions(spans: &[[u32; 2]], first: usize, cls: usize, answer: &Range<u32>) -> (usize, usize) {
    let (Some(head), Some(tail)) = (spans.first(), spans.last()) else { return (cls, cls) };
    if head[0] > answer.start || tail[1] < answer.end {
        return (cls, cls);
    }
    let after_start = spans.iter().position(|span| span[0] > answer.start).unwrap_or(spans.len());
    let end = spans.iter().rposition(|span| span[1] < answer.end).map_or(0, |before| before + 1);
    (first + after_start.saturating_sub(1), first + end)
}

#[cfg(test)]
mod tests {
    use super::positions;

    /// "an apple pie .", its tokens at 10 to 13 of a window.
    const SPANS: [[u32; 2]; 4] = [[0, 2], [3, 8], [9, 12], [13, 14]];

    #[test]
    fn an_answer_is_at_its_first_and_last_token() {
        assert_eq!(positions(&SPANS, 10, 0, &(3..12)), (11, 12));
        assert_eq!(positions(&SPANS, 10, 0, &(0..2)), (10, 10));
        assert_eq!(positions(&SPANS, 10, 0, &(5..7)), (11, 11), "a part of a token is that token");
    }

    #[test]
    fn an_answer_in_the_last_token_stays_in_the_context() {
        assert_eq!(positions(&SPANS, 10, 0, &(13..14)), (13, 13));
        assert_eq!(positions(&SPANS[..3], 10, 0, &(9..12)), (12, 12));
    }

    #[test]
    fn an_answer_that_is_not_all_in_the_window_is_at_its_first_special_token() {
        assert_eq!(positions(&SPANS[1..], 10, 0, &(0..8)), (0, 0));
        assert_eq!(positions(&SPANS[..2], 10, 0, &(3..12)), (0, 0));
        assert_eq!(positions(&[], 10, 4, &(0..1)), (4, 4));
    }
}
