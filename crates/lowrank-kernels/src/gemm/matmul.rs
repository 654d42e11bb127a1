//! General f32 products of strided matrices, through the `gemm` crate.

use crate::parallel::{flush_denormals, flush_denormals_of_pool};
use crate::rows::{Rows, RowsMut};

/// A view of `rows` by `cols` floats: element (i, j) lies at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// The mutable counterpart of [`Matrix`]; no two of its elements share a place.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

fn check(len: usize, rows: usize, cols: usize, row_stride: usize, col_stride: usize) {
    let needed = if rows == 0 || cols == 0 {
        Some(0)
    } else {
        let last_row = (rows - 1).checked_mul(row_stride);
        let last_col = (cols - 1).checked_mul(col_stride);
        last_row.zip(last_col).and_then(|(r, c)| r.checked_add(c)?.checked_add(1))
    };
    assert!(
        needed.is_some_and(|needed| needed <= len),
        "a {rows} x {cols} matrix with strides {row_stride} and {col_stride} does not fit {len} elements"
    );
}

impl<'a> Matrix<'a> {
    /// A view with any strides.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        check(data.len(), rows, cols, row_stride, col_stride);
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// A row-major matrix without gaps.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols, 1)
    }

    /// The transpose, `[cols, rows]`, of the same elements.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> From<Rows<'a, f32>> for Matrix<'a> {
    fn from(rows: Rows<'a, f32>) -> Self {
        Self::new(rows.data(), rows.rows(), rows.cols(), rows.stride(), 1)
    }
}

impl<'a> MatrixMut<'a> {
    /// A view with any strides under which no two elements share a place.
    ///
    /// # Panics
    /// If `data` is too short, or elements overlap.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        check(data.len(), rows, cols, row_stride, col_stride);
        let by_rows = row_stride > cols.saturating_sub(1) * col_stride && (cols <= 1 || col_stride > 0);
        let by_cols = col_stride > rows.saturating_sub(1) * row_stride && (rows <= 1 || row_stride > 0);
        assert!(
            rows == 0 || cols == 0 || rows * cols == 1 || by_rows || by_cols,
            "a {rows} x {cols} matrix overlaps itself at strides {row_stride} and {col_stride}"
        );
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// A row-major matrix without gaps.
    pub fn dense(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols, 1)
    }

    /// The transpose, `[cols, rows]`, of the same elements.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            data: self.data,
        }
    }
}

impl<'a> From<&'a mut RowsMut<'_, f32>> for MatrixMut<'a> {
    fn from(rows: &'a mut RowsMut<'_, f32>) -> Self {
        let (count, cols, stride) = (rows.rows(), rows.cols(), rows.stride());
        Self::new(rows.data(), count, cols, stride, 1)
    }
}

/// `c = alpha · a·b + beta · c`. With `beta` 0, `c` is not read. With `parallel`, on all threads of the current
/// rayon pool where the size is worth it; the result has the same bits either way.
///
/// # Shapes
/// `a [m, k]`, `b [k, n]`, `c [m, n]`.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn matmul(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: MatrixMut<'_>, parallel: bool) {
    assert!(
        a.cols == b.rows && a.rows == c.rows && b.cols == c.cols,
        "{} x {} times {} x {} is not {} x {}",
        (a.rows),
        (a.cols),
        (b.rows),
        (b.cols),
        (c.rows),
        (c.cols)
    );
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    let parallelism = if parallel && super::flops(a.rows, a.cols, b.cols) >= super::PARALLEL_FLOPS {
        flush_denormals_of_pool();
        gemm::Parallelism::Rayon(0)
    } else {
        flush_denormals();
        gemm::Parallelism::None
    };
    // SAFETY: the constructors checked that every element of the three views lies inside its slice and that the
    // elements of `c` are distinct; `c` is borrowed mutably, so it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data.as_mut_ptr(),
            c.col_stride as isize,
            c.row_stride as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            beta,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}
