//! Which keys a query sees.

use std::ops::Range;

use super::HASH_KEYS;

/// Which keys a query sees. The last query of a sequence stands at its last key: query `i` of `queries` is at the
/// position `i + keys - queries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// All of its sequence.
    Full,
    /// Those up to its own position.
    Causal,
    /// Its own and those right before it, so many together.
    Window(usize),
}

impl AttentionMask {
    /// The keys that query `i` of `queries` sees. It moves upwards with `i`.
    #[inline(always)]
    pub(super) fn seen(self, i: usize, queries: usize, keys: usize) -> Range<usize> {
        let end = (i + 1 + keys).saturating_sub(queries);
        match self {
            Self::Full => 0..keys,
            Self::Causal => 0..end,
            Self::Window(most) => end.saturating_sub(most)..end,
        }
    }

    /// The keys that any of the queries of a block sees, in rows padded to a multiple of `multiple`.
    #[inline(always)]
    pub(super) fn span(self, block: Range<usize>, queries: usize, keys: usize, multiple: usize) -> Span {
        let (begin, end) =
            (self.seen(block.start, queries, keys).start, self.seen(block.end - 1, queries, keys).end);
        let start = begin / HASH_KEYS * HASH_KEYS;
        Span { start, end, width: (end - start).next_multiple_of(multiple) }
    }

    /// About how many keys a query sees.
    pub(super) fn mean(self, queries: usize, keys: usize) -> usize {
        match self {
            Self::Full => keys,
            Self::Causal => keys - queries.min(keys) / 2,
            Self::Window(most) => most.min(keys),
        }
    }
}

/// Neighbouring keys that a block of scores is computed for.
#[derive(Clone, Copy)]
pub(super) struct Span {
    /// The first, a multiple of [`HASH_KEYS`].
    pub(super) start: usize,
    /// The last that is seen, and one.
    pub(super) end: usize,
    /// The keys, padded to a multiple of what was asked for.
    pub(super) width: usize,
}

impl Span {
    /// The number of keys.
    #[inline(always)]
    pub(super) fn keys(&self) -> usize {
        self.end - self.start
    }

    /// Keys as columns of the block.
    #[inline(always)]
    pub(super) fn columns(&self, keys: &Range<usize>) -> Range<usize> {
        keys.start - self.start..keys.end - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_the_query_itself_and_those_before_it() {
        let seen = |i| AttentionMask::Window(3).seen(i, 4, 6);
        assert_eq!([seen(0), seen(1), seen(2), seen(3)], [0..3, 1..4, 2..5, 3..6]);
        assert_eq!(AttentionMask::Window(9).seen(1, 4, 4), AttentionMask::Causal.seen(1, 4, 4));
    }

    #[test]
    fn a_span_holds_no_block_of_keys_that_is_wholly_masked() {
        let span = AttentionMask::Causal.span(32..48, 100, 100, 16);
        assert_eq!((span.start, span.end, span.width), (0, 48, 48));
        let span = AttentionMask::Window(20).span(64..80, 100, 100, 16);
        assert_eq!((span.start, span.end, span.width), (32, 80, 48), "the first query sees 45 to 64");
        assert_eq!(AttentionMask::Causal.span(32..48, 100, 100, 32).width, 64);
    }
}
