//! The types that rows of activations are stored in.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::compiled::{self, Compiled};

/// A stored number that arithmetic widens to f32 and rounds back, to nearest even.
pub trait Element: bytemuck::Pod + Send + Sync + std::fmt::Debug + PartialEq + 'static {
    /// Which compute type rows of this element belong to.
    const COMPUTE: Compute;

    #[doc(hidden)]
    const COMPILED: &'static Compiled<Self>;

    /// The value as f32, exactly.
    fn widen(self) -> f32;

    /// The nearest value of this type.
    fn round(value: f32) -> Self;
}

/// The type of the rows and of the GEMM operands. Accumulation is f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compute {
    /// 32-bit rows and operands.
    F32,
    /// bfloat16 rows and operands.
    Bf16,
}

impl Element for f32 {
    const COMPUTE: Compute = Compute::F32;
    const COMPILED: &'static Compiled<Self> = &compiled::F32;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    const COMPUTE: Compute = Compute::Bf16;
    const COMPILED: &'static Compiled<Self> = &compiled::BF16;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Branch-free so that the compiler vectorises it; NaN stays NaN.
    #[inline(always)]
    fn round(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40;
        Self::from_bits(if value.is_nan() { nan } else { rounded } as u16)
    }
}

/// The values of a weight or a table as a checkpoint stores them, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// 32-bit values.
    F32(&'a [f32]),
    /// bfloat16 values.
    Bf16(&'a [bf16]),
    /// IEEE half-precision values.
    F16(&'a [f16]),
}

impl Source<'_> {
    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the values from `start` on, in f32, exactly.
    pub(crate) fn read(&self, start: usize, into: &mut [f32]) {
        let end = start + into.len();
        match self {
            Self::F32(values) => into.copy_from_slice(&values[start..end]),
            Self::Bf16(values) => {
                into.iter_mut().zip(&values[start..end]).for_each(|(into, value)| *into = value.widen());
            }
            Self::F16(values) => values[start..end].convert_to_f32_slice(into),
        }
    }
}
