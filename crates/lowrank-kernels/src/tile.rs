//! The two small matrix products that everything but the frozen weights uses: rows times rows (`x·aᵀ`, vectorised
//! along the sum) and rows times columns (`a·b`, vectorised along the output). Eight accumulators hide the latency
//! of the multiply-add and fit the registers of every level.

use crate::element::Element;
use crate::simd::{Vector, each};

/// A row-major matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) stride: usize,
}

impl<'a, T> Panel<'a, T> {
    /// The matrix from element `start` of the slice on.
    #[inline(always)]
    fn from(self, start: usize) -> Self {
        // Of a matrix without rows or columns nothing is left to read.
        Self { data: self.data.get(start..).unwrap_or(&[]), ..self }
    }
}

/// The left factor of [`multiply`].
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Element `(i, p)` in row `i`, column `p`.
    Plain(Panel<'a, f32>),
    /// Element `(i, p)` in row `p`, column `i`.
    Transposed(Panel<'a, f32>),
}

multiversion! {
    /// `c[m, n] = alpha·a[m, k]·b[k, n]`, added to what `c` holds if `accumulate`. Row `i` of `c` is at `i * stride`.
    pub(crate) fn multiply[V, B: Element, C: Element](
        size: [usize; 3], alpha: f32, a: Left, b: Panel<B>, c: &mut [C], stride: usize, accumulate: bool,
    ) {
        match a {
            Left::Plain(a) => multiply_rows::<V, B, C, false>(size, alpha, a, b, c, stride, accumulate),
            Left::Transposed(a) => multiply_rows::<V, B, C, true>(size, alpha, a, b, c, stride, accumulate),
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn multiply_rows<V: Vector, B: Element, C: Element, const TRANSPOSED: bool>(
    [m, k, n]: [usize; 3],
    alpha: f32,
    a: Panel<f32>,
    b: Panel<B>,
    c: &mut [C],
    stride: usize,
    accumulate: bool,
) {
    let mut i = 0;
    while i < m {
        let a = a.from(if TRANSPOSED { i } else { i * a.stride });
        let c = &mut c[i * stride..];
        i += if m - i >= 4 {
            multiply_columns::<V, B, C, TRANSPOSED, 4>([k, n], alpha, a, b, c, stride, accumulate)
        } else if m - i >= 2 {
            multiply_columns::<V, B, C, TRANSPOSED, 2>([k, n], alpha, a, b, c, stride, accumulate)
        } else {
            multiply_columns::<V, B, C, TRANSPOSED, 1>([k, n], alpha, a, b, c, stride, accumulate)
        };
    }
}

/// `M` rows of the product; returns `M`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn multiply_columns<V: Vector, B: Element, C: Element, const TRANSPOSED: bool, const M: usize>(
    [k, n]: [usize; 2],
    alpha: f32,
    a: Panel<f32>,
    b: Panel<B>,
    c: &mut [C],
    stride: usize,
    accumulate: bool,
) -> usize {
    let mut j = 0;
    while j + 2 * V::LANES <= n {
        let sums = product::<V, B, TRANSPOSED, M, 2>(k, a, b.from(j), 2 * V::LANES);
        store_tile(sums, alpha, &mut c[j..], stride, 2 * V::LANES, accumulate);
        j += 2 * V::LANES;
    }
    while j < n {
        let width = V::LANES.min(n - j);
        let sums = product::<V, B, TRANSPOSED, M, 1>(k, a, b.from(j), width);
        store_tile(sums, alpha, &mut c[j..], stride, width, accumulate);
        j += width;
    }
    M
}

/// `a[M, k]·b[k, width]`; the lanes beyond `width` are zero.
#[inline(always)]
fn product<V: Vector, B: Element, const TRANSPOSED: bool, const M: usize, const N: usize>(
    k: usize,
    a: Panel<f32>,
    b: Panel<B>,
    width: usize,
) -> [[V; N]; M] {
    let rows: [&[f32]; M] = if TRANSPOSED {
        [&[]; M]
    } else {
        std::array::from_fn(|row| &a.data[row * a.stride..row * a.stride + k])
    };
    let mut sums = [[V::splat(0.0); N]; M];
    // `p` runs over columns of `rows`, not over them.
    #[allow(clippy::needless_range_loop)]
    for p in 0..k {
        let b = &b.data[p * b.stride..p * b.stride + width];
        // Loops rather than `from_fn`, whose closures may stay calls without the instruction set.
        let mut bs = [V::splat(0.0); N];
        for (v, bs) in bs.iter_mut().enumerate() {
            *bs = if width == N * V::LANES { V::load(&b[v * V::LANES..]) } else { V::load_some(b, 0, width) };
        }
        let column = if TRANSPOSED { &a.data[p * a.stride..p * a.stride + M] } else { &[] };
        for row in 0..M {
            let a = V::splat(if TRANSPOSED { column[row] } else { rows[row][p] });
            for v in 0..N {
                sums[row][v] = a.madd(bs[v], sums[row][v]);
            }
        }
    }
    sums
}

#[inline(always)]
fn store_tile<V: Vector, C: Element, const M: usize, const N: usize>(
    sums: [[V; N]; M],
    alpha: f32,
    c: &mut [C],
    stride: usize,
    width: usize,
    accumulate: bool,
) {
    let alpha = V::splat(alpha);
    for (row, sums) in sums.into_iter().enumerate() {
        let c = &mut c[row * stride..row * stride + width];
        for (v, sum) in sums.into_iter().enumerate() {
            let (at, lanes) = (v * V::LANES, if width == N * V::LANES { V::LANES } else { width });
            let start = if accumulate { V::load_some(c, at, lanes) } else { V::splat(0.0) };
            alpha.madd(sum, start).store_some(c, at, lanes);
        }
    }
}

multiversion! {
    /// `u[i, r] = alpha·⟨x[i], a[r]⟩` for `m` vectors of length `k` by `r`. Row `i` of `u` is at `i * stride`.
    pub(crate) fn dots[V, X: Element, A: Element](
        size: [usize; 3], alpha: f32, x: Panel<X>, a: Panel<A>, u: &mut [f32], stride: usize,
    ) {
        let [m, k, r] = size;
        let mut i = 0;
        while i < m {
            let two = i + 2 <= m;
            let x = x.from(i * x.stride);
            let u = &mut u[i * stride..];
            let mut j = 0;
            while j < r {
                let (a, u) = (a.from(j * a.stride), &mut u[j..]);
                j += match (two, r - j >= 4) {
                    (true, true) => dot_tile::<V, X, A, 2, 4>(k, alpha, x, a, u, stride),
                    (true, false) => dot_tile::<V, X, A, 2, 1>(k, alpha, x, a, u, stride),
                    (false, true) => dot_tile::<V, X, A, 1, 4>(k, alpha, x, a, u, stride),
                    (false, false) => dot_tile::<V, X, A, 1, 1>(k, alpha, x, a, u, stride),
                };
            }
            i += if two { 2 } else { 1 };
        }
    }
}

/// `M` by `R` dot products; returns `R`.
#[inline(always)]
fn dot_tile<V: Vector, X: Element, A: Element, const M: usize, const R: usize>(
    k: usize,
    alpha: f32,
    x: Panel<X>,
    a: Panel<A>,
    u: &mut [f32],
    stride: usize,
) -> usize {
    let x: [&[X]; M] = std::array::from_fn(|row| &x.data[row * x.stride..row * x.stride + k]);
    let a: [&[A]; R] = std::array::from_fn(|row| &a.data[row * a.stride..row * a.stride + k]);
    let mut sums = [[V::splat(0.0); R]; M];
    each::<V>(
        k,
        #[inline(always)]
        |at, n| {
            let mut xs = [V::splat(0.0); M];
            for row in 0..M {
                xs[row] = V::load_some(x[row], at, n);
            }
            for r in 0..R {
                let a = V::load_some(a[r], at, n);
                for row in 0..M {
                    sums[row][r] = a.madd(xs[row], sums[row][r]);
                }
            }
        },
    );
    for (row, sums) in sums.into_iter().enumerate() {
        for (r, sum) in sums.into_iter().enumerate() {
            u[row * stride + r] = alpha * sum.sum();
        }
    }
    R
}
