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

/// `u[t] = a[:, ids[t]]`: the columns of a matrix that tokens take, each as a row.
///
/// # Shapes
/// `a`: `[R, vocabulary]`; `ids`: `[tokens]`; `u`: `[tokens, R]`.
///
/// # Panics
/// If an id is not a column of the matrix.
pub fn gather_columns(ids: &[u32], a: &[f32], mut u: RowsMut<f32>) {
    assert_eq!(ids.len(), u.rows());
    let vocabulary = columns_of(ids, a, u.cols());
    for (token, &id) in ids.iter().enumerate() {
        let column = a.iter().skip(id as usize).step_by(vocabulary);
        u.row(token).iter_mut().zip(column).for_each(|(u, a)| *u = *a);
    }
}

/// `grad[:, ids[t]] += du[t]`, in the order of the tokens; tokens of the id `skipped` add nothing.
///
/// # Shapes
/// `ids`: `[tokens]`; `du`: `[tokens, R]`; `grad`: `[R, vocabulary]`.
///
/// # Panics
/// If an id is not a column of the matrix.
pub fn scatter_add_columns(ids: &[u32], du: Rows<f32>, skipped: Option<u32>, grad: &mut [f32]) {
    assert_eq!(ids.len(), du.rows());
    let vocabulary = columns_of(ids, grad, du.cols());
    // A rank is thin, and so is the work: one thread.
    for (token, &id) in ids.iter().enumerate().filter(|(_, id)| Some(**id) != skipped) {
        let column = grad.iter_mut().skip(id as usize).step_by(vocabulary);
        column.zip(du.row(token)).for_each(|(grad, du)| *grad += du);
    }
}

/// The columns of a matrix of `rows` rows, each id one of them.
fn columns_of(ids: &[u32], matrix: &[f32], rows: usize) -> usize {
    check_ids(ids, matrix.len(), rows);
    // Without columns there are no ids, and nothing is stepped through.
    matrix.len().checked_div(rows).unwrap_or(0).max(1)
}
