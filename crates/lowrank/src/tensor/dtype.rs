//! The types a tensor's elements are stored in.

use std::fmt;

use half::{bf16, f16};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// Signed 64-bit integer.
    I64,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::I8 | Self::U8 => 1,
            Self::I64 => 8,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I64 => "i64",
        })
    }
}

/// A Rust type that a tensor can hold.
pub trait Stored: bytemuck::Pod {
    /// Its tag.
    const DTYPE: DType;
}

macro_rules! stored {
    ($($rust:ty => $tag:ident),*) => {
        $(impl Stored for $rust { const DTYPE: DType = DType::$tag; })*
    };
}

stored!(f32 => F32, bf16 => Bf16, f16 => F16, i8 => I8, u8 => U8, i64 => I64);
