//! The types that rows of activations are stored in.

use half::bf16;

/// A stored number that arithmetic widens to f32 and rounds back, to nearest even.
pub trait Element: bytemuck::Pod + Send + Sync + std::fmt::Debug + PartialEq + 'static {
    /// Which compute type rows of this element belong to.
    const COMPUTE: Compute;

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
