//! Rows of any type as f32: in place where they are, else in a copy.

use rayon::prelude::*;

use super::matmul::Matrix;
use crate::element::Element;
use crate::rows::Rows;
use crate::scratch;

/// Calls `work` with the rows as f32, copied only where they are something else.
pub(super) fn widened<T: Element, R>(rows: Rows<'_, T>, work: impl FnOnce(Matrix<'_>) -> R) -> R {
    if let Some(rows) = rows.cast::<f32>() {
        return work(rows.into());
    }
    let (count, cols) = (rows.rows(), rows.cols());
    scratch::with(count * cols, |wide| {
        let widen = |(i, wide): (usize, &mut [f32])| {
            for (wide, &value) in wide.iter_mut().zip(rows.row(i)) {
                *wide = value.widen();
            }
        };
        if cols > 0 && count * cols >= super::PARALLEL_FLOPS {
            wide.par_chunks_exact_mut(cols).enumerate().for_each(widen);
        } else if cols > 0 {
            wide.chunks_exact_mut(cols).enumerate().for_each(widen);
        }
        work(Matrix::dense(wide, count, cols))
    })
}
