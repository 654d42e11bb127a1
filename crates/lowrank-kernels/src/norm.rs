//! Layer norm, fused with the dropout and the residual sum before it.

use crate::dropout::{Dropout, Hash, RowId};
use crate::element::Element;
use crate::parallel::{PerRow, for_each_row_block, sum_row_blocks};
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::{Level, Vector};

multiversion! {
    /// `sum = dropout(x) + residual`, rounded to `T` and widened again.
    fn sum_row[L, T: Element](
        x: &[T], residual: Option<&[T]>, dropout: Option<(&Hash, RowId)>, sum: &mut [f32],
    ) {
        match dropout {
            Some((hash, row)) => {
                hash.fill(row, 0, sum);
                for (x, sum) in x.iter().zip(&mut *sum) {
                    *sum *= x.widen();
                }
            }
            None => {
                for (x, sum) in x.iter().zip(&mut *sum) {
                    *sum = x.widen();
                }
            }
        }
        if let Some(residual) = residual {
            for (residual, sum) in residual.iter().zip(&mut *sum) {
                *sum += residual.widen();
            }
        }
        for sum in sum {
            *sum = T::round(*sum).widen();
        }
    }
}

/// The sum of `f` over a slice, in lanes that are added as a tree.
#[inline(always)]
fn sum_of<L: Level>(x: &[f32], f: impl Fn(L::V) -> L::V) -> f32 {
    let lanes = L::V::LANES;
    let mut sums = [L::V::splat(0.0); 4];
    let mut chunks = x.chunks_exact(4 * lanes);
    for chunk in &mut chunks {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = sum.add(f(L::V::load(&chunk[i * lanes..])));
        }
    }
    let mut rest = chunks.remainder().chunks_exact(lanes);
    for chunk in &mut rest {
        sums[0] = sums[0].add(f(L::V::load(chunk)));
    }
    let mut total = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
    for &x in rest.remainder() {
        let mut one = [0.0; 16];
        f(L::V::splat(x)).store(&mut one[..lanes]);
        total += one[0];
    }
    total
}

multiversion! {
    /// Normalises one row; returns its mean and the inverse of its deviation.
    fn normalise_row[L, T: Element](
        sum: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [T],
    ) -> (f32, f32) {
        let inverse_width = 1.0 / sum.len() as f32;
        let mean = sum_of::<L>(sum, |x| x) * inverse_width;
        let shift = L::V::splat(-mean);
        let variance = sum_of::<L>(sum, |x| { let x = x.add(shift); x.mul(x) }) * inverse_width;
        let rstd = 1.0 / (variance + eps).sqrt();
        for (((sum, gamma), beta), y) in sum.iter().zip(gamma).zip(beta).zip(y) {
            *y = T::round(L::madd((sum - mean) * rstd, *gamma, *beta));
        }
        (mean, rstd)
    }
}

/// `y = (s - mean)·rstd·gamma + beta` with `s = dropout(x) + residual`, row by row.
///
/// `s` is rounded to `T` before the statistics are taken, whether it is saved in `sum` or not, so that backward
/// (which reads the saved sum) sees the same numbers.
///
/// # Shapes
/// `x`, `residual`, `sum`, `y`: `[rows, width]`; `gamma`, `beta`: `[width]`; `mean`, `rstd`: `[rows]`.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm_forward<T: Element>(
    x: Rows<T>,
    residual: Option<Rows<T>>,
    dropout: Option<&Dropout>,
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    sum: Option<RowsMut<T>>,
    y: RowsMut<T>,
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    let (rows, width) = (x.rows(), x.cols());
    assert_eq!((y.rows(), y.cols()), (rows, width));
    assert_eq!((gamma.len(), beta.len()), (width, width));
    assert_eq!((mean.len(), rstd.len()), (rows, rows));
    assert!(residual.is_none_or(|residual| (residual.rows(), residual.cols()) == (rows, width)));
    assert!(sum.as_ref().is_none_or(|sum| (sum.rows(), sum.cols()) == (rows, width)));
    let hash = dropout.map(|dropout| {
        dropout.check(rows);
        (dropout.hash(), dropout.rows)
    });
    let cost = width * if hash.is_some() { 8 } else { 4 };
    let outputs = (sum, y, PerRow::one(mean), PerRow::one(rstd));
    for_each_row_block(rows, cost, outputs, |range, (mut sum, mut y, mean, rstd)| {
        scratch::with(width, |s| {
            for (i, row) in range.enumerate() {
                let residual = residual.map(|residual| residual.row(row));
                let dropout = hash.as_ref().map(|(hash, rows)| (hash, rows[row]));
                sum_row(x.row(row), residual, dropout, s);
                if let Some(sum) = &mut sum {
                    store_row(s, sum.row(i));
                }
                (mean.data[i], rstd.data[i]) = normalise_row(s, gamma, beta, eps, y.row(i));
            }
        });
    });
}

multiversion! {
    fn store_row[L, T: Element](x: &[f32], y: &mut [T]) {
        for (x, y) in x.iter().zip(y) {
            *y = T::round(*x);
        }
    }
}

multiversion! {
    /// One row's `dx`; `normal` and `scaled` are working memory for x̂ and dy·gamma.
    fn backward_row[L, T: Element](
        dy: &[T], x: &[T], gamma: &[f32], mean: f32, rstd: f32, dx: &mut [T],
        normal: &mut [f32], scaled: &mut [f32], parameters: Option<(&mut [f32], &mut [f32])>,
    ) {
        for (x, normal) in x.iter().zip(&mut *normal) {
            *normal = (x.widen() - mean) * rstd;
        }
        if let Some((dgamma, dbeta)) = parameters {
            for (((dy, normal), dgamma), dbeta) in dy.iter().zip(&*normal).zip(dgamma).zip(dbeta) {
                *dgamma = L::madd(dy.widen(), *normal, *dgamma);
                *dbeta += dy.widen();
            }
        }
        for ((dy, gamma), scaled) in dy.iter().zip(gamma).zip(&mut *scaled) {
            *scaled = dy.widen() * gamma;
        }
        let inverse_width = 1.0 / dx.len() as f32;
        let shift = sum_of::<L>(scaled, |x| x) * inverse_width;
        let slope = product_sum::<L>(scaled, normal) * inverse_width;
        for ((normal, scaled), dx) in normal.iter().zip(&*scaled).zip(dx) {
            *dx = T::round(rstd * (L::madd(-slope, *normal, *scaled) - shift));
        }
    }
}

/// `Σ x·y`, in lanes that are added as a tree.
#[inline(always)]
fn product_sum<L: Level>(x: &[f32], y: &[f32]) -> f32 {
    let lanes = L::V::LANES;
    let mut sums = [L::V::splat(0.0); 4];
    let whole = x.len() / lanes;
    for i in 0..whole {
        let at = i * lanes;
        let slot = i % 4;
        sums[slot] = L::V::load(&x[at..at + lanes]).madd(L::V::load(&y[at..at + lanes]), sums[slot]);
    }
    let mut total = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
    for (x, y) in x[whole * lanes..].iter().zip(&y[whole * lanes..]) {
        total = L::madd(*x, *y, total);
    }
    total
}

multiversion! {
    fn drop_row[L, T: Element](x: &[T], hash: &Hash, row: RowId, factors: &mut [f32], y: &mut [T]) {
        hash.fill(row, 0, factors);
        for ((x, factor), y) in x.iter().zip(factors).zip(y) {
            *y = T::round(x.widen() * *factor);
        }
    }
}

/// The backward of [`layer_norm_forward`]: `dx` is the gradient of the saved sum (and so of the residual);
/// `dx_dropped`, if given, is that gradient through the dropout: the gradient of the forward's `x`.
///
/// # Shapes
/// `dy`, `sum`, `dx`, `dx_dropped`: `[rows, width]`; `gamma` and the parameter gradients (dgamma, dbeta; added
/// to): `[width]`; `mean`, `rstd`: `[rows]`.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm_backward<T: Element>(
    dy: Rows<T>,
    sum: Rows<T>,
    gamma: &[f32],
    mean: &[f32],
    rstd: &[f32],
    dx: RowsMut<T>,
    dx_dropped: Option<(RowsMut<T>, &Dropout)>,
    parameter_gradients: Option<(&mut [f32], &mut [f32])>,
) {
    let (rows, width) = (dy.rows(), dy.cols());
    assert_eq!((sum.rows(), sum.cols()), (rows, width));
    assert_eq!((dx.rows(), dx.cols()), (rows, width));
    assert_eq!((gamma.len(), mean.len(), rstd.len()), (width, rows, rows));
    let (dropped, hash) = match dx_dropped {
        Some((dropped, dropout)) => {
            assert_eq!((dropped.rows(), dropped.cols()), (rows, width));
            dropout.check(rows);
            (Some(dropped), Some((dropout.hash(), dropout.rows)))
        }
        None => (None, None),
    };
    let cost = width * if hash.is_some() { 8 } else { 4 };
    let block = |range: std::ops::Range<usize>,
                 (mut dx, mut dropped): (RowsMut<T>, Option<RowsMut<T>>),
                 mut parameters: Option<(&mut [f32], &mut [f32])>| {
        scratch::with(2 * width, |working| {
            let (normal, scaled) = working.split_at_mut(width);
            for (i, row) in range.enumerate() {
                let parameters = parameters.as_mut().map(|(dgamma, dbeta)| (&mut **dgamma, &mut **dbeta));
                backward_row(
                    dy.row(row),
                    sum.row(row),
                    gamma,
                    mean[row],
                    rstd[row],
                    dx.row(i),
                    normal,
                    scaled,
                    parameters,
                );
                if let (Some(dropped), Some((hash, ids))) = (&mut dropped, &hash) {
                    drop_row(dx.row(i), hash, ids[row], normal, dropped.row(i));
                }
            }
        });
    };
    let outputs = (dx, dropped);
    match parameter_gradients {
        None => for_each_row_block(rows, cost, outputs, |range, outputs| block(range, outputs, None)),
        Some((dgamma, dbeta)) => {
            assert_eq!((dgamma.len(), dbeta.len()), (width, width));
            scratch::with(2 * width, |total| {
                total.fill(0.0);
                sum_row_blocks(rows, cost, total, outputs, |range, outputs, sums| {
                    let (dgamma, dbeta) = sums.split_at_mut(width);
                    block(range, outputs, Some((dgamma, dbeta)));
                });
                let (gamma_total, beta_total) = total.split_at(width);
                dgamma.iter_mut().zip(gamma_total).for_each(|(gradient, total)| *gradient += total);
                dbeta.iter_mut().zip(beta_total).for_each(|(gradient, total)| *gradient += total);
            });
        }
    }
}
