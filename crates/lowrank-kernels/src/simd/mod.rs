//! One source, several instruction sets: vectors of f32 lanes, and the macro that compiles a body for each set.
//!
//! A body written with [`multiversion!`] is compiled three times: with AVX-512, with AVX2 and FMA, and for the
//! target's baseline; [`Isa::active`] picks one by the tier of the process. Simple loops are left to the compiler,
//! which vectorises them for each set. Where it does not do so reliably (register tiles, elementary functions,
//! reductions), bodies are written with a [`Vector`], whose operations are single instructions.

mod lanes;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use crate::element::Element;
use crate::tier::Tier;
#[cfg(target_arch = "x86_64")]
use crate::tier::{has_avx2, has_avx512};

pub(crate) use lanes::Lanes;
/// The vector of the baseline.
pub(crate) type Plain = Lanes<8>;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// The instruction sets that bodies are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 F, BW, DQ, VL with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The target's baseline.
    Plain,
}

impl Isa {
    /// The set that the process uses, following [`Tier::active`].
    #[inline]
    pub(crate) fn active() -> Self {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| match Tier::active() {
            // An emulated unit may be without them.
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 | Tier::Amx if has_avx512() => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            Tier::Portable | Tier::Amx if has_avx2() => Self::Avx2,
            _ => Self::Plain,
        })
    }
}

/// A register's worth of f32 lanes (two registers where these hold four).
///
/// The x86 vectors' operations are instructions of their set: values of these types exist only in bodies that
/// [`multiversion!`] compiled for it.
pub(crate) trait Vector: Copy {
    /// Number of lanes.
    const LANES: usize;

    /// As many lanes of u32.
    type Bits: Copy;

    /// Every lane `value`.
    fn splat(value: f32) -> Self;

    /// The first lanes of `from`, widened.
    fn load<T: Element>(from: &[T]) -> Self;

    /// Rounds the lanes into the start of `to`.
    fn store<T: Element>(self, to: &mut [T]);

    /// As [`Vector::store`], for lanes that `T` holds exactly.
    fn store_exact<T: Element>(self, to: &mut [T]);

    /// Lane by lane sum.
    fn add(self, other: Self) -> Self;

    /// Lane by lane difference.
    fn sub(self, other: Self) -> Self;

    /// Lane by lane product.
    fn mul(self, other: Self) -> Self;

    /// Lane by lane quotient.
    fn div(self, other: Self) -> Self;

    /// `self * factor + addend`, one rounding where the set has a fused multiply-add.
    fn madd(self, factor: Self, addend: Self) -> Self;

    /// The larger lanes; those of `other` where either is NaN.
    fn max(self, other: Self) -> Self;

    /// The smaller lanes; those of `other` where either is NaN.
    fn min(self, other: Self) -> Self;

    /// `self < other ? yes : no`, lane by lane.
    fn select_below(self, other: Self, yes: Self, no: Self) -> Self;

    /// The sum of the lanes, as a balanced tree.
    fn sum(self) -> f32;

    /// The lanes as bits.
    fn to_bits(self) -> Self::Bits;

    /// Bits as lanes.
    fn from_bits(bits: Self::Bits) -> Self;

    /// Every lane `value`.
    fn bits(value: u32) -> Self::Bits;

    /// `start, start + 1, …`.
    fn ascending(start: u32) -> Self::Bits;

    /// Lane by lane wrapping sum.
    fn add_bits(a: Self::Bits, b: Self::Bits) -> Self::Bits;

    /// Lane by lane and.
    fn and(a: Self::Bits, b: Self::Bits) -> Self::Bits;

    /// Lane by lane or.
    fn or(a: Self::Bits, b: Self::Bits) -> Self::Bits;

    /// Lane by lane exclusive or.
    fn xor(a: Self::Bits, b: Self::Bits) -> Self::Bits;

    /// Shifts to the left.
    fn shl<const N: u32>(a: Self::Bits) -> Self::Bits;

    /// Shifts to the right, zeros coming in.
    fn shr<const N: u32>(a: Self::Bits) -> Self::Bits;

    /// The 64-bit products by `factor`: low and high halves.
    fn mul_wide(a: Self::Bits, factor: u32) -> (Self::Bits, Self::Bits);

    /// `a < b ? yes : no` for numbers below 2³¹.
    fn select_bits_below(a: Self::Bits, b: Self::Bits, yes: Self, no: Self) -> Self;

    /// The largest lane.
    #[inline(always)]
    fn maximum(self) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; MOST_LANES];
        self.store(&mut lanes);
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        let eight: [f32; 8] = std::array::from_fn(|lane| larger(lanes[lane], lanes[lane + 8]));
        let four: [f32; 4] = std::array::from_fn(|lane| larger(eight[lane], eight[lane + 4]));
        larger(larger(four[0], four[2]), larger(four[1], four[3]))
    }

    /// The lanes without their sign.
    #[inline(always)]
    fn abs(self) -> Self {
        Self::from_bits(Self::and(self.to_bits(), Self::bits(0x7fff_ffff)))
    }

    /// The magnitude of `self` with the sign of `other`.
    #[inline(always)]
    fn copysign(self, other: Self) -> Self {
        let sign = Self::and(other.to_bits(), Self::bits(0x8000_0000));
        Self::from_bits(Self::or(self.abs().to_bits(), sign))
    }

    /// What is left of the lanes after a store as `T`.
    #[inline(always)]
    fn rounded<T: Element>(self) -> Self {
        if size_of::<T>() == size_of::<f32>() { self } else { Self::from_bits(rounded_bf16::<Self>(self)) }
    }

    /// The `n` elements of `from` from `at` on, and zeros.
    #[inline(always)]
    fn load_some<T: Element>(from: &[T], at: usize, n: usize) -> Self {
        if n == Self::LANES {
            Self::load(&from[at..at + Self::LANES])
        } else {
            let mut padded = [T::round(0.0); MOST_LANES];
            padded[..n].copy_from_slice(&from[at..at + n]);
            Self::load(&padded)
        }
    }

    /// Puts the first `n` lanes, which [`Vector::rounded`] gave, into `to` from `at` on.
    #[inline(always)]
    fn store_rounded<T: Element>(self, to: &mut [T], at: usize, n: usize) {
        if n == Self::LANES {
            self.store_exact(&mut to[at..at + Self::LANES]);
        } else {
            self.store_some(to, at, n);
        }
    }

    /// Rounds the first `n` lanes to `to` from `at` on.
    #[inline(always)]
    fn store_some<T: Element>(self, to: &mut [T], at: usize, n: usize) {
        if n == Self::LANES {
            self.store(&mut to[at..at + Self::LANES]);
        } else {
            let mut padded = [T::round(0.0); MOST_LANES];
            self.store(&mut padded);
            to[at..at + n].copy_from_slice(&padded[..n]);
        }
    }

    /// The lanes from the `n`-th on replaced by `value`.
    #[inline(always)]
    fn only(self, n: usize, value: Self) -> Self {
        if n == Self::LANES {
            self
        } else {
            Self::select_bits_below(Self::ascending(0), Self::bits(n as u32), self, value)
        }
    }
}

/// Lanes of the widest vector.
pub(crate) const MOST_LANES: usize = 16;

/// bf16 in the upper half of each lane, rounded to nearest even, as [`Element::round`]; the lower half is zero.
#[inline(always)]
fn rounded_bf16<V: Vector>(x: V) -> V::Bits {
    let bits = x.to_bits();
    let odd = V::and(V::shr::<16>(bits), V::bits(1));
    let rounded = V::add_bits(bits, V::add_bits(odd, V::bits(0x7fff)));
    let nan = V::or(bits, V::bits(0x0040_0000));
    // Magnitudes as integers are below 2³¹; NaN is above infinity.
    let magnitude = V::and(bits, V::bits(0x7fff_ffff));
    let chosen =
        V::select_bits_below(magnitude, V::bits(0x7f80_0001), V::from_bits(rounded), V::from_bits(nan));
    V::and(chosen.to_bits(), V::bits(0xffff_0000))
}

/// Calls `step(at, n)` for the vectors that cover `0..len`: `n` is the number of lanes in all but the last.
#[inline(always)]
pub(crate) fn each<V: Vector>(len: usize, mut step: impl FnMut(usize, usize)) {
    let mut at = 0;
    while at + V::LANES <= len {
        step(at, V::LANES);
        at += V::LANES;
    }
    if at < len {
        step(at, len - at);
    }
}

/// Defines a function whose body is compiled for each [`Isa`] and chosen at run time.
///
/// `fn name[V, T: Bound, …](arguments) -> Result { body }`; the body sees `V: Vector` and the other parameters.
/// Everything that it calls must be `#[inline(always)]`, closures too, to be compiled for the set as well.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident[$vector:ident $(, $g:ident : $bound:path)*]
     ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name<$($g: $bound),*>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<$vector: $crate::simd::Vector $(, $g: $bound)*>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512<$($g: $bound),*>($($arg: $ty),*) $(-> $ret)? {
                body::<$crate::simd::Avx512 $(, $g)*>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2<$($g: $bound),*>($($arg: $ty),*) $(-> $ret)? {
                body::<$crate::simd::Avx2 $(, $g)*>($($arg),*)
            }

            match $crate::simd::Isa::active() {
                // SAFETY: the processor was asked for these features when the set was chosen.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx512 => unsafe { avx512::<$($g),*>($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Isa::Avx2 => unsafe { avx2::<$($g),*>($($arg),*) },
                $crate::simd::Isa::Plain => body::<$crate::simd::Plain $(, $g)*>($($arg),*),
            }
        }
    };
}
