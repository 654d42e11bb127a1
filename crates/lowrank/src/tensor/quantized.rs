//! Matrices in 8 bits.

use half::bf16;
use lowrank_kernels::gemm::{Int8, quantize};

use super::{DType, Tensor};

/// A matrix in 8 bits: its rows' scales, and the columns of unusual magnitude, which are kept in bf16.
#[derive(Clone, Debug)]
pub struct Quantized {
    values: Tensor,
    scales: Vec<f32>,
    columns: Vec<u32>,
    outliers: Vec<bf16>,
}

impl Quantized {
    /// A matrix from its parts; none if they do not fit each other, or a scale is not a finite number.
    ///
    /// # Shapes
    /// `values`: `[N, K]` of i8; `scales`: `[N]`; `columns`: `[C]`, ascending and below K; `outliers`: `[N, C]`.
    pub fn new(values: Tensor, scales: Vec<f32>, columns: Vec<u32>, outliers: Vec<bf16>) -> Option<Self> {
        let (rows, width) = values.rows_and_width();
        let made = Self { values, scales, columns, outliers };
        let fits = made.values.dtype() == DType::I8
            && made.view().fits(rows, width)
            && made.scales.iter().all(|scale| scale.is_finite());
        fits.then_some(made)
    }

    /// Brings a matrix of floating numbers into 8 bits; none if one of them is not finite.
    ///
    /// # Panics
    /// If the tensor is not of a floating type.
    pub fn from_float(tensor: &Tensor) -> Option<Self> {
        let (rows, width) = tensor.rows_and_width();
        let mut values = Tensor::uninit(tensor.shape(), DType::I8);
        let mut scales = vec![0.0; rows];
        let (columns, outliers) =
            quantize(tensor.source(), rows, width, values.make_mut::<i8>(), &mut scales)?;
        Some(Self { values, scales, columns, outliers })
    }

    /// The 8-bit values, zero in outlier columns.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// What the values of each row are multiplied by.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The outlier columns.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// The values in outlier columns, row by row.
    pub fn outliers(&self) -> &[bf16] {
        &self.outliers
    }

    /// The parts as the kernels take them.
    pub fn view(&self) -> Int8<'_> {
        Int8 {
            values: self.values.as_slice::<i8>(),
            scales: &self.scales,
            columns: &self.columns,
            outliers: &self.outliers,
        }
    }

    /// The matrix in f32.
    pub fn to_f32(&self) -> Tensor {
        let (rows, width) = self.values.rows_and_width();
        let mut wide = Tensor::uninit(self.values.shape(), DType::F32);
        let into = wide.make_mut::<f32>();
        let view = self.view();
        for (n, into) in (0..rows).zip(into.chunks_exact_mut(width.max(1))) {
            view.read(n, 0, into);
        }
        wide
    }
}
