//! Elementary functions of vectors, as straight-line polynomials.

use crate::simd::Vector;

/// Adding and subtracting 1.5·2²³ rounds to the nearest integer, which is then in the low bits.
const ROUNDER: f32 = 12_582_912.0;
/// Below, `eˣ` is no normal number.
const LOWEST: f32 = -87.3;
const HIGHEST: f32 = 88.0;

/// `Σ coefficients·xⁱ`, the highest power first.
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut sum = V::splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = sum.madd(x, V::splat(coefficient));
    }
    sum
}

/// `eˣ`, to about an ulp; 0 below -87.3, `e⁸⁸` above 88.
///
/// # Source
/// Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<V: Vector>(x: V) -> V {
    // In this order of operands NaN stays NaN.
    let clamped = V::splat(HIGHEST).min(V::splat(LOWEST).max(x));
    let shifted = clamped.madd(V::splat(std::f32::consts::LOG2_E), V::splat(ROUNDER));
    let n = shifted.sub(V::splat(ROUNDER));
    let r = n.madd(V::splat(-0.693_359_4), clamped);
    let r = n.madd(V::splat(2.121_944_4e-4), r);
    let p =
        polynomial(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let p = p.madd(r.mul(r), r).add(V::splat(1.0));
    let two_n = V::from_bits(V::shl::<23>(V::add_bits(shifted.to_bits(), V::bits(127))));
    x.select_below(V::splat(LOWEST), V::splat(0.0), p.mul(two_n))
}

/// `tanh x`, to a few ulp.
///
/// # Source
/// Cephes' `tanhf`: a polynomial below 0.625, the exponential function above.
#[inline(always)]
pub(crate) fn tanh<V: Vector>(x: V) -> V {
    let (size, square) = (x.abs(), x.mul(x));
    let p = [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];
    let near = polynomial(square, p).mul(square).madd(x, x);
    let e = exp(size.add(size));
    let far = V::splat(1.0).sub(V::splat(2.0).div(e.add(V::splat(1.0)))).copysign(x);
    size.select_below(V::splat(0.625), near, far)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<V: Vector>(x: V) -> V {
    V::splat(1.0).div(exp(V::splat(0.0).sub(x)).add(V::splat(1.0)))
}

/// The normal distribution function `Φ(x) = (1 + erf(x/√2)) / 2`, and `exp(-x²/2)`.
///
/// The smaller tail is computed, `Φ(-|x|) = exp(-x²/2)·u·Q(u)` with `u = 1/(1 + 0.42·|x|/√2)`, so that it keeps
/// its relative accuracy, and one exponential serves the function and its derivative.
///
/// # Source
/// The form is Hastings' (Abramowitz and Stegun 7.1.26); `Q` is half the minimax polynomial of `erfcx(t)/u` in
/// relative error (3.5e-8 for `t` up to 6.5).
#[inline(always)]
pub(crate) fn normal_cdf<V: Vector>(x: V) -> (V, V) {
    const Q: [f32; 8] = [
        0.038_002_03,
        -0.172_525_46,
        0.242_479_54,
        -0.086_533_17,
        0.146_210_38,
        0.093_552_48,
        0.120_448_57,
        0.118_365_63,
    ];
    let (one, bell) = (V::splat(1.0), exp(x.mul(x).mul(V::splat(-0.5))));
    let u = one.div(x.abs().madd(V::splat(0.42 * std::f32::consts::FRAC_1_SQRT_2), one));
    let tail = polynomial(u, Q).mul(u).mul(bell);
    (x.select_below(V::splat(0.0), tail, one.sub(tail)), bell)
}
