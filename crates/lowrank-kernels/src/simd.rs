//! One source, several instruction sets: vectors of f32 lanes, and the macro that compiles a loop for each set.
//!
//! A body written with [`multiversion!`] is compiled three times: with AVX-512, with AVX2 and FMA, and for the
//! target's baseline. The compiler vectorises each; [`Isa::active`] picks one by the tier of the process. Bodies
//! name their instruction set `L: Level`, for what must differ by hand: the width of a vector, and whether
//! `a * b + c` is one rounding (a fused multiply-add without the instruction would be a slow library call).

use std::sync::OnceLock;

use crate::element::Element;
use crate::tier::Tier;

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
        *ACTIVE.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            {
                if Tier::active() >= Tier::Avx512 && is_x86_feature_detected!("avx2") {
                    return Self::Avx512;
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    return Self::Avx2;
                }
            }
            let _ = Tier::active();
            Self::Plain
        })
    }
}

/// What a body may know about the instruction set it is compiled for.
pub(crate) trait Level {
    /// The vector that fills one register (two where registers hold four lanes).
    type V: Vector;

    /// `a * b + c`, fused where the set can.
    fn madd(a: f32, b: f32, c: f32) -> f32;
}

/// A register's worth of f32 lanes.
pub(crate) trait Vector: Copy {
    /// Number of lanes.
    const LANES: usize;

    /// Every lane `value`.
    fn splat(value: f32) -> Self;

    /// The first lanes of `from`, widened.
    fn load<T: Element>(from: &[T]) -> Self;

    /// Rounds the lanes into the start of `to`.
    fn store<T: Element>(self, to: &mut [T]);

    /// Lane by lane sum.
    fn add(self, other: Self) -> Self;

    /// Lane by lane product.
    fn mul(self, other: Self) -> Self;

    /// `self * factor + addend`, lane by lane.
    fn madd(self, factor: Self, addend: Self) -> Self;

    /// The sum of the lanes, as a balanced tree.
    fn sum(self) -> f32;
}

/// `N` lanes as an array, which the compiler keeps in registers.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Lanes<const N: usize, const FUSED: bool>([f32; N]);

impl<const N: usize, const FUSED: bool> Vector for Lanes<N, FUSED> {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; N])
    }

    #[inline(always)]
    fn load<T: Element>(from: &[T]) -> Self {
        let from = &from[..N];
        Self(std::array::from_fn(|lane| from[lane].widen()))
    }

    #[inline(always)]
    fn store<T: Element>(self, to: &mut [T]) {
        for (to, lane) in to[..N].iter_mut().zip(self.0) {
            *to = T::round(lane);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] + other.0[lane]))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] * other.0[lane]))
    }

    #[inline(always)]
    fn madd(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|lane| madd::<FUSED>(self.0[lane], factor.0[lane], addend.0[lane])))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = self.0;
        let mut half = N / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
            half /= 2;
        }
        lanes[0]
    }
}

#[inline(always)]
fn madd<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Bodies compiled with AVX-512.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx512;

/// Bodies compiled with AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx2;

/// Bodies compiled for the baseline.
pub(crate) struct Plain;

#[cfg(target_arch = "x86_64")]
impl Level for Avx512 {
    type V = Lanes<16, true>;

    #[inline(always)]
    fn madd(a: f32, b: f32, c: f32) -> f32 {
        madd::<true>(a, b, c)
    }
}

#[cfg(target_arch = "x86_64")]
impl Level for Avx2 {
    type V = Lanes<8, true>;

    #[inline(always)]
    fn madd(a: f32, b: f32, c: f32) -> f32 {
        madd::<true>(a, b, c)
    }
}

/// Whether the baseline has a fused multiply-add.
const PLAIN_FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

impl Level for Plain {
    type V = Lanes<8, PLAIN_FUSED>;

    #[inline(always)]
    fn madd(a: f32, b: f32, c: f32) -> f32 {
        madd::<PLAIN_FUSED>(a, b, c)
    }
}

/// Defines a function whose body is compiled for each [`Isa`] and chosen at run time.
///
/// `fn name[L, T: Bound, …](arguments) -> Result { body }`; the body sees `L: Level` and the other parameters.
/// Everything it calls must be `#[inline(always)]` to be compiled for the set as well.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident[$level:ident $(, $g:ident : $bound:path)*]
     ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name<$($g: $bound),*>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<$level: $crate::simd::Level $(, $g: $bound)*>($($arg: $ty),*) $(-> $ret)? $body

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
