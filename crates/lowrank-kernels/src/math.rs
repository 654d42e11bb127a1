//! Elementary functions as straight-line polynomials, so that loops over them vectorise.

use crate::simd::Level;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Adding and subtracting 1.5·2²³ rounds to the nearest integer, which is then in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// `eˣ`, to about an ulp; 0 below -87.3 (the smallest normal numbers are flushed), `e⁸⁸` above 88.
#[inline(always)]
pub(crate) fn exp<L: Level>(x: f32) -> f32 {
    let clamped = x.clamp(-87.3, 88.0);
    let shifted = L::madd(clamped, LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = L::madd(n, -0.693_359_4, clamped);
    let r = L::madd(n, 2.121_944_4e-4, r);
    let p = 1.987_569_1e-4;
    let p = L::madd(p, r, 1.398_199_9e-3);
    let p = L::madd(p, r, 8.333_452e-3);
    let p = L::madd(p, r, 4.166_579_6e-2);
    let p = L::madd(p, r, 1.666_666_5e-1);
    let p = L::madd(p, r, 0.5);
    let p = L::madd(p * r, r, r) + 1.0;
    let two_n = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { p * two_n }
}

/// `tanh x`, to a few ulp.
#[inline(always)]
pub(crate) fn tanh<L: Level>(x: f32) -> f32 {
    let square = x * x;
    let p = -5.704_988_7e-3;
    let p = L::madd(p, square, 2.063_909e-2);
    let p = L::madd(p, square, -5.373_971_6e-2);
    let p = L::madd(p, square, 1.333_144_2e-1);
    let p = L::madd(p, square, -3.333_328e-1);
    let near = L::madd(p * square, x, x);
    // A comparison that keeps NaN, unlike `min`.
    let e = exp::<L>(2.0 * if x.abs() > 20.0 { 20.0 } else { x.abs() });
    let far = (1.0 - 2.0 / (e + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<L: Level>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<L>(-x))
}

/// The normal distribution function `Φ(x) = (1 + erf(x/√2)) / 2`, accurate in its left tail as well.
///
/// # Source
/// The two minimax polynomials for `erf` are N. Juffa's; each is good to an ulp on its side of 0.9277.
#[inline(always)]
pub(crate) fn normal_cdf<L: Level>(x: f32) -> f32 {
    let a = x * std::f32::consts::FRAC_1_SQRT_2;
    let t = a.abs().min(9.3);
    let s = t * t;
    let r = L::madd(-1.728_534_7e-5, t, 3.831_971_3e-4);
    let u = L::madd(-3.883_964_4e-3, t, 2.425_462_2e-2);
    let r = L::madd(r, s, u);
    let r = L::madd(r, t, -1.067_778_8e-1);
    let r = L::madd(r, t, -6.348_467e-1);
    let r = L::madd(r, t, -1.287_175_1e-1);
    let tail = 0.5 * exp::<L>(L::madd(r, t, -t));
    let far = if x < 0.0 { tail } else { 1.0 - tail };
    let p = -5.967_617e-4;
    let p = L::madd(p, s, 4.991_194e-3);
    let p = L::madd(p, s, -2.676_813_5e-2);
    let p = L::madd(p, s, 1.128_199_2e-1);
    let p = L::madd(p, s, -3.761_253_4e-1);
    let p = L::madd(p, s, 1.283_791_7e-1);
    let near = L::madd(0.5, L::madd(p, a, a), 0.5);
    if t > 0.927_734_4 { far } else { near }
}
