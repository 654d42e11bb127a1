//! Columns of a matrix that several tasks write, each its own part.

use std::marker::PhantomData;

use crate::element::Element;
use crate::rows::RowsMut;

/// Some columns of some rows, apart from the other columns of the same rows.
///
/// Where queries, keys and values lie side by side, their gradients are three of these in one tensor.
#[derive(Debug)]
pub struct ColumnsMut<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `part`, whose callers write disjoint parts; elements are `Send` by the bound.
unsafe impl<T: Send> Sync for ColumnsMut<'_, T> {}

impl<'a, T> RowsMut<'a, T> {
    /// The columns in neighbouring groups of these widths, to be written apart.
    ///
    /// # Panics
    /// If the rows are narrower than all groups together.
    pub fn split_columns<const N: usize>(mut self, widths: [usize; N]) -> [ColumnsMut<'a, T>; N] {
        let (rows, cols, stride) = (self.rows(), self.cols(), self.stride());
        let needed = widths.iter().try_fold(0_usize, |sum, width| sum.checked_add(*width));
        assert!(
            needed.is_some_and(|needed| needed <= cols),
            "columns of widths {widths:?} in rows of {cols}"
        );
        let (data, mut start) = (self.data().as_mut_ptr(), 0);
        widths.map(|cols| {
            // Without rows there may be no elements to point at.
            let part = data.wrapping_add(start);
            start += cols;
            ColumnsMut { data: part, rows, cols, stride, borrowed: PhantomData }
        })
    }

    /// All columns.
    pub fn into_columns(self) -> ColumnsMut<'a, T> {
        let cols = self.cols();
        let [all] = self.split_columns([cols]);
        all
    }
}

impl<T> ColumnsMut<'_, T> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of this part.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The rows `row .. row + rows`, of which the columns `col .. col + cols`.
    ///
    /// # Safety
    /// No two blocks or parts that overlap are alive at a time.
    pub(crate) unsafe fn block(&self, row: usize, col: usize, rows: usize, cols: usize) -> Block<'_, T> {
        assert!(row <= self.rows && rows <= self.rows - row && col <= self.cols && cols <= self.cols - col);
        let data = self.data.wrapping_add(row * self.stride + col);
        Block { data, rows, cols, stride: self.stride, borrow: PhantomData }
    }

    /// The columns `start .. start + len` of `row`.
    ///
    /// # Safety
    /// No two parts that overlap are alive at a time.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(crate) unsafe fn part(&self, row: usize, start: usize, len: usize) -> &mut [T] {
        assert!(row < self.rows && start <= self.cols && len <= self.cols - start);
        // SAFETY: the place is inside the rows that were borrowed for writing, by the assertion and `split_columns`,
        // whose groups do not overlap; nothing else refers to it by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride + start), len) }
    }
}

/// Some rows and columns of a matrix, other columns of which belong to other threads.
pub(crate) struct Block<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T: Element> Block<'_, T> {
    /// The first element.
    #[cfg(any(test, target_arch = "x86_64"))]
    pub fn data(&mut self) -> *mut T {
        self.data
    }

    /// Number of rows.
    #[cfg(any(test, target_arch = "x86_64"))]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// From one row to the next.
    #[cfg(any(test, target_arch = "x86_64"))]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows);
        // SAFETY: the row is part of the block, which this borrow of the block covers.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.cols) }
    }

    /// Copies `values` into each row.
    #[cfg(any(test, target_arch = "x86_64"))]
    pub fn fill(&mut self, values: &[f32]) {
        for i in 0..self.rows {
            self.row(i).iter_mut().zip(values).for_each(|(out, &value)| *out = T::round(value));
        }
    }
}
