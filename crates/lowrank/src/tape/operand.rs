//! Weights as the operands of matrix products.

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::gemm::{Int8Weight, Stored, Streamed, Weight};
use lowrank_kernels::{Compute, Element, Rows, RowsMut, Source};

use super::leaf::Leaf;
use crate::tensor::Tensor;

/// Weights that are read ahead of their use.
const AHEAD: usize = 4;

/// Streamed weights in the order of their use, and the place of one.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    order: Arc<[Tensor]>,
    place: usize,
}

impl Queue {
    /// The places of all.
    pub fn places(order: Vec<Tensor>) -> impl Iterator<Item = Self> {
        let order: Arc<[Tensor]> = order.into();
        (0..order.len()).map(move |place| Self { order: Arc::clone(&order), place })
    }

    /// Has the weights that come next read ahead.
    fn read_ahead(&self, forward: bool) {
        let near = if forward {
            self.order.get(self.place + 1..).unwrap_or_default().iter().take(AHEAD)
        } else {
            let start = self.place.saturating_sub(AHEAD);
            self.order.get(start..self.place).unwrap_or_default().iter().take(AHEAD)
        };
        near.for_each(Tensor::will_need);
    }
}

/// A weight, packed once for the kernels, or decoded by them in every product.
pub(crate) enum Operand {
    /// Packed.
    Prepared(Arc<Weight>),
    /// Packed for whole numbers.
    Int8(Arc<Int8Weight>),
    /// Read where it is.
    Streamed(Leaf, Compute),
    /// Some rows, read where they are.
    Part { value: Tensor, rows: Range<usize>, compute: Compute },
    /// Several, one below the other, with their rows.
    Below(Vec<(usize, Self)>),
}

impl Operand {
    /// `y = x·Wᵀ + bias`.
    pub fn forward<T: Element>(&self, x: Rows<'_, T>, bias: Option<&[f32]>, mut y: RowsMut<'_, T>) {
        match self {
            Self::Below(parts) => {
                let mut start = 0;
                for (rows, part) in parts {
                    let bias = bias.map(|bias| &bias[start..start + rows]);
                    part.forward(x, bias, y.reborrow().narrow(start, *rows));
                    start += rows;
                }
            }
            Self::Prepared(weight) => weight.forward(x, bias, y),
            Self::Int8(weight) => weight.forward(x, bias, y),
            Self::Streamed(leaf, compute) => {
                leaf.queue().into_iter().for_each(|queue| queue.read_ahead(true));
                leaf.streamed(*compute).forward(x, bias, y);
            }
            Self::Part { value, rows, compute } => part(value, rows, *compute).forward(x, bias, y),
        }
    }

    /// `dx = dy·W`, or `dx += dy·W`.
    pub fn backward<T: Element>(&self, dy: Rows<'_, T>, mut dx: RowsMut<'_, T>, accumulate: bool) {
        match self {
            Self::Below(parts) => {
                let mut start = 0;
                for (rows, part) in parts {
                    part.backward(dy.narrow(start, *rows), dx.reborrow(), accumulate || start > 0);
                    start += rows;
                }
            }
            Self::Prepared(weight) => weight.backward(dy, dx, accumulate),
            Self::Int8(weight) => weight.backward(dy, dx, accumulate),
            Self::Streamed(leaf, compute) => {
                leaf.queue().into_iter().for_each(|queue| queue.read_ahead(false));
                leaf.streamed(*compute).backward(dy, dx, accumulate);
            }
            Self::Part { value, rows, compute } => {
                part(value, rows, *compute).backward(dy, dx, accumulate);
            }
        }
    }
}

/// Some rows of a matrix as the operand of a product.
fn part<'a>(value: &'a Tensor, rows: &Range<usize>, compute: Compute) -> Streamed<'a> {
    let width = value.shape().width();
    let elements = rows.start * width..rows.end * width;
    let source = match value.source() {
        Source::F32(values) => Source::F32(&values[elements]),
        Source::Bf16(values) => Source::Bf16(&values[elements]),
        Source::F16(values) => Source::F16(&values[elements]),
    };
    Streamed::new(compute, Stored::Float(source), rows.len(), width)
}
