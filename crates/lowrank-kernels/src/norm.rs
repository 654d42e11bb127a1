//! Layer norm, fused with the dropout and the residual sum before it.

use crate::dropout::{Dropout, Hash, RowId};
use crate::element::Element;
use crate::parallel::{PerRow, for_each_row_block, sum_row_blocks};
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::each;

multiversion! {
    /// One row: puts `s = dropout(x) + residual`, rounded to `T`, into `working` (and `sum`), normalises it, and
    /// returns its mean and the inverse of its deviation.
    fn forward_row[V, T: Element](
        x: &[T], residual: Option<&[T]>, dropout: Option<(&Hash, RowId)>, gamma: &[f32], beta: &[f32], eps: f32,
        working: &mut [f32], sum: Option<&mut [T]>, y: &mut [T],
    ) -> (f32, f32) {
        let inverse_width = 1.0 / x.len() as f32;
        let mut sum = sum;
        if let Some((hash, row)) = dropout {
            hash.fill::<V>(row, 0, working);
        }
        let mut total = V::splat(0.0);
        each::<V>(x.len(), #[inline(always)] |at, n| {
            let mut s = V::load_some(x, at, n);
            if dropout.is_some() {
                s = s.mul(V::load_some(working, at, n));
            }
            if let Some(residual) = residual {
                s = s.add(V::load_some(residual, at, n));
            }
            let s = s.rounded::<T>();
            s.store_some(working, at, n);
            if let Some(sum) = &mut sum {
                s.store_rounded(sum, at, n);
            }
            total = total.add(s);
        });
        let mean = total.sum() * inverse_width;
        let (shift, mut squares) = (V::splat(mean), V::splat(0.0));
        each::<V>(x.len(), #[inline(always)] |at, n| {
            let centred = V::load_some(working, at, n).sub(shift).only(n, V::splat(0.0));
            squares = centred.madd(centred, squares);
        });
        let rstd = 1.0 / (squares.sum() * inverse_width + eps).sqrt();
        let scale = V::splat(rstd);
        each::<V>(x.len(), #[inline(always)] |at, n| {
            let normal = V::load_some(working, at, n).sub(shift).mul(scale);
            normal.madd(V::load_some(gamma, at, n), V::load_some(beta, at, n)).store_some(y, at, n);
        });
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
    (T::COMPILED.layer_norm_forward)(x, residual, dropout, gamma, beta, eps, sum, y, mean, rstd);
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn layer_norm_forward_kernel<T: Element>(
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
                (mean.data[i], rstd.data[i]) = forward_row(
                    x.row(row),
                    residual.map(|residual| residual.row(row)),
                    hash.as_ref().map(|(hash, rows)| (hash, rows[row])),
                    gamma,
                    beta,
                    eps,
                    s,
                    sum.as_mut().map(|sum| sum.row(i)),
                    y.row(i),
                );
            }
        });
    });
}

multiversion! {
    /// One row's `dx`; `normal` and `scaled` are working memory for x̂ and dy·gamma.
    fn backward_row[V, T: Element](
        dy: &[T], x: &[T], gamma: &[f32], mean: f32, rstd: f32, dx: &mut [T],
        normal: &mut [f32], scaled: &mut [f32], parameters: Option<(&mut [f32], &mut [f32])>,
    ) {
        let inverse_width = 1.0 / dx.len() as f32;
        let (centre, scale) = (V::splat(mean), V::splat(rstd));
        let (mut shift, mut slope) = (V::splat(0.0), V::splat(0.0));
        let mut parameters = parameters;
        each::<V>(dx.len(), #[inline(always)] |at, n| {
            let dy = V::load_some(dy, at, n);
            let xhat = V::load_some(x, at, n).sub(centre).mul(scale);
            let g = dy.mul(V::load_some(gamma, at, n));
            xhat.store_some(normal, at, n);
            g.store_some(scaled, at, n);
            shift = shift.add(g);
            slope = slope.add(g.mul(xhat));
            if let Some((dgamma, dbeta)) = &mut parameters {
                dy.madd(xhat, V::load_some(dgamma, at, n)).store_some(dgamma, at, n);
                dy.add(V::load_some(dbeta, at, n)).store_some(dbeta, at, n);
            }
        });
        let (shift, slope) = (V::splat(shift.sum() * inverse_width), V::splat(slope.sum() * -inverse_width));
        each::<V>(dx.len(), #[inline(always)] |at, n| {
            let g = V::load_some(scaled, at, n).sub(shift);
            slope.madd(V::load_some(normal, at, n), g).mul(scale).store_some(dx, at, n);
        });
    }
}

multiversion! {
    fn drop_row[V, T: Element](x: &[T], hash: &Hash, row: RowId, factors: &mut [f32], y: &mut [T]) {
        hash.fill::<V>(row, 0, factors);
        each::<V>(x.len(), #[inline(always)] |at, n| {
            V::load_some(x, at, n).mul(V::load_some(factors, at, n)).store_some(y, at, n);
        });
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
    (T::COMPILED.layer_norm_backward)(dy, sum, gamma, mean, rstd, dx, dx_dropped, parameter_gradients);
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn layer_norm_backward_kernel<T: Element>(
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
