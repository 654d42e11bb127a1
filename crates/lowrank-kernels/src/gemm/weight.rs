//! A frozen weight: a constant matrix, brought once into the form that the tier's kernels read.

use super::kernel::Kernel;
use crate::element::{Compute, Element, Source};
use crate::rows::{Rows, RowsMut};
use crate::tier::Tier;

/// A constant matrix `W [outputs N, inputs K]` that is only ever multiplied with.
///
/// Under [`Compute::F32`] its values are those of the source, exactly; under [`Compute::Bf16`] they are rounded
/// to bf16. Products are accumulated in f32 and rounded to the rows' type once. Their bits do not depend on the
/// number of threads, nor, where a kernel of ours computes them (on x86 processors with AVX2 and up, unless the tier
/// is [`Tier::Plain`]), those of a row on the other rows of the batch.
#[derive(Debug)]
pub struct Weight {
    outputs: usize,
    inputs: usize,
    compute: Compute,
    kernel: Kernel,
}

impl Weight {
    /// Prepares a weight for the tier of this process.
    ///
    /// # Panics
    /// If `source` does not hold `outputs · inputs` values.
    pub fn new(compute: Compute, source: Source<'_>, outputs: usize, inputs: usize) -> Self {
        Self::with_tier(Tier::active(), compute, source, outputs, inputs)
    }

    /// Prepares a weight for a tier.
    ///
    /// # Panics
    /// If `source` does not hold `outputs · inputs` values, or the machine does not have the tier.
    pub fn with_tier(
        tier: Tier,
        compute: Compute,
        source: Source<'_>,
        outputs: usize,
        inputs: usize,
    ) -> Self {
        assert!(tier.is_available(), "this machine does not have the tier {tier}");
        assert_eq!(
            Some(source.len()),
            outputs.checked_mul(inputs),
            "the weight is not {outputs} x {inputs} values"
        );
        let kernel = Kernel::new(tier, compute, source, outputs, inputs);
        Self { outputs, inputs, compute, kernel }
    }

    /// Bytes that one value takes in all forms that are kept of a weight, which with `backward` is multiplied in both
    /// directions.
    pub fn value_bytes(compute: Compute, backward: bool) -> usize {
        match (Tier::active(), compute) {
            // The one kernel that keeps the transpose as well.
            (Tier::Amx, Compute::Bf16) if backward => 2 * size_of::<half::bf16>(),
            (Tier::Amx | Tier::Avx512, Compute::Bf16) => size_of::<half::bf16>(),
            _ => size_of::<f32>(),
        }
    }

    /// N: the width of `y`.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// K: the width of `x`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The type of the rows and of the operands.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Bytes of memory that the weight occupies at present; on AMX the first backward product adds a second form.
    pub fn bytes(&self) -> usize {
        self.kernel.bytes()
    }

    /// `y = x·Wᵀ + bias`; what `y` held is not read.
    ///
    /// # Shapes
    /// `x [M, K]`, `bias [N]`, `y [M, N]`.
    ///
    /// # Panics
    /// If the shapes or the rows' type do not fit the weight.
    pub fn forward<T: Element>(&self, x: Rows<'_, T>, bias: Option<&[f32]>, y: RowsMut<'_, T>) {
        assert_eq!(T::COMPUTE, self.compute, "the rows are not of the weight's compute type");
        assert_eq!(x.cols(), self.inputs, "x has another width than the weight has inputs");
        assert_eq!(y.cols(), self.outputs, "y has another width than the weight has outputs");
        assert_eq!(x.rows(), y.rows(), "x and y have different numbers of rows");
        assert!(bias.is_none_or(|bias| bias.len() == self.outputs), "bias is not as long as y is wide");
        (T::COMPILED.weight_forward)(self, x, bias, y);
    }

    /// `dx = dy·W`, or `dx += dy·W` with `accumulate`; without it, what `dx` held is not read.
    ///
    /// # Shapes
    /// `dy [M, N]`, `dx [M, K]`.
    ///
    /// # Panics
    /// If the shapes or the rows' type do not fit the weight.
    pub fn backward<T: Element>(&self, dy: Rows<'_, T>, dx: RowsMut<'_, T>, accumulate: bool) {
        assert_eq!(T::COMPUTE, self.compute, "the rows are not of the weight's compute type");
        assert_eq!(dy.cols(), self.outputs, "dy has another width than the weight has outputs");
        assert_eq!(dx.cols(), self.inputs, "dx has another width than the weight has inputs");
        assert_eq!(dy.rows(), dx.rows(), "dy and dx have different numbers of rows");
        (T::COMPILED.weight_backward)(self, dy, dx, accumulate);
    }

    pub(crate) fn forward_kernel<T: Element>(&self, x: Rows<T>, bias: Option<&[f32]>, y: RowsMut<T>) {
        self.kernel.forward(x, bias, y);
    }

    pub(crate) fn backward_kernel<T: Element>(&self, dy: Rows<T>, dx: RowsMut<T>, accumulate: bool) {
        self.kernel.backward(dy, dx, accumulate);
    }
}
