//! A mixture of experts: which of them a row goes to, and the sum of what they make of it.

use crate::element::Element;
use crate::parallel::{PerRow, for_each_row_block};
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::each;

/// How a router's logits choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How many experts there are.
    pub experts: usize,
    /// How many of them a row goes to.
    pub chosen: usize,
    /// Whether the weights of a row add up to 1; else they are its probabilities.
    pub normalised: bool,
}

/// An element operation is an exponential, and a comparison for each that is chosen.
const COST_OF_LOGIT: usize = 20;

/// The experts of each row, those of the largest logits first and of two that are equal the first.
///
/// # Shapes
/// `logits`: `[rows, experts]`; `chosen`: `[rows, chosen]`.
///
/// # Panics
/// If more are chosen than there are.
pub fn choose(choice: Choice, logits: &[f32], chosen: &mut [usize]) {
    let Choice { experts, chosen: most, .. } = choice;
    assert!(0 < most && most <= experts, "{most} of {experts} experts");
    let rows = logits.len() / experts;
    let outputs = PerRow { data: chosen, per_row: most };
    for_each_row_block(rows, COST_OF_LOGIT * experts, outputs, |range, chosen| {
        for (row, chosen) in range.zip(chosen.data.chunks_exact_mut(most)) {
            let logits = &logits[row * experts..(row + 1) * experts];
            for place in 0..most {
                let free = (0..experts).filter(|expert| !chosen[..place].contains(expert));
                // `max_by` would give the last of equal ones.
                let best = free.reduce(|best, next| if logits[next] > logits[best] { next } else { best });
                chosen[place] = best.unwrap_or(0);
            }
        }
    });
}

/// The weights of the experts that rows go to: a row's softmax at their places, divided by its sum over them where the
/// choice is normalised.
///
/// # Shapes
/// `logits`: `[rows, experts]`; `chosen`, `weights`: `[rows, chosen]`.
///
/// # Panics
/// If an expert is none.
pub fn weights_of(choice: Choice, logits: &[f32], chosen: &[usize], weights: &mut [f32]) {
    let Choice { experts, chosen: most, normalised } = choice;
    let rows = logits.len() / experts;
    let outputs = PerRow { data: weights, per_row: most };
    for_each_row_block(rows, COST_OF_LOGIT * experts, outputs, |range, weights| {
        for (row, weights) in range.zip(weights.data.chunks_exact_mut(most)) {
            let logits = &logits[row * experts..(row + 1) * experts];
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let all: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
            for (weight, expert) in weights.iter_mut().zip(&chosen[row * most..]) {
                *weight = (logits[*expert] - highest).exp() / all;
            }
            if normalised {
                let sum: f32 = weights.iter().sum();
                weights.iter_mut().for_each(|weight| *weight /= sum);
            }
        }
    });
}

/// The backward of [`weights_of`]; the choice itself has no gradient.
///
/// # Shapes
/// As [`weights_of`]; `dweights`: `[rows, chosen]`, `dlogits`: `[rows, experts]`.
pub fn weights_backward(
    choice: Choice,
    logits: &[f32],
    chosen: &[usize],
    weights: &[f32],
    dweights: &[f32],
    dlogits: &mut [f32],
) {
    let Choice { experts, chosen: most, normalised } = choice;
    let rows = logits.len() / experts;
    let outputs = PerRow { data: dlogits, per_row: experts };
    for_each_row_block(rows, COST_OF_LOGIT * experts, outputs, |range, dlogits| {
        for (row, dlogits) in range.zip(dlogits.data.chunks_exact_mut(experts)) {
            let own = row * most..(row + 1) * most;
            let (chosen, weights, dweights) = (&chosen[own.clone()], &weights[own.clone()], &dweights[own]);
            let mean: f32 = weights.iter().zip(dweights).map(|(weight, d)| weight * d).sum();
            if normalised {
                // The softmax of the chosen logits alone.
                dlogits.fill(0.0);
                for ((expert, weight), d) in chosen.iter().zip(weights).zip(dweights) {
                    dlogits[*expert] = weight * (d - mean);
                }
                continue;
            }
            let logits = &logits[row * experts..(row + 1) * experts];
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let all: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
            for (d, logit) in dlogits.iter_mut().zip(logits) {
                *d = -mean * (logit - highest).exp() / all;
            }
            for ((expert, weight), d) in chosen.iter().zip(weights).zip(dweights) {
                dlogits[*expert] += weight * d;
            }
        }
    });
}

multiversion! {
    /// `sum += weight·x`.
    fn add_weighted[V, T: Element](x: &[T], weight: f32, sum: &mut [f32]) {
        let weight = V::splat(weight);
        each::<V>(x.len(), #[inline(always)] |at, n| {
            let sum_of = V::load_some(sum, at, n);
            V::load_some(x, at, n).mul(weight).add(sum_of).store_some(sum, at, n);
        });
    }
}

/// `y[i] = Σ weights[i, k]·x[places[i, k]]`: what a row's experts made of it, weighted.
///
/// # Shapes
/// `x`: `[rows·chosen, cols]`; `places`, `weights`: `[rows, chosen]`; `y`: `[rows, cols]`.
///
/// # Panics
/// If a place is not one of `x`.
pub fn weigh<T: Element>(x: Rows<T>, places: &[usize], weights: &[f32], y: RowsMut<T>) {
    (T::COMPILED.weigh)(x, places, weights, y);
}

pub(crate) fn weigh_kernel<T: Element>(x: Rows<T>, places: &[usize], weights: &[f32], y: RowsMut<T>) {
    let (rows, cols) = (y.rows(), y.cols());
    assert_eq!((x.cols(), places.len()), (cols, weights.len()));
    let chosen = places.len() / rows.max(1);
    assert_eq!(rows * chosen, places.len());
    for_each_row_block(rows, chosen * cols, y, |range, mut y| {
        scratch::with(cols, |sum| {
            for (at, row) in range.enumerate() {
                let own = row * chosen..(row + 1) * chosen;
                sum.fill(0.0);
                for (place, weight) in places[own.clone()].iter().zip(&weights[own]) {
                    add_weighted(x.row(*place), *weight, sum);
                }
                y.row(at).iter_mut().zip(&*sum).for_each(|(y, sum)| *y = T::round(*sum));
            }
        });
    });
}

/// The backward of [`weigh`]: the gradients of `x`, and of the weight of each of its rows.
///
/// # Shapes
/// `dy`: `[rows, cols]`; `x`, `dx`: `[rows·chosen, cols]`; `sources`, the row of `dy` that each of `x` went into, its
/// `weights` and `dweights`: `[rows·chosen]`.
///
/// # Panics
/// If a source is not one of `dy`.
pub fn weigh_backward<T: Element>(
    dy: Rows<T>,
    x: Rows<T>,
    sources: &[usize],
    weights: &[f32],
    dx: RowsMut<T>,
    dweights: &mut [f32],
) {
    (T::COMPILED.weigh_backward)(dy, x, sources, weights, dx, dweights);
}

pub(crate) fn weigh_backward_kernel<T: Element>(
    dy: Rows<T>,
    x: Rows<T>,
    sources: &[usize],
    weights: &[f32],
    dx: RowsMut<T>,
    dweights: &mut [f32],
) {
    let (rows, cols) = (x.rows(), x.cols());
    assert_eq!((dx.rows(), dx.cols(), dy.cols()), (rows, cols, cols));
    assert_eq!((sources.len(), weights.len(), dweights.len()), (rows, rows, rows));
    for_each_row_block(rows, 2 * cols, (dx, PerRow::one(dweights)), |range, (mut dx, dweights)| {
        scratch::with(cols, |products| {
            for ((at, row), dweight) in range.enumerate().zip(dweights.data) {
                let dy = dy.row(sources[row]);
                products.fill(0.0);
                add_weighted(dy, weights[row], products);
                dx.row(at).iter_mut().zip(&*products).for_each(|(dx, product)| *dx = T::round(*product));
                *dweight = dy.iter().zip(x.row(row)).map(|(dy, x)| dy.widen() * x.widen()).sum();
            }
        });
    });
}
