//! The loss of spans: where an answer starts, and where it ends.

use lowrank_kernels::{Rows, RowsMut, loss};

use super::cross_entropy::{LossBackward, finish};
use super::with_rows;
use crate::tape::{Backward, Layout, Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// What the losses of starts and of ends are divided by: where a batch is whole, the number of each that counts (see
/// [`span_targets`]). A single number stands for both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpanDenominators {
    /// The starts that count in the whole batch.
    pub starts: f32,
    /// The ends that count in the whole batch.
    pub ends: f32,
}

impl From<f32> for SpanDenominators {
    fn from(both: f32) -> Self {
        Self { starts: both, ends: both }
    }
}

/// The place within a sequence that a position means: a negative one means the first. `None`: it lies beyond, and does
/// not count.
fn place(position: i64, length: usize) -> Option<i64> {
    let place = position.max(0);
    usize::try_from(place).is_ok_and(|place| place < length).then_some(place)
}

fn places(layout: &Layout, positions: &[i64]) -> Vec<Option<i64>> {
    layout.offsets().windows(2).zip(positions).map(|(pair, p)| place(*p, pair[1] - pair[0])).collect()
}

/// How many of the starts and of the ends count: those within their sequences, of `layout`.
pub fn span_targets(layout: &Layout, starts: &[i64], ends: &[i64]) -> [usize; 2] {
    [starts, ends].map(|positions| places(layout, positions).iter().flatten().count())
}

/// The mean of two cross-entropies over each sequence's rows, of column 0 against its start and of column 1 against its
/// end, summed over sequences and divided by `denominator`.
///
/// A position beyond its sequence does not count, and a negative one means the first token: so does Transformers'
/// loss, which clamps. Its means are over the positions that count; where these are not as many starts as ends, give
/// both numbers.
///
/// # Shapes
/// `logits`: `[tokens, 2]`; `starts`, `ends`: one for each sequence, places within it. The result: a scalar, f32.
///
/// # Errors
/// If there are other than two columns, or another number of positions than of sequences.
///
/// # Source
/// Transformers' `ForQuestionAnsweringLoss`, without padding: the softmax is over the sequence's own tokens.
pub fn span_loss(
    tape: &mut Tape,
    logits: &Var,
    starts: &[i64],
    ends: &[i64],
    denominator: impl Into<SpanDenominators>,
) -> Result<Var> {
    let (rows, columns) = logits.value().rows_and_width();
    if columns != 2 {
        return Err(Error::Usage(format!(
            "a span needs logits of its start and its end, not {columns} columns"
        )));
    }
    let (layout, denominators) = (logits.layout(), denominator.into());
    let sequences = layout.sequences();
    if (starts.len(), ends.len()) != (sequences, sequences) {
        return Err(Error::Usage(format!(
            "{} starts and {} ends for {sequences} sequences",
            starts.len(),
            ends.len()
        )));
    }
    let [starts, ends] = [starts, ends].map(|positions| {
        places(layout, positions)
            .into_iter()
            .map(|place| place.unwrap_or(loss::IGNORE_INDEX))
            .collect::<Vec<_>>()
    });
    let mut gradient = logits.id().map(|_| Tensor::uninit(logits.value().shape(), logits.value().dtype()));
    let loss = with_rows!(logits.compute(), T => loss::span_cross_entropy(
        Rows::dense(logits.value().as_slice::<T>(), rows, columns),
        layout.offsets(),
        [&starts, &ends],
        [denominators.starts, denominators.ends],
        gradient.as_mut().map(|gradient| RowsMut::dense(gradient.make_mut::<T>(), rows, columns)),
    ));
    let backward = logits
        .id()
        .zip(gradient)
        .map(|(input, gradient)| Box::new(LossBackward { input, gradient }) as Box<dyn Backward>);
    finish(tape, loss, logits, backward)
}
