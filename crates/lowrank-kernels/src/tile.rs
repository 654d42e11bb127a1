//! The two small matrix products that everything but the frozen weights uses: rows times rows (`x·aᵀ`, vectorised
//! along the sum) and rows times columns (`a·b`, vectorised along the output). Eight accumulators hide the latency
//! of the multiply-add and fit the registers of every level.

use crate::element::Element;
use crate::simd::{Level, Vector};

/// A matrix of scalars inside a slice: element `(i, j)` at `i * row + j * col`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) col: usize,
}

/// A row-major matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) stride: usize,
}

/// `c[m, n] = alpha·a[m, k]·b[k, n]`, added to what `c` holds if `accumulate`. Row `i` of `c` is at `i * stride`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) fn multiply<L: Level, B: Element, C: Element>(
    [m, k, n]: [usize; 3],
    alpha: f32,
    a: Strided,
    b: Panel<B>,
    c: &mut [C],
    stride: usize,
    accumulate: bool,
) {
    let lanes = L::V::LANES;
    let mut i = 0;
    while i < m {
        let step = match m - i {
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        let a = Strided { data: &a.data[(i * a.row).min(a.data.len())..], ..a };
        let c = &mut c[i * stride..];
        let mut j = 0;
        while j + 2 * lanes <= n {
            match step {
                4 => multiply_tile::<L, B, C, 4, 2>(k, alpha, a, b, j, c, stride, accumulate),
                2 => multiply_tile::<L, B, C, 2, 2>(k, alpha, a, b, j, c, stride, accumulate),
                _ => multiply_tile::<L, B, C, 1, 2>(k, alpha, a, b, j, c, stride, accumulate),
            }
            j += 2 * lanes;
        }
        if j + lanes <= n {
            match step {
                4 => multiply_tile::<L, B, C, 4, 1>(k, alpha, a, b, j, c, stride, accumulate),
                2 => multiply_tile::<L, B, C, 2, 1>(k, alpha, a, b, j, c, stride, accumulate),
                _ => multiply_tile::<L, B, C, 1, 1>(k, alpha, a, b, j, c, stride, accumulate),
            }
            j += lanes;
        }
        for row in 0..step {
            for col in j..n {
                let mut sum = 0.0;
                for p in 0..k {
                    sum = L::madd(a.data[row * a.row + p * a.col], b.data[p * b.stride + col].widen(), sum);
                }
                let c = &mut c[row * stride + col];
                let start = if accumulate { c.widen() } else { 0.0 };
                *c = C::round(L::madd(alpha, sum, start));
            }
        }
        i += step;
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn multiply_tile<L: Level, B: Element, C: Element, const M: usize, const N: usize>(
    k: usize,
    alpha: f32,
    a: Strided,
    b: Panel<B>,
    j: usize,
    c: &mut [C],
    stride: usize,
    accumulate: bool,
) {
    let lanes = L::V::LANES;
    let mut sums = [[L::V::splat(0.0); N]; M];
    for p in 0..k {
        let b = &b.data[p * b.stride + j..][..N * lanes];
        let b: [L::V; N] = std::array::from_fn(|v| L::V::load(&b[v * lanes..]));
        for (row, sums) in sums.iter_mut().enumerate() {
            let a = L::V::splat(a.data[row * a.row + p * a.col]);
            for v in 0..N {
                sums[v] = a.madd(b[v], sums[v]);
            }
        }
    }
    let alpha = L::V::splat(alpha);
    for row in 0..M {
        let c = &mut c[row * stride + j..][..N * lanes];
        for v in 0..N {
            let c = &mut c[v * lanes..];
            let start = if accumulate { L::V::load(c) } else { L::V::splat(0.0) };
            alpha.madd(sums[row][v], start).store(c);
        }
    }
}

/// `u[i, r] = alpha·⟨x[i], a[r]⟩` over vectors of length `k`.
#[inline(always)]
pub(crate) fn dots<L: Level, X: Element>(
    [m, k, r]: [usize; 3],
    alpha: f32,
    x: Panel<X>,
    a: Panel<f32>,
    u: &mut [f32],
    stride: usize,
) {
    let mut i = 0;
    while i < m {
        let two = i + 2 <= m;
        let x = Panel { data: &x.data[(i * x.stride).min(x.data.len())..], ..x };
        let u = &mut u[i * stride..];
        let mut j = 0;
        while j < r {
            let a = Panel { data: &a.data[(j * a.stride).min(a.data.len())..], ..a };
            let u = &mut u[j..];
            match (two, r - j) {
                (true, 4..) => dot_tile::<L, X, 2, 4>(k, alpha, x, a, u, stride),
                (true, _) => dot_tile::<L, X, 2, 1>(k, alpha, x, a, u, stride),
                (false, 4..) => dot_tile::<L, X, 1, 4>(k, alpha, x, a, u, stride),
                (false, _) => dot_tile::<L, X, 1, 1>(k, alpha, x, a, u, stride),
            }
            j += if r - j >= 4 { 4 } else { 1 };
        }
        i += if two { 2 } else { 1 };
    }
}

#[inline(always)]
fn dot_tile<L: Level, X: Element, const M: usize, const R: usize>(
    k: usize,
    alpha: f32,
    x: Panel<X>,
    a: Panel<f32>,
    u: &mut [f32],
    stride: usize,
) {
    let lanes = L::V::LANES;
    let x: [&[X]; M] = std::array::from_fn(|row| &x.data[row * x.stride..][..k]);
    let a: [&[f32]; R] = std::array::from_fn(|row| &a.data[row * a.stride..][..k]);
    let mut sums = [[L::V::splat(0.0); R]; M];
    let whole = k / lanes * lanes;
    let mut p = 0;
    while p < whole {
        let xs: [L::V; M] = std::array::from_fn(|row| L::V::load(&x[row][p..p + lanes]));
        for r in 0..R {
            let a = L::V::load(&a[r][p..p + lanes]);
            for row in 0..M {
                sums[row][r] = a.madd(xs[row], sums[row][r]);
            }
        }
        p += lanes;
    }
    for row in 0..M {
        for r in 0..R {
            let mut sum = sums[row][r].sum();
            for p in whole..k {
                sum = L::madd(x[row][p].widen(), a[r][p], sum);
            }
            u[row * stride + r] = alpha * sum;
        }
    }
}
