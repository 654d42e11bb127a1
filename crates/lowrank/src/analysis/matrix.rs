//! A matrix as it is stored, read as f64.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use lowrank_kernels::svd::{self, Svd};

use super::spectrum::Spectrum;
use crate::hub::{StoredDtype, TensorView};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// How many times as long as wide a matrix must be for its triangle to be computed first.
const TALL: usize = 2;
/// Rows of a block of a tall matrix, in columns: each block is reduced together with the triangle of those before it.
const BLOCK: usize = 4;
/// The fewest rows of a block.
const SMALLEST_BLOCK: usize = 1024;

/// A matrix `[rows, columns]` of floating numbers, where they are stored.
#[derive(Clone, Debug)]
pub struct Matrix<'a> {
    name: String,
    file: Option<PathBuf>,
    rows: usize,
    columns: usize,
    dtype: StoredDtype,
    /// Row-major and little-endian.
    bytes: Cow<'a, [u8]>,
}

impl<'a> Matrix<'a> {
    /// A tensor of a file; one of more than two dimensions, as a convolution's weight, as `[first, all others]`.
    ///
    /// # Errors
    /// If it has fewer than two dimensions, or its type is not a floating one.
    pub fn from_view(name: &str, view: &TensorView<'a>) -> Result<Self> {
        let refuse = |reason: String| Error::tensor(view.file, name, reason);
        let &[rows, ref rest @ ..] = view.shape else {
            return Err(refuse("it is a scalar; a matrix is needed".to_owned()));
        };
        if rest.is_empty() {
            return Err(refuse(format!("it is a vector of {rows} elements; a matrix is needed")));
        }
        if !view.dtype.is_float() {
            let dtype = view.dtype;
            return Err(refuse(format!("its type is {dtype}; F64, F32, F16 and BF16 can be analysed")));
        }
        // Of a tensor without elements, the header may claim anything of the other dimensions.
        let columns = rest.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        let columns = columns.ok_or_else(|| refuse(format!("its shape {:?} is out of range", view.shape)))?;
        let file = Some(view.file.to_path_buf());
        Ok(Self {
            name: name.to_owned(),
            file,
            rows,
            columns,
            dtype: view.dtype,
            bytes: Cow::Borrowed(view.bytes),
        })
    }

    /// A tensor of this program, its last dimension against all others.
    ///
    /// # Errors
    /// If its type is not a floating one.
    pub fn from_tensor(name: &str, tensor: &'a Tensor) -> Result<Self> {
        let dtype = match tensor.dtype() {
            DType::F32 => StoredDtype::F32,
            DType::Bf16 => StoredDtype::BF16,
            DType::F16 => StoredDtype::F16,
            other => {
                return Err(Error::Usage(format!("{name} is {other}; only floating types can be analysed")));
            }
        };
        let (rows, columns) = tensor.rows_and_width();
        Ok(Self {
            name: name.to_owned(),
            file: None,
            rows,
            columns,
            dtype,
            bytes: Cow::Borrowed(tensor.bytes()),
        })
    }

    /// Row-major values.
    ///
    /// # Errors
    /// If there are more or fewer than the shape has elements.
    pub fn from_f32(name: &str, values: &'a [f32], rows: usize, columns: usize) -> Result<Self> {
        Self::from_slice(name, StoredDtype::F32, values, rows, columns)
    }

    /// Row-major values.
    ///
    /// # Errors
    /// If there are more or fewer than the shape has elements.
    pub fn from_f64(name: &str, values: &'a [f64], rows: usize, columns: usize) -> Result<Self> {
        Self::from_slice(name, StoredDtype::F64, values, rows, columns)
    }

    fn from_slice<T: bytemuck::Pod>(
        name: &str,
        dtype: StoredDtype,
        values: &'a [T],
        rows: usize,
        columns: usize,
    ) -> Result<Self> {
        if rows.checked_mul(columns) != Some(values.len()) {
            let count = values.len();
            return Err(Error::Usage(format!("{name}: {count} values for the shape [{rows}, {columns}]")));
        }
        Ok(Self {
            name: name.to_owned(),
            file: None,
            rows,
            columns,
            dtype,
            bytes: Cow::Borrowed(bytemuck::cast_slice(values)),
        })
    }

    /// Some of its rows.
    ///
    /// # Errors
    /// If it has not so many.
    pub fn only_rows(self, rows: Range<usize>) -> Result<Self> {
        let bytes = self.dtype.bytes().unwrap_or(0) * self.columns;
        let (from, to) = (rows.start * bytes, rows.end * bytes);
        let own = match &self.bytes {
            Cow::Borrowed(all) => all.get(from..to).map(Cow::Borrowed),
            Cow::Owned(all) => all.get(from..to).map(|own| Cow::Owned(own.to_vec())),
        };
        match own {
            Some(bytes) => Ok(Self { rows: rows.len(), bytes, ..self }),
            None => Err(self.refuse(&format!("it has {} rows, and no row {}", self.rows, rows.end))),
        }
    }

    /// Every `step`th of its columns from `first` on.
    ///
    /// # Errors
    /// If their number is no multiple of `step`.
    pub fn every_column(self, first: usize, step: usize) -> Result<Self> {
        if step == 0 || first >= step || !self.columns.is_multiple_of(step) {
            return Err(self.refuse(&format!("it has {} columns, not a multiple of {step}", self.columns)));
        }
        let columns = self.bytes.chunks_exact(self.dtype.bytes().unwrap_or(1));
        let bytes: Vec<u8> = columns.skip(first).step_by(step).flatten().copied().collect();
        Ok(Self { columns: self.columns / step, bytes: Cow::Owned(bytes), ..self })
    }

    /// The name that errors give it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The type of the stored elements.
    pub fn dtype(&self) -> StoredDtype {
        self.dtype
    }

    /// The spacing of numbers around 1 in the type that PyTorch and NumPy would decompose the matrix in: f64 in f64, all
    /// others in f32.
    pub fn epsilon(&self) -> f64 {
        if self.dtype == StoredDtype::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) }
    }

    /// All values, row-major.
    ///
    /// # Errors
    /// Names the matrix and the place of the first value that is not finite.
    pub fn values(&self) -> Result<Vec<f64>> {
        self.row_block(0..self.rows)
    }

    fn row_block(&self, rows: Range<usize>) -> Result<Vec<f64>> {
        let elements = rows.start * self.columns..rows.end * self.columns;
        let size = self.dtype.bytes().unwrap_or(0);
        let bytes = &self.bytes[elements.start * size..elements.end * size];
        let values: Vec<f64> = match self.dtype {
            StoredDtype::F64 => words(bytes).map(f64::from_le_bytes).collect(),
            StoredDtype::F32 => words(bytes).map(|word| f64::from(f32::from_le_bytes(word))).collect(),
            StoredDtype::F16 => words(bytes).map(|word| f16::from_le_bytes(word).to_f64()).collect(),
            _ => words(bytes).map(|word| bf16::from_le_bytes(word).to_f64()).collect(),
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(place) => {
                let (row, column) = (rows.start + place / self.columns, place % self.columns);
                let value = values[place];
                Err(self
                    .refuse(&format!("it holds {value} at [{row}, {column}]; every value must be finite")))
            }
        }
    }

    /// Some columns, each of them a row.
    fn column_block(&self, columns: &Range<usize>) -> Result<Vec<f64>> {
        let mut block = vec![0.0; columns.len() * self.rows];
        for row in 0..self.rows {
            let values = &self.row_block(row..row + 1)?[columns.clone()];
            values.iter().enumerate().for_each(|(column, value)| block[column * self.rows + row] = *value);
        }
        Ok(block)
    }

    /// The spectrum: all singular values, in f64.
    ///
    /// # Errors
    /// If a value is not finite, or too large to be squared.
    pub fn spectrum(&self) -> Result<Spectrum> {
        let (long, short) = (self.rows.max(self.columns), self.rows.min(self.columns));
        let values = if short == 0 {
            Some(Vec::new())
        } else if long >= TALL * short && svd::is_parallel(long, short) {
            svd::singular_values(&self.triangle(long, short)?, short, short)
        } else {
            svd::singular_values(&self.values()?, self.rows, self.columns)
        };
        let values = self.checked(values, |values| values)?;
        Ok(Spectrum::new(self.rows, self.columns, self.epsilon(), values))
    }

    /// The triangle that has the singular values of a matrix that is much longer than wide, or wider than long. Never
    /// more than a block of it is held as f64: a word table of a large vocabulary would take gigabytes.
    fn triangle(&self, long: usize, short: usize) -> Result<Vec<f64>> {
        let step = (BLOCK * short).max(SMALLEST_BLOCK);
        let mut stack: Vec<f64> = Vec::new();
        for start in (0..long).step_by(step) {
            let range = start..long.min(start + step);
            stack.extend(if self.rows >= self.columns {
                self.row_block(range)?
            } else {
                self.column_block(&range)?
            });
            let rows = stack.len() / short;
            if rows > short {
                stack = svd::triangle(&stack, rows, short);
            }
        }
        Ok(stack)
    }

    /// The thin singular value decomposition, in f64.
    ///
    /// # Errors
    /// As [`Matrix::spectrum`].
    pub fn svd(&self) -> Result<Svd> {
        if self.rows == 0 || self.columns == 0 {
            return Ok(Svd { left: Vec::new(), values: Vec::new(), right: Vec::new() });
        }
        self.checked(svd::svd(&self.values()?, self.rows, self.columns), |svd| &svd.values)
    }

    /// The Frobenius norm.
    ///
    /// # Errors
    /// As [`Matrix::values`].
    pub fn frobenius_norm(&self) -> Result<f64> {
        Ok(frobenius_norm(&self.values()?))
    }

    fn checked<T>(&self, made: Option<T>, values: impl Fn(&T) -> &Vec<f64>) -> Result<T> {
        made.filter(|made| values(made).iter().all(|value| value.is_finite()))
            .ok_or_else(|| self.refuse("its singular values cannot be computed: its values are too large"))
    }

    pub(super) fn refuse(&self, reason: &str) -> Error {
        refuse(self.file.as_deref(), &self.name, reason)
    }
}

/// `‖X‖_F`, summed in the order of the elements.
pub(super) fn frobenius_norm(values: &[f64]) -> f64 {
    let largest = values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    largest * values.iter().map(|value| (value / largest).powi(2)).sum::<f64>().sqrt()
}

fn refuse(file: Option<&Path>, name: &str, reason: &str) -> Error {
    match file {
        Some(file) => Error::tensor(file, name, reason),
        None => Error::Usage(format!("{name}: {reason}")),
    }
}

/// Numbers of `N` bytes.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}
