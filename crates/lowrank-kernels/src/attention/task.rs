//! The division of an attention into tasks.

use std::ops::Range;

use super::{Attention, HASH_KEYS};
use crate::element::Element;
use crate::parallel;

/// One head of the keys of a sequence, and heads of the queries that read it.
#[derive(Clone)]
pub(super) struct Task {
    pub(super) sequence: usize,
    pub(super) heads: Range<usize>,
    pub(super) kv_head: usize,
    /// Rows of the queries.
    pub(super) queries: Range<usize>,
    /// Rows of the keys.
    pub(super) keys: Range<usize>,
}

/// Calls `work` for every task with queries, over threads, in parts of about equal cost. Parts end at multiples of
/// `unit` heads of the queries.
pub(super) fn for_each_task<T: Element>(
    attention: &Attention<T>,
    unit: usize,
    work: &(impl Fn(Task) + Sync),
) {
    parallel::flush_denormals();
    let (sequences, heads) = (0..attention.keys.sequences(), 0..attention.shape.heads);
    let most = match parallel::threads() {
        1 => usize::MAX,
        threads => (cost(attention, sequences.clone()) * heads.len() / (4 * threads)).max(1 << 17),
    };
    divide(attention, sequences, heads, unit, most, work);
}

/// Element operations of one head of some sequences.
fn cost<T: Element>(attention: &Attention<T>, sequences: Range<usize>) -> usize {
    let pairs = |sequence: usize| {
        let queries = attention.queries[sequence + 1] - attention.queries[sequence];
        let keys = attention.keys.of(sequence).len();
        let seen = attention.mask.mean(queries, keys).next_multiple_of(HASH_KEYS);
        queries * seen / 4 + 2 * (queries + keys)
    };
    sequences.map(pairs).sum::<usize>() * attention.shape.head_dim
}

fn divide<T: Element>(
    attention: &Attention<T>,
    sequences: Range<usize>,
    heads: Range<usize>,
    unit: usize,
    most: usize,
    work: &(impl Fn(Task) + Sync),
) {
    let cost_of = |sequences: Range<usize>| cost(attention, sequences) * heads.len();
    let total = cost_of(sequences.clone());
    if total <= most || (sequences.len() <= 1 && heads.len() <= unit) {
        parallel::flush_denormals();
        sequences.for_each(|sequence| run(attention, sequence, heads.clone(), work));
        return;
    }
    if sequences.len() > 1 {
        let mut middle = sequences.start + 1;
        let mut before = cost_of(sequences.start..middle);
        while middle + 1 < sequences.end && before < total / 2 {
            before += cost_of(middle..middle + 1);
            middle += 1;
        }
        rayon::join(
            || divide(attention, sequences.start..middle, heads.clone(), unit, most, work),
            || divide(attention, middle..sequences.end, heads.clone(), unit, most, work),
        );
    } else {
        let middle = heads.start + (heads.len() / unit / 2) * unit;
        rayon::join(
            || divide(attention, sequences.clone(), heads.start..middle, unit, most, work),
            || divide(attention, sequences.clone(), middle..heads.end, unit, most, work),
        );
    }
}

/// The tasks of some heads of a sequence.
fn run<T: Element>(
    attention: &Attention<T>,
    sequence: usize,
    heads: Range<usize>,
    work: &(impl Fn(Task) + Sync),
) {
    let queries = attention.queries[sequence]..attention.queries[sequence + 1];
    let keys = attention.keys.of(sequence);
    // Without queries the keys have a gradient nevertheless.
    if queries.is_empty() && keys.is_empty() {
        return;
    }
    let (group, mut first) = (attention.shape.group(), heads.start);
    while first < heads.end {
        let kv_head = first / group;
        let end = heads.end.min((kv_head + 1) * group);
        let (queries, keys) = (queries.clone(), keys.clone());
        work(Task { sequence, heads: first..end, kv_head, queries, keys });
        first = end;
    }
}
