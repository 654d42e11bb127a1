//! Frozen products in whole numbers: the weight in 8 bits, rows brought into 16 on the way.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod check;
mod driver;
mod plain;
mod rows;

use driver::{Dot, Pass, Product, multiply};

use super::int8::{Int8, quantize};
use super::panels::Panels;
use crate::element::{Element, Source};
use crate::rows::{Rows, RowsMut};
use crate::tier::Tier;
use crate::{low_rank, scratch};

/// A constant matrix `W [outputs N, inputs K]` in 8 bits that is multiplied without being decoded.
///
/// A row of the other factor is brought into whole numbers of 16 bits by its largest magnitude, on the fly, as finely as
/// sums in 32 bits leave room for: 8,191 levels and a sign where a sum is 2,048 long or more, which is then cut into such
/// blocks. So the rounding is that of the weight, whose outlier columns are multiplied in f32. Whole sums are exact; the bits
/// do not depend on the threads or the other rows.
///
/// # Source
/// Dettmers et al., LLM.int8() (arXiv 2208.07339), with the split of outliers on the weight alone: rows have bits to spare.
#[derive(Debug)]
pub struct Int8Weight {
    outputs: usize,
    inputs: usize,
    kernel: Kernel,
    panels: Panels<i8>,
    /// `[N]`.
    scales: Vec<f32>,
    /// The outlier columns, ascending.
    columns: Vec<usize>,
    /// Their values: `[N, columns]`.
    outliers: Vec<f32>,
    /// `[K]`: 0 in outlier columns and 1 elsewhere, so that they do not count among a row's magnitudes.
    mask: Option<Vec<f32>>,
}

/// The instructions that products use.
#[derive(Clone, Copy, Debug)]
enum Kernel {
    Plain(plain::Plain),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Vnni),
}

/// Evaluates `$body` with `$dot` bound to the kernel.
macro_rules! each {
    ($kernel:expr, $dot:ident => $body:expr) => {
        match $kernel {
            Kernel::Plain($dot) => $body,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2($dot) => $body,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512($dot) => $body,
        }
    };
}

impl Kernel {
    fn of(tier: Tier) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(kernel) = avx512::Vnni::detect().filter(|_| tier >= Tier::Avx512) {
                return Self::Avx512(kernel);
            }
            if let Some(kernel) = avx2::Avx2::detect().filter(|_| tier > Tier::Plain) {
                return Self::Avx2(kernel);
            }
        }
        let _ = tier;
        Self::Plain(plain::Plain)
    }
}

impl Int8Weight {
    /// Brings `source` into 8 bits, as [`quantize`]; none if it holds a value that is not finite.
    ///
    /// # Panics
    /// If `source` does not hold `outputs · inputs` values.
    pub fn quantize(source: Source<'_>, outputs: usize, inputs: usize) -> Option<Self> {
        let (mut values, mut scales) = (vec![0; outputs * inputs], vec![0.0; outputs]);
        let (columns, outliers) = quantize(source, outputs, inputs, &mut values, &mut scales)?;
        let int8 = Int8 { values: &values, scales: &scales, columns: &columns, outliers: &outliers };
        Some(Self::new(int8, outputs, inputs))
    }

    /// Prepares a weight in 8 bits for the tier of this process.
    ///
    /// # Panics
    /// If `int8` is not of these sizes.
    pub fn new(int8: Int8<'_>, outputs: usize, inputs: usize) -> Self {
        Self::with_tier(Tier::active(), int8, outputs, inputs)
    }

    /// Prepares a weight in 8 bits for a tier.
    ///
    /// # Panics
    /// If `int8` is not of these sizes, or the machine does not have the tier.
    pub fn with_tier(tier: Tier, int8: Int8<'_>, outputs: usize, inputs: usize) -> Self {
        assert!(tier.is_available(), "this machine does not have the tier {tier}");
        assert!(int8.fits(outputs, inputs), "the weight is not {outputs} x {inputs} values");
        let kernel = Kernel::of(tier);
        let columns: Vec<usize> = int8.columns.iter().map(|&column| column as usize).collect();
        let panels = Panels::new(each!(kernel, dot => layout(dot)), inputs, outputs, |n, k, into| {
            into.copy_from_slice(&int8.values[n * inputs + k..][..into.len()]);
            // What stands in their place does not count, as in `Int8::read`.
            for column in &columns {
                if let Some(value) = column.checked_sub(k).and_then(|at| into.get_mut(at)) {
                    *value = 0;
                }
            }
        });
        let mask = |columns: &[usize]| {
            let mut mask = vec![1.0; inputs];
            columns.iter().for_each(|&column| mask[column] = 0.0);
            mask
        };
        Self {
            outputs,
            inputs,
            kernel,
            panels,
            scales: int8.scales.to_vec(),
            mask: (!columns.is_empty()).then(|| mask(&columns)),
            columns,
            outliers: int8.outliers.iter().map(|value| value.widen()).collect(),
        }
    }

    /// N: the width of `y`.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// K: the width of `x`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes of memory that the weight occupies.
    pub fn bytes(&self) -> usize {
        self.panels.bytes() + size_of_val(&self.scales[..]) + size_of_val(&self.outliers[..])
    }

    /// `y = x·Wᵀ + bias`; what `y` held is not read. A row that is not finite is not finite after it.
    ///
    /// # Shapes
    /// `x [M, K]`, `bias [N]`, `y [M, N]`.
    ///
    /// # Panics
    /// If the shapes do not fit the weight.
    pub fn forward<T: Element>(&self, x: Rows<'_, T>, bias: Option<&[f32]>, y: RowsMut<'_, T>) {
        assert_eq!(x.cols(), self.inputs, "x has another width than the weight has inputs");
        assert_eq!(y.cols(), self.outputs, "y has another width than the weight has outputs");
        assert_eq!(x.rows(), y.rows(), "x and y have different numbers of rows");
        assert!(bias.is_none_or(|bias| bias.len() == self.outputs), "bias is not as long as y is wide");
        (T::COMPILED.int8_forward)(self, x, bias, y);
    }

    /// `dx = dy·W`, or `dx += dy·W` with `accumulate`; without it, what `dx` held is not read.
    ///
    /// # Shapes
    /// `dy [M, N]`, `dx [M, K]`.
    ///
    /// # Panics
    /// If the shapes do not fit the weight.
    pub fn backward<T: Element>(&self, dy: Rows<'_, T>, dx: RowsMut<'_, T>, accumulate: bool) {
        assert_eq!(dy.cols(), self.outputs, "dy has another width than the weight has outputs");
        assert_eq!(dx.cols(), self.inputs, "dx has another width than the weight has inputs");
        assert_eq!(dy.rows(), dx.rows(), "dy and dx have different numbers of rows");
        (T::COMPILED.int8_backward)(self, dy, dx, accumulate);
    }

    pub(crate) fn forward_kernel<T: Element>(&self, x: Rows<T>, bias: Option<&[f32]>, mut y: RowsMut<T>) {
        let panels = &self.panels;
        let pass = Pass::Forward { mask: self.mask.as_deref(), scales: &self.scales, bias };
        let product = Product { left: x, panels, pass };
        each!(self.kernel, dot => multiply(dot, &product, y.reborrow()));
        if self.columns.is_empty() {
            return;
        }
        let (rows, count) = (x.rows(), self.columns.len());
        scratch::with(rows * count, |apart| {
            for (i, apart) in apart.chunks_exact_mut(count).enumerate() {
                let row = x.row(i);
                apart.iter_mut().zip(&self.columns).for_each(|(to, &k)| *to = row[k].widen());
            }
            low_rank::up(Rows::dense(apart, rows, count), &self.outliers, 1.0, y);
        });
    }

    pub(crate) fn backward_kernel<T: Element>(&self, dy: Rows<T>, mut dx: RowsMut<T>, accumulate: bool) {
        self.panels.by_transpose(dx.reborrow(), |panels, dx| {
            let pass = Pass::Backward { scales: &self.scales, accumulate };
            let product = Product { left: dy, panels, pass };
            each!(self.kernel, dot => multiply(dot, &product, dx));
        });
        if self.columns.is_empty() {
            return;
        }
        let (rows, count) = (dy.rows(), self.columns.len());
        scratch::with(rows * count, |apart| {
            low_rank::up_backward(dy, &self.outliers, 1.0, RowsMut::dense(apart, rows, count));
            for (i, apart) in apart.chunks_exact(count).enumerate() {
                let row = dx.row(i);
                self.columns
                    .iter()
                    .zip(apart)
                    .for_each(|(&k, from)| row[k] = T::round(row[k].widen() + from));
            }
        });
    }
}

fn layout<K: Dot>(_: K) -> super::panels::Layout {
    K::LAYOUT
}
