//! Rows of one element type seen as another: by a cast where they are the same type, else by a copy.

use std::any::TypeId;

use rayon::prelude::*;

use super::matmul::Matrix;
use crate::element::Element;
use crate::rows::{Rows, RowsMut};
use crate::scratch;

/// The rows as elements of type `U`, if that is what they are.
pub(super) fn cast<T: Element, U: Element>(rows: Rows<'_, T>) -> Option<Rows<'_, U>> {
    let same = TypeId::of::<T>() == TypeId::of::<U>();
    same.then(|| Rows::new(bytemuck::cast_slice(rows.data()), rows.rows(), rows.cols(), rows.stride()))
}

/// As [`cast`], for writing.
pub(super) fn cast_mut<'a, T: Element, U: Element>(rows: &'a mut RowsMut<'_, T>) -> Option<RowsMut<'a, U>> {
    let (count, cols, stride) = (rows.rows(), rows.cols(), rows.stride());
    let same = TypeId::of::<T>() == TypeId::of::<U>();
    same.then(|| RowsMut::new(bytemuck::cast_slice_mut(rows.data()), count, cols, stride))
}

/// Calls `work` with the rows as f32, copied only where they are something else.
pub(super) fn widened<T: Element, R>(rows: Rows<'_, T>, work: impl FnOnce(Matrix<'_>) -> R) -> R {
    if let Some(rows) = cast::<T, f32>(rows) {
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
