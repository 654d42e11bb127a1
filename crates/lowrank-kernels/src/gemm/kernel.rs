//! Which kernel a weight is prepared for.

use half::bf16;

use super::portable::Portable;
use crate::element::{Compute, Element, Source};
use crate::rows::{Rows, RowsMut};
use crate::tier::Tier;

#[cfg(target_arch = "x86_64")]
use {
    super::packed::Packed,
    super::{amx, avx2, avx512},
};

/// A weight in the form of one of the kernels.
#[derive(Debug)]
pub(super) enum Kernel {
    /// The `gemm` crate; where no kernel of ours fits the processor or the tier.
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Packed<avx2::Avx2>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Packed<avx512::Wide<f32>>),
    #[cfg(target_arch = "x86_64")]
    Avx512Halves(Packed<avx512::Wide<bf16>>),
    #[cfg(target_arch = "x86_64")]
    Avx512Pairs(Packed<avx512::Pairs>),
    #[cfg(target_arch = "x86_64")]
    Amx(Packed<amx::Amx>),
}

/// Evaluates `$body` with `$weight` bound to the weight, whatever its kernel.
macro_rules! each {
    ($kernel:expr, $weight:ident => $body:expr) => {
        match $kernel {
            Kernel::Portable($weight) => $body,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2($weight) => $body,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512($weight) => $body,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Halves($weight) => $body,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Pairs($weight) => $body,
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx($weight) => $body,
        }
    };
}

impl Kernel {
    /// Prepares `source [outputs, inputs]` for the tier's fastest kernel.
    pub fn new(tier: Tier, compute: Compute, source: Source<'_>, outputs: usize, inputs: usize) -> Self {
        let read = |start, into: &mut [f32]| {
            source.read(start, into);
            if compute == Compute::Bf16 {
                into.iter_mut().for_each(|value| *value = bf16::round(*value).widen());
            }
        };
        #[cfg(target_arch = "x86_64")]
        {
            let (accelerated, halves) = (tier >= Tier::Avx512, compute == Compute::Bf16);
            if let Some(kernel) = amx::Amx::detect().filter(|_| tier == Tier::Amx && halves) {
                return Self::Amx(Packed::new(kernel, outputs, inputs, read));
            }
            if let Some(kernel) = avx512::Pairs::detect().filter(|_| accelerated && halves) {
                return Self::Avx512Pairs(Packed::new(kernel, outputs, inputs, read));
            }
            if let Some(kernel) = avx512::Wide::detect().filter(|_| accelerated && halves) {
                return Self::Avx512Halves(Packed::new(kernel, outputs, inputs, read));
            }
            if let Some(kernel) = avx512::Wide::detect().filter(|_| accelerated) {
                return Self::Avx512(Packed::new(kernel, outputs, inputs, read));
            }
            if let Some(kernel) = avx2::Avx2::detect().filter(|_| tier > Tier::Plain) {
                return Self::Avx2(Packed::new(kernel, outputs, inputs, read));
            }
        }
        let _ = tier;
        Self::Portable(Portable::new(outputs, inputs, read))
    }

    /// Bytes of the weight at present.
    pub fn bytes(&self) -> usize {
        each!(self, weight => weight.bytes())
    }

    /// `y = x·Wᵀ + bias`.
    pub fn forward<T: Element>(&self, x: Rows<'_, T>, bias: Option<&[f32]>, y: RowsMut<'_, T>) {
        each!(self, weight => weight.forward(x, bias, y));
    }

    /// `dx = dy·W`, or `dx += dy·W`.
    pub fn backward<T: Element>(&self, dy: Rows<'_, T>, dx: RowsMut<'_, T>, accumulate: bool) {
        each!(self, weight => weight.backward(dy, dx, accumulate));
    }
}
