//! Sums of embeddings, and the gradient of a table.

use half::f16;

use crate::element::{Element, Source};
use crate::parallel::{PerRow, for_each_row_block};
use crate::row_ops::add_row;
use crate::rows::{Rows, RowsMut};
use crate::scratch;

/// A table and the row of it that each token takes.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// The table: `[vocabulary, width]`.
    pub table: Source<'a>,
    /// For each token its row.
    pub ids: &'a [u32],
}

/// Half precision to f32 without a branch; not by a multiplication, which would lose denormals where these are
/// flushed.
#[inline(always)]
fn widen_half(value: f16) -> f32 {
    let bits = u32::from(value.to_bits());
    let (sign, exponent, fraction) = ((bits & 0x8000) << 16, (bits >> 10) & 0x1f, bits & 0x3ff);
    let rebias = if exponent == 31 { 255 - 31 } else { 127 - 15 };
    let normal = (exponent + rebias) << 23 | fraction << 13;
    let small = (fraction as i32 as f32 * (1.0 / 16_777_216.0)).to_bits();
    f32::from_bits(sign | if exponent == 0 { small } else { normal })
}

multiversion! {
    fn add_half_row[V](row: &[f16], sum: &mut [f32]) {
        for (x, sum) in row.iter().zip(sum) {
            *sum += widen_half(*x);
        }
    }
}

multiversion! {
    fn store_row[V, T: Element](sum: &[f32], y: &mut [T]) {
        for (sum, y) in sum.iter().zip(y) {
            *y = T::round(*sum);
        }
    }
}

/// `y[t] = Σᵢ tableᵢ[idsᵢ[t]]`, summed in f32 in the order of the lookups.
///
/// # Shapes
/// `y`: `[tokens, width]`; every table `[vocabulary, width]`, every `ids` `[tokens]`.
///
/// # Panics
/// If an id is not a row of its table.
pub fn gather_sum<T: Element>(lookups: &[Lookup], y: RowsMut<T>) {
    (T::COMPILED.gather_sum)(lookups, y);
}

pub(crate) fn gather_sum_kernel<T: Element>(lookups: &[Lookup], y: RowsMut<T>) {
    let (tokens, width) = (y.rows(), y.cols());
    for lookup in lookups {
        assert_eq!(lookup.ids.len(), tokens);
        check_ids(lookup.ids, lookup.table.len(), width);
    }
    for_each_row_block(tokens, 2 * width * lookups.len(), y, |range, mut y| {
        scratch::with(width, |sum| {
            for (i, token) in range.enumerate() {
                sum.fill(0.0);
                for lookup in lookups {
                    let start = lookup.ids[token] as usize * width;
                    match lookup.table {
                        Source::F32(data) => add_row(&data[start..start + width], sum),
                        Source::Bf16(data) => add_row(&data[start..start + width], sum),
                        Source::F16(data) => add_half_row(&data[start..start + width], sum),
                    }
                }
                store_row(sum, y.row(i));
            }
        });
    });
}

fn check_ids(ids: &[u32], elements: usize, width: usize) {
    let vocabulary = elements.checked_div(width).unwrap_or(0);
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        panic!("id {id} in a table of {vocabulary} rows");
    }
}

/// `grad[ids[t]] += dy[t]`, in the order of the tokens.
///
/// # Shapes
/// `ids`: `[tokens]`; `dy`: `[tokens, width]`; `grad`: `[vocabulary, width]`.
///
/// # Panics
/// If an id is not a row of the table.
pub fn scatter_add<T: Element>(ids: &[u32], dy: Rows<T>, grad: &mut [f32]) {
    (T::COMPILED.scatter_add)(ids, dy, grad);
}

pub(crate) fn scatter_add_kernel<T: Element>(ids: &[u32], dy: Rows<T>, grad: &mut [f32]) {
    let width = dy.cols();
    assert_eq!(ids.len(), dy.rows());
    check_ids(ids, grad.len(), width);
    if ids.is_empty() {
        return;
    }
    // Each task owns a range of the vocabulary and walks over all tokens, so that a row is summed in token order.
    let vocabulary = grad.len() / width;
    let cost = (ids.len() * width).div_ceil(vocabulary);
    let grad = PerRow { data: grad, per_row: width };
    for_each_row_block(vocabulary, cost, grad, |range, grad| {
        for (token, &id) in ids.iter().enumerate() {
            if let Some(row) = (id as usize).checked_sub(range.start).filter(|&row| row < range.len()) {
                add_row(dy.row(token), &mut grad.data[row * width..][..width]);
            }
        }
    });
}
