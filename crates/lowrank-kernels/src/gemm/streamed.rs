//! A frozen weight that is kept as it was stored, and brought into the kernels' form block by block in every product.

use half::bf16;

use super::int8::Int8;
use super::portable;
use crate::element::{Compute, Element, Source};
use crate::rows::{Rows, RowsMut};
use crate::tier::Tier;

#[cfg(target_arch = "x86_64")]
use {
    super::decode::Decoded,
    super::driver::multiply,
    super::tile::Tile,
    super::{amx, avx2, avx512},
};

/// What a weight is stored as, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// Floating numbers of a checkpoint.
    Float(Source<'a>),
    /// 8 bits with scales and outlier columns.
    Int8(Int8<'a>),
}

/// A constant matrix `W [outputs N, inputs K]` of which nothing but the stored form is kept: for weights of which a
/// second form would not fit in memory.
///
/// Each product makes the panels that its kernel reads, a block at a time and once for up to 128 rows; the threads share
/// this work. A stored value is what [`Weight`](super::Weight) would hold, so the results are those of a `Weight`: to
/// the bit where a kernel of ours computes them, else to rounding. Under [`Compute::Bf16`] decoded values are rounded to
/// bf16.
#[derive(Clone, Copy, Debug)]
pub struct Streamed<'a> {
    outputs: usize,
    inputs: usize,
    tier: Tier,
    compute: Compute,
    stored: Stored<'a>,
}

impl<'a> Streamed<'a> {
    /// A weight for the tier of this process.
    ///
    /// # Panics
    /// If `stored` does not hold `outputs · inputs` values.
    pub fn new(compute: Compute, stored: Stored<'a>, outputs: usize, inputs: usize) -> Self {
        Self::with_tier(Tier::active(), compute, stored, outputs, inputs)
    }

    /// A weight for a tier.
    ///
    /// # Panics
    /// If `stored` does not hold `outputs · inputs` values, or the machine does not have the tier.
    pub fn with_tier(
        tier: Tier,
        compute: Compute,
        stored: Stored<'a>,
        outputs: usize,
        inputs: usize,
    ) -> Self {
        assert!(tier.is_available(), "this machine does not have the tier {tier}");
        let fits = match &stored {
            Stored::Float(source) => Some(source.len()) == outputs.checked_mul(inputs),
            Stored::Int8(int8) => int8.fits(outputs, inputs),
        };
        assert!(fits, "the weight is not {outputs} x {inputs} values");
        Self { outputs, inputs, tier, compute, stored }
    }

    /// N: the width of `y`.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// K: the width of `x`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// As stored.
    pub(super) fn stored(&self) -> &Stored<'a> {
        &self.stored
    }

    /// Whether decoded values are rounded to bf16.
    pub(super) fn rounds(&self) -> bool {
        self.compute == Compute::Bf16
    }

    /// The values `k..k + into.len()` of row `n` as products take them.
    pub(super) fn read(&self, n: usize, k: usize, into: &mut [f32]) {
        match &self.stored {
            Stored::Float(source) => source.read(n * self.inputs + k, into),
            Stored::Int8(int8) => int8.read(n, k, into),
        }
        if self.rounds() {
            into.iter_mut().for_each(|value| *value = bf16::round(*value).widen());
        }
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
        (T::COMPILED.streamed)(self, true, x, bias, false, y);
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
        (T::COMPILED.streamed)(self, false, dy, None, accumulate, dx);
    }

    pub(crate) fn kernel<T: Element>(
        &self,
        forward: bool,
        left: Rows<T>,
        bias: Option<&[f32]>,
        accumulate: bool,
        out: RowsMut<T>,
    ) {
        #[cfg(target_arch = "x86_64")]
        {
            let (accelerated, halves) = (self.tier >= Tier::Avx512, self.rounds());
            if let Some(kernel) = amx::Amx::detect().filter(|_| self.tier == Tier::Amx && halves) {
                return self.run(kernel, forward, left, bias, accumulate, out);
            }
            if let Some(kernel) = avx512::Pairs::detect().filter(|_| accelerated && halves) {
                return self.run(kernel, forward, left, bias, accumulate, out);
            }
            if let Some(kernel) = avx512::Wide::<bf16>::detect().filter(|_| accelerated && halves) {
                return self.run(kernel, forward, left, bias, accumulate, out);
            }
            if let Some(kernel) = avx512::Wide::<f32>::detect().filter(|_| accelerated) {
                return self.run(kernel, forward, left, bias, accumulate, out);
            }
            if let Some(kernel) = avx2::Avx2::detect().filter(|_| self.tier > Tier::Plain) {
                return self.run(kernel, forward, left, bias, accumulate, out);
            }
        }
        portable::multiply_streamed(self, forward, left, bias, accumulate, out);
    }

    #[cfg(target_arch = "x86_64")]
    fn run<K: Tile, T: Element>(
        &self,
        kernel: K,
        forward: bool,
        left: Rows<T>,
        bias: Option<&[f32]>,
        accumulate: bool,
        out: RowsMut<T>,
    ) {
        multiply(kernel, left, &Decoded { weight: self, forward }, bias, accumulate, out);
    }
}
