//! The vector of every processor: an array, whose loops the compiler turns into what the target has.

use std::array::from_fn;

use super::Vector;
use crate::element::Element;
use crate::tier::FUSED;

/// `N` lanes.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Lanes<const N: usize>([f32; N]);

impl<const N: usize> Lanes<N> {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(from_fn(|lane| f(self.0[lane], other.0[lane])))
    }
}

#[inline(always)]
fn zip_bits<const N: usize>(a: [u32; N], b: [u32; N], f: impl Fn(u32, u32) -> u32) -> [u32; N] {
    from_fn(|lane| f(a[lane], b[lane]))
}

impl<const N: usize> Vector for Lanes<N> {
    const LANES: usize = N;
    type Bits = [u32; N];

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; N])
    }

    #[inline(always)]
    fn load<T: Element>(from: &[T]) -> Self {
        let from = &from[..N];
        Self(from_fn(|lane| from[lane].widen()))
    }

    #[inline(always)]
    fn store<T: Element>(self, to: &mut [T]) {
        for (to, lane) in to[..N].iter_mut().zip(self.0) {
            *to = T::round(lane);
        }
    }

    #[inline(always)]
    fn store_exact<T: Element>(self, to: &mut [T]) {
        self.store(to);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn madd(self, factor: Self, addend: Self) -> Self {
        Self(from_fn(|lane| {
            let (a, b, c) = (self.0[lane], factor.0[lane], addend.0[lane]);
            // Without a fused multiply-add, `mul_add` is a slow call of the C library.
            if FUSED { a.mul_add(b, c) } else { a * b + c }
        }))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn select_below(self, other: Self, yes: Self, no: Self) -> Self {
        Self(from_fn(|lane| if self.0[lane] < other.0[lane] { yes.0[lane] } else { no.0[lane] }))
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

    #[inline(always)]
    fn to_bits(self) -> [u32; N] {
        self.0.map(f32::to_bits)
    }

    #[inline(always)]
    fn from_bits(bits: [u32; N]) -> Self {
        Self(bits.map(f32::from_bits))
    }

    #[inline(always)]
    fn bits(value: u32) -> [u32; N] {
        [value; N]
    }

    #[inline(always)]
    fn ascending(start: u32) -> [u32; N] {
        from_fn(|lane| start.wrapping_add(lane as u32))
    }

    #[inline(always)]
    fn add_bits(a: [u32; N], b: [u32; N]) -> [u32; N] {
        zip_bits(a, b, u32::wrapping_add)
    }

    #[inline(always)]
    fn and(a: [u32; N], b: [u32; N]) -> [u32; N] {
        zip_bits(a, b, |a, b| a & b)
    }

    #[inline(always)]
    fn or(a: [u32; N], b: [u32; N]) -> [u32; N] {
        zip_bits(a, b, |a, b| a | b)
    }

    #[inline(always)]
    fn xor(a: [u32; N], b: [u32; N]) -> [u32; N] {
        zip_bits(a, b, |a, b| a ^ b)
    }

    #[inline(always)]
    fn shl<const S: u32>(a: [u32; N]) -> [u32; N] {
        a.map(|a| a << S)
    }

    #[inline(always)]
    fn shr<const S: u32>(a: [u32; N]) -> [u32; N] {
        a.map(|a| a >> S)
    }

    #[inline(always)]
    fn mul_wide(a: [u32; N], factor: u32) -> ([u32; N], [u32; N]) {
        let products = a.map(|a| u64::from(a) * u64::from(factor));
        (products.map(|product| product as u32), products.map(|product| (product >> 32) as u32))
    }

    #[inline(always)]
    fn select_bits_below(a: [u32; N], b: [u32; N], yes: Self, no: Self) -> Self {
        Self(from_fn(|lane| if a[lane] < b[lane] { yes.0[lane] } else { no.0[lane] }))
    }
}
