//! Parts of tensors, as the kernels take them.

use std::ops::Range;

use lowrank_kernels::{Element, Rows, RowsMut, elementwise};

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

/// All columns of some rows.
pub(super) fn rows_of<'a, T: Stored>(tensor: &'a Tensor, rows: &Range<usize>) -> Rows<'a, T> {
    block::<T>(tensor, rows, &(0..tensor.shape().width()))
}

/// All of it.
pub(super) fn all<T: Stored>(tensor: &Tensor) -> Rows<'_, T> {
    let (rows, width) = tensor.rows_and_width();
    Rows::dense(tensor.as_slice::<T>(), rows, width)
}

/// As [`all`], for writing.
pub(super) fn all_mut<T: Stored>(tensor: &mut Tensor) -> RowsMut<'_, T> {
    let (rows, width) = tensor.rows_and_width();
    RowsMut::dense(tensor.make_mut::<T>(), rows, width)
}

/// `to = from`.
pub(super) fn copy<T: Element>(from: Rows<'_, T>, mut to: RowsMut<'_, T>) {
    (0..from.rows()).for_each(|row| to.row(row).copy_from_slice(from.row(row)));
}

/// `to += from`.
pub(super) fn add<T: Element>(from: Rows<'_, T>, mut to: RowsMut<'_, T>) {
    (0..from.rows()).for_each(|row| elementwise::add_assign(to.row(row), from.row(row)));
}
