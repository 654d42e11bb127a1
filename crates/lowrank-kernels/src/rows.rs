//! Views of row-major matrices whose rows may lie further apart than they are long.

use std::any::TypeId;

use crate::element::Element;

/// `rows` rows of `cols` elements; row `i` starts at `i * stride`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// The mutable counterpart of [`Rows`].
#[derive(Debug)]
pub struct RowsMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

fn check(len: usize, rows: usize, cols: usize, stride: usize) {
    assert!(cols <= stride || rows <= 1, "rows of {cols} overlap at a stride of {stride}");
    let needed = match rows {
        0 => Some(0),
        _ => (rows - 1).checked_mul(stride).and_then(|start| start.checked_add(cols)),
    };
    assert!(
        needed.is_some_and(|needed| needed <= len),
        "{rows} rows of {cols} at stride {stride} do not fit {len} elements"
    );
}

fn check_columns(width: usize, start: usize, cols: usize) {
    let inside = start.checked_add(cols).is_some_and(|end| end <= width);
    assert!(inside, "{cols} columns from {start} on of {width}");
}

impl<'a, T> Rows<'a, T> {
    /// A view of `rows` by `cols` elements, row `i` at `i * stride`.
    ///
    /// # Panics
    /// If `data` is too short, or rows overlap.
    pub fn new(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        check(data.len(), rows, cols, stride);
        Self { data, rows, cols, stride }
    }

    /// A view of a matrix without gaps.
    pub fn dense(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    /// The columns `start .. start + cols` of a dense matrix of `width` columns.
    pub fn columns(data: &'a [T], rows: usize, width: usize, start: usize, cols: usize) -> Self {
        check_columns(width, start, cols);
        Self::new(data.get(start..).unwrap_or(&[]), rows, cols, width)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements between the starts of two rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `i`.
    #[inline]
    pub fn row(&self, i: usize) -> &'a [T] {
        &self.data[i * self.stride..i * self.stride + self.cols]
    }

    /// The rows `start .. end`.
    pub fn slice(&self, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= self.rows);
        Self::new(self.data.get(start * self.stride..).unwrap_or(&[]), end - start, self.cols, self.stride)
    }

    /// The columns `start .. start + cols` of these rows.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn narrow(&self, start: usize, cols: usize) -> Self {
        check_columns(self.cols, start, cols);
        Self::new(self.data.get(start..).unwrap_or(&[]), self.rows, cols, self.stride)
    }

    /// Everything from the first row's first element on.
    pub fn data(&self) -> &'a [T] {
        self.data
    }
}

impl<'a, T: Element> Rows<'a, T> {
    /// The rows as elements of type `U`, if that is what they are.
    pub(crate) fn cast<U: Element>(self) -> Option<Rows<'a, U>> {
        let same = TypeId::of::<T>() == TypeId::of::<U>();
        same.then(|| Rows::new(bytemuck::cast_slice(self.data), self.rows, self.cols, self.stride))
    }
}

impl<T: Element> RowsMut<'_, T> {
    /// As [`Rows::cast`], for writing.
    pub(crate) fn cast_mut<U: Element>(&mut self) -> Option<RowsMut<'_, U>> {
        let same = TypeId::of::<T>() == TypeId::of::<U>();
        same.then(|| RowsMut::new(bytemuck::cast_slice_mut(self.data), self.rows, self.cols, self.stride))
    }
}

impl<'a, T> RowsMut<'a, T> {
    /// As [`Rows::new`].
    ///
    /// # Panics
    /// If `data` is too short, or rows overlap.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Self {
        check(data.len(), rows, cols, stride);
        Self { data, rows, cols, stride }
    }

    /// As [`Rows::dense`].
    pub fn dense(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    /// As [`Rows::columns`].
    pub fn columns(data: &'a mut [T], rows: usize, width: usize, start: usize, cols: usize) -> Self {
        check_columns(width, start, cols);
        Self::new(data.get_mut(start..).unwrap_or(&mut []), rows, cols, width)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements between the starts of two rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `i`.
    #[inline]
    pub fn row(&mut self, i: usize) -> &mut [T] {
        &mut self.data[i * self.stride..i * self.stride + self.cols]
    }

    /// The same rows, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> RowsMut<'_, T> {
        RowsMut { data: self.data, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    /// Some columns of these rows.
    ///
    /// # Panics
    /// If there are fewer columns.
    pub fn narrow(self, start: usize, cols: usize) -> Self {
        check_columns(self.cols, start, cols);
        Self::new(self.data.get_mut(start..).unwrap_or(&mut []), self.rows, cols, self.stride)
    }

    /// The rows before `row`, and the others.
    ///
    /// # Panics
    /// If there are fewer rows.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        assert!(row <= self.rows, "a cut at row {row} of {}", self.rows);
        let at = (row * self.stride).min(self.data.len());
        let (head, tail) = self.data.split_at_mut(at);
        (
            Self { data: head, rows: row, cols: self.cols, stride: self.stride },
            Self { data: tail, rows: self.rows - row, cols: self.cols, stride: self.stride },
        )
    }

    /// Cuts the matrix into blocks of `size` rows (the last may be shorter), to be given to several threads.
    pub fn into_blocks(self, size: usize) -> Vec<RowsMut<'a, T>> {
        assert!(size > 0);
        let (mut rest, mut left, mut blocks) = (self.data, self.rows, Vec::new());
        while left > size {
            let (head, tail) = rest.split_at_mut(size * self.stride);
            blocks.push(RowsMut::new(head, size, self.cols, self.stride));
            (rest, left) = (tail, left - size);
        }
        if left > 0 {
            blocks.push(RowsMut::new(rest, left, self.cols, self.stride));
        }
        blocks
    }

    /// Everything from the first row's first element on.
    pub fn data(&mut self) -> &mut [T] {
        self.data
    }
}
