//! Parts of tensors, as the kernels take them.

use std::ops::Range;

use lowrank_kernels::{Rows, RowsMut};

use crate::tensor::{Stored, Tensor};

/// Some columns of some rows.
pub(super) fn block<'a, T: Stored>(
    tensor: &'a Tensor,
    rows: &Range<usize>,
    columns: &Range<usize>,
) -> Rows<'a, T> {
    let (all, width) = tensor.rows_and_width();
    Rows::columns(tensor.as_slice::<T>(), all, width, columns.start, columns.len())
        .slice(rows.start, rows.end)
}

/// As [`block`], for writing.
pub(super) fn block_mut<'a, T: Stored>(
    tensor: &'a mut Tensor,
    rows: &Range<usize>,
    columns: &Range<usize>,
) -> RowsMut<'a, T> {
    let (_, width) = tensor.rows_and_width();
    let data = &mut tensor.make_mut::<T>()[rows.start * width..rows.end * width];
    RowsMut::columns(data, rows.len(), width, columns.start, columns.len())
}
