//! The vectors of AVX2 and AVX-512. Every operation is one or a few instructions.
//!
//! What makes the calls of intrinsics sound is the same for all: these types are used only in bodies that
//! `multiversion!` compiled for their instruction set, which it calls only where the processor has it.

use std::arch::x86_64::*;

use bytemuck::{cast_slice, cast_slice_mut};

use super::Vector;
use crate::element::{Compute, Element};

/// Eight lanes, for bodies compiled with AVX2 and FMA.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Avx2(__m256);

/// Sixteen lanes, for bodies compiled with AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Avx512(__m512);

/// Methods on lanes that are one intrinsic.
macro_rules! lane_methods {
    ($vector:ident: $($name:ident($($arg:ident),*) => $intrinsic:ident;)*) => {$(
        #[inline(always)]
        fn $name(self $(, $arg: Self)*) -> Self {
            // SAFETY: the body was compiled for this instruction set; see the module's text.
            $vector(unsafe { $intrinsic(self.0 $(, $arg.0)*) })
        }
    )*};
}

/// Functions on bits that are one intrinsic.
macro_rules! bit_functions {
    ($bits:ty: $($name:ident($($arg:ident),*) => $intrinsic:ident;)*) => {$(
        #[inline(always)]
        fn $name($($arg: $bits),*) -> $bits {
            // SAFETY: the body was compiled for this instruction set; see the module's text.
            unsafe { $intrinsic($($arg),*) }
        }
    )*};
}

impl Vector for Avx2 {
    const LANES: usize = 8;
    type Bits = __m256i;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: the body was compiled for this instruction set; see the module's text.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    fn load<T: Element>(from: &[T]) -> Self {
        let from = &from[..8];
        // SAFETY: eight elements are readable there, and the cast checks their size; otherwise as above.
        unsafe {
            Self(match T::COMPUTE {
                Compute::F32 => _mm256_loadu_ps(cast_slice::<T, f32>(from).as_ptr()),
                Compute::Bf16 => {
                    let halves =
                        _mm256_cvtepu16_epi32(_mm_loadu_si128(cast_slice::<T, u16>(from).as_ptr().cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
                }
            })
        }
    }

    #[inline(always)]
    fn store<T: Element>(self, to: &mut [T]) {
        self.rounded::<T>().store_exact(to);
    }

    #[inline(always)]
    fn store_exact<T: Element>(self, to: &mut [T]) {
        let to = &mut to[..8];
        // SAFETY: eight elements are writable there, and the cast checks their size; otherwise as above.
        unsafe {
            match T::COMPUTE {
                Compute::F32 => _mm256_storeu_ps(cast_slice_mut::<T, f32>(to).as_mut_ptr(), self.0),
                Compute::Bf16 => {
                    let halves = _mm256_srli_epi32::<16>(self.to_bits());
                    let packed = _mm256_packus_epi32(halves, halves);
                    let packed = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed));
                    _mm_storeu_si128(cast_slice_mut::<T, u16>(to).as_mut_ptr().cast(), packed);
                }
            }
        }
    }

    lane_methods! { Avx2:
        add(other) => _mm256_add_ps;
        sub(other) => _mm256_sub_ps;
        mul(other) => _mm256_mul_ps;
        div(other) => _mm256_div_ps;
        madd(factor, addend) => _mm256_fmadd_ps;
        max(other) => _mm256_max_ps;
        min(other) => _mm256_min_ps;
    }

    bit_functions! { __m256i:
        add_bits(a, b) => _mm256_add_epi32;
        and(a, b) => _mm256_and_si256;
        or(a, b) => _mm256_or_si256;
        xor(a, b) => _mm256_xor_si256;
    }

    #[inline(always)]
    fn select_below(self, other: Self, yes: Self, no: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0)) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn to_bits(self) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_castps_si256(self.0) }
    }

    #[inline(always)]
    fn from_bits(bits: __m256i) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_castsi256_ps(bits) })
    }

    #[inline(always)]
    fn bits(value: u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_set1_epi32(value.cast_signed()) }
    }

    #[inline(always)]
    fn ascending(start: u32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_add_epi32(Self::bits(start), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
    }

    #[inline(always)]
    fn shl<const N: u32>(a: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(N.cast_signed())) }
    }

    #[inline(always)]
    fn shr<const N: u32>(a: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(N.cast_signed())) }
    }

    #[inline(always)]
    fn mul_wide(a: __m256i, factor: u32) -> (__m256i, __m256i) {
        // SAFETY: as above. The instruction multiplies the even lanes; the odd ones are moved there.
        unsafe {
            let factor = Self::bits(factor);
            let even = _mm256_mul_epu32(a, factor);
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), factor);
            let low = _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd));
            let high = _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd);
            (low, high)
        }
    }

    #[inline(always)]
    fn select_bits_below(a: __m256i, b: __m256i, yes: Self, no: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_blendv_ps(no.0, yes.0, _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a))) })
    }
}

impl Vector for Avx512 {
    const LANES: usize = 16;
    type Bits = __m512i;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: the body was compiled for this instruction set; see the module's text.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load<T: Element>(from: &[T]) -> Self {
        let from = &from[..16];
        // SAFETY: sixteen elements are readable there, and the cast checks their size; otherwise as above.
        unsafe {
            Self(match T::COMPUTE {
                Compute::F32 => _mm512_loadu_ps(cast_slice::<T, f32>(from).as_ptr()),
                Compute::Bf16 => {
                    let halves =
                        _mm512_cvtepu16_epi32(_mm256_loadu_si256(cast_slice::<T, u16>(from).as_ptr().cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
                }
            })
        }
    }

    #[inline(always)]
    fn store<T: Element>(self, to: &mut [T]) {
        self.rounded::<T>().store_exact(to);
    }

    #[inline(always)]
    fn store_exact<T: Element>(self, to: &mut [T]) {
        let to = &mut to[..16];
        // SAFETY: sixteen elements are writable there, and the cast checks their size; otherwise as above.
        unsafe {
            match T::COMPUTE {
                Compute::F32 => _mm512_storeu_ps(cast_slice_mut::<T, f32>(to).as_mut_ptr(), self.0),
                Compute::Bf16 => {
                    let halves = _mm512_srli_epi32::<16>(self.to_bits());
                    let packed = _mm512_cvtepi32_epi16(halves);
                    _mm256_storeu_si256(cast_slice_mut::<T, u16>(to).as_mut_ptr().cast(), packed);
                }
            }
        }
    }

    lane_methods! { Avx512:
        add(other) => _mm512_add_ps;
        sub(other) => _mm512_sub_ps;
        mul(other) => _mm512_mul_ps;
        div(other) => _mm512_div_ps;
        madd(factor, addend) => _mm512_fmadd_ps;
        max(other) => _mm512_max_ps;
        min(other) => _mm512_min_ps;
    }

    bit_functions! { __m512i:
        add_bits(a, b) => _mm512_add_epi32;
        and(a, b) => _mm512_and_si512;
        or(a, b) => _mm512_or_si512;
        xor(a, b) => _mm512_xor_si512;
    }

    #[inline(always)]
    fn select_below(self, other: Self, yes: Self, no: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0), no.0, yes.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let high = _mm512_extractf32x8_ps::<1>(self.0);
            let eight = _mm256_add_ps(_mm512_castps512_ps256(self.0), high);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn to_bits(self) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_castps_si512(self.0) }
    }

    #[inline(always)]
    fn from_bits(bits: __m512i) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_castsi512_ps(bits) })
    }

    #[inline(always)]
    fn bits(value: u32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(value.cast_signed()) }
    }

    #[inline(always)]
    fn ascending(start: u32) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            _mm512_add_epi32(Self::bits(start), lanes)
        }
    }

    #[inline(always)]
    fn shl<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }

    #[inline(always)]
    fn shr<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srli_epi32::<N>(a) }
    }

    #[inline(always)]
    fn mul_wide(a: __m512i, factor: u32) -> (__m512i, __m512i) {
        const ODD: __mmask16 = 0b1010_1010_1010_1010;
        // SAFETY: as above. The instruction multiplies the even lanes; the odd ones are moved there.
        unsafe {
            let factor = Self::bits(factor);
            let even = _mm512_mul_epu32(a, factor);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), factor);
            let low = _mm512_mask_blend_epi32(ODD, even, _mm512_slli_epi64::<32>(odd));
            let high = _mm512_mask_blend_epi32(ODD, _mm512_srli_epi64::<32>(even), odd);
            (low, high)
        }
    }

    #[inline(always)]
    fn select_bits_below(a: __m512i, b: __m512i, yes: Self, no: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_mask_blend_ps(_mm512_cmplt_epu32_mask(a, b), no.0, yes.0) })
    }
}
