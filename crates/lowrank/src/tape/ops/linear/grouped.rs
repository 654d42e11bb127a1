//! Products with a weight in groups.

use lowrank_kernels::gemm::weight_gradient;
use lowrank_kernels::{Compute, Element, Rows, RowsMut};

use crate::tape::{Leaf, Operand};

/// Blocks of a weight's rows, each of which reads its own part of the inputs: most often one.
pub(super) struct Grouped(Vec<Operand>);

impl Grouped {
    pub(super) fn new(weight: &Leaf, groups: usize, compute: Compute) -> Self {
        Self(weight.operands(groups, compute))
    }

    /// `y = x·Wᵀ + b`.
    pub(super) fn forward<T: Element>(&self, x: Rows<'_, T>, bias: Option<&[f32]>, mut y: RowsMut<'_, T>) {
        let (inputs, outputs) = (x.cols() / self.0.len(), y.cols() / self.0.len());
        for (group, weight) in self.0.iter().enumerate() {
            let bias = bias.map(|bias| &bias[group * outputs..][..outputs]);
            let y = y.reborrow().narrow(group * outputs, outputs);
            weight.forward(x.narrow(group * inputs, inputs), bias, y);
        }
    }

    /// `dx = dy·W`, or `dx += dy·W`.
    pub(super) fn backward<T: Element>(&self, dy: Rows<'_, T>, mut dx: RowsMut<'_, T>, accumulate: bool) {
        let (inputs, outputs) = (dx.cols() / self.0.len(), dy.cols() / self.0.len());
        for (group, weight) in self.0.iter().enumerate() {
            let dx = dx.reborrow().narrow(group * inputs, inputs);
            weight.backward(dy.narrow(group * outputs, outputs), dx, accumulate);
        }
    }

    /// Adds the gradient of the weight.
    pub(super) fn gradient<T: Element>(&self, dy: Rows<'_, T>, x: Rows<'_, T>, gradient: &mut [f32]) {
        let (inputs, outputs) = (x.cols() / self.0.len(), dy.cols() / self.0.len());
        let blocks = gradient.chunks_exact_mut((outputs * inputs).max(1));
        for (group, gradient) in blocks.enumerate() {
            let dy = dy.narrow(group * outputs, outputs);
            weight_gradient(dy, x.narrow(group * inputs, inputs), gradient);
        }
    }
}
