//! Frozen products in whole numbers: the weight in 8 bits, rows rounded on the way.

#[cfg(any(test, target_arch = "x86_64"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod check;
mod driver;
mod plain;
mod rounded;
mod rows;

use driver::{Dot, Pass, Product, multiply};

use super::int8::{Int8, quantize};
use super::panels::Directions;
use crate::element::{Compute, Element, Source};
use crate::rows::{Rows, RowsMut};
use crate::tier::Tier;
use crate::{low_rank, scratch};

/// A constant matrix `W [outputs N, inputs K]` in 8 bits that is multiplied without being decoded.
///
/// A row of the other factor is brought into whole numbers on the fly, the weight's outlier columns are multiplied in f32.
/// Whole sums are exact; the bits do not depend on the threads or the other rows.
///
/// - Rows have 16 bits by their largest magnitude, as finely as sums in 32 bits leave room for: 8,191 levels and a sign where
///   a sum is 2,048 long or more, which is then cut into such blocks. So the rounding is that of the weight.
/// - Where bf16 is computed in on AMX, rows have 8 bits: 127 levels and a sign, and two numbers for the outliers of a row, which
///   are those above a quarter of the largest, and then of the largest that is left, as long as they are one in 256 at most.
///
/// # Source
/// Dettmers et al., LLM.int8() (arXiv 2208.07339), with outlier features of each row in the place of each batch.
#[derive(Debug)]
pub struct Int8Weight {
    outputs: usize,
    inputs: usize,
    kernel: Kernel,
    panels: Directions<i8>,
    /// `[N]`.
    scales: Vec<f32>,
    /// The outlier columns, ascending.
    columns: Vec<usize>,
    /// Their values: `[N, columns]`.
    outliers: Vec<f32>,
    /// `[K]`: 0 in outlier columns and 1 elsewhere, so that they do not count among a row's magnitudes.
    mask: Option<Vec<f32>>,
    keeps_transpose: bool,
}

/// Rows that making a transpose is next to nothing for: it costs as much as dozens.
const MANY_ROWS: usize = 1024;

/// The instructions that products use.
#[derive(Clone, Copy, Debug)]
enum Kernel {
    Plain(plain::Plain),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Vnni),
    #[cfg(target_arch = "x86_64")]
    Amx(super::amx::Amx),
    #[cfg(test)]
    Emulated(super::amx::Tiles<super::amx::Emulated>),
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
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx($dot) => $body,
            #[cfg(test)]
            Kernel::Emulated($dot) => $body,
        }
    };
}

impl Kernel {
    /// The fastest of the tier for rows of `compute` and sums of up to `depth`.
    fn of(tier: Tier, compute: Compute, depth: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            // Longer sums of what is carried would be cut at places that depend on the other rows.
            let in_8_bits = compute == Compute::Bf16 && depth <= <i8 as rows::Whole>::DEPTH;
            if tier == Tier::Amx
                && in_8_bits
                && let Some(kernel) = super::amx::Amx::detect_int8()
            {
                return Self::Amx(kernel);
            }
            if let Some(kernel) = avx512::Vnni::detect().filter(|_| tier >= Tier::Avx512) {
                return Self::Avx512(kernel);
            }
            if let Some(kernel) = avx2::Avx2::detect().filter(|_| tier > Tier::Plain) {
                return Self::Avx2(kernel);
            }
        }
        let _ = (tier, compute, depth);
        Self::Plain(plain::Plain)
    }
}

impl Int8Weight {
    /// Brings `source` into 8 bits, as [`quantize`], for rows of `compute`; none if it holds a value that is not finite.
    ///
    /// # Panics
    /// If `source` does not hold `outputs · inputs` values.
    pub fn quantize(compute: Compute, source: Source<'_>, outputs: usize, inputs: usize) -> Option<Self> {
        let (mut values, mut scales) = (vec![0; outputs * inputs], vec![0.0; outputs]);
        let (columns, outliers) = quantize(source, outputs, inputs, &mut values, &mut scales)?;
        let int8 = Int8 { values: &values, scales: &scales, columns: &columns, outliers: &outliers };
        Some(Self::new(compute, int8, outputs, inputs))
    }

    /// Prepares a weight in 8 bits for the tier of this process and rows that are computed in `compute`. Rows of the other
    /// type are multiplied, too, in as many bits.
    ///
    /// # Panics
    /// If `int8` is not of these sizes.
    pub fn new(compute: Compute, int8: Int8<'_>, outputs: usize, inputs: usize) -> Self {
        Self::with_tier(Tier::active(), compute, int8, outputs, inputs)
    }

    /// As [`Int8Weight::new`], for a tier.
    ///
    /// # Panics
    /// If `int8` is not of these sizes, or the machine does not have the tier.
    pub fn with_tier(tier: Tier, compute: Compute, int8: Int8<'_>, outputs: usize, inputs: usize) -> Self {
        assert!(tier.is_available(), "this machine does not have the tier {tier}");
        Self::with_kernel(Kernel::of(tier, compute, outputs.max(inputs)), int8, outputs, inputs)
    }

    fn with_kernel(kernel: Kernel, int8: Int8<'_>, outputs: usize, inputs: usize) -> Self {
        assert!(int8.fits(outputs, inputs), "the weight is not {outputs} x {inputs} values");
        let columns: Vec<usize> = int8.columns.iter().map(|&column| column as usize).collect();
        let panels = Directions::new(each!(kernel, dot => layout(dot)), outputs, inputs, |i, into| {
            let k = i % inputs;
            into.copy_from_slice(&int8.values[i..][..into.len()]);
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
            keeps_transpose: false,
        }
    }

    /// With `keeps`, the first backward product of few rows keeps the form of the weight that it makes, a byte for each value
    /// again; otherwise, and for many rows, each makes its own. Results are the same.
    pub fn keeping_transpose(self, keeps: bool) -> Self {
        Self { keeps_transpose: keeps, ..self }
    }

    /// N: the width of `y`.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// K: the width of `x`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes of memory that the values, scales and outliers occupy at present, with those of a transpose that was kept.
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
        let pass = Pass::Forward { mask: self.mask.as_deref(), scales: &self.scales, bias };
        let product = Product { left: x, panels: self.panels.forward(), pass };
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
        let keeps = self.keeps_transpose && dy.rows() < MANY_ROWS;
        each!(self.kernel, dot => self.panels.by_transpose(keeps, dx.reborrow(), |panels, dx| {
            let pass = Pass::Backward { scales: &self.scales, accumulate };
            multiply(dot, &Product { left: dy, panels, pass }, dx);
        }));
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

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn number(i: usize, seed: usize) -> f32 {
        ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0
    }

    /// The root of the mean of squared differences from sums in f64, as a part of that of the sums.
    fn error<T: Element>(found: &[T], wanted: impl Fn(usize) -> f64) -> f64 {
        let (mut off, mut all) = (0.0, 0.0);
        for (i, found) in found.iter().enumerate() {
            let wanted = wanted(i);
            off += (wanted - f64::from(found.widen())).powi(2);
            all += wanted.powi(2);
        }
        (off / all).sqrt()
    }

    /// On the emulated unit, with features that are thirty times as large as others in every other row, one number in the rest,
    /// and a weight with an outlier column.
    fn check<T: Element>(rows: usize, outputs: usize, inputs: usize) {
        let feature = |row: usize, k: usize, width: usize| {
            let is_large = if row.is_multiple_of(2) { k % 300 == 40 } else { k == row * 31 % width };
            if is_large { 30.0 } else { 1.0 }
        };
        let column = |k: usize| if k == 5 { 20.0 } else { 1.0 };
        let source: Vec<f32> = (0..outputs * inputs).map(|i| number(i, 1) * column(i % inputs)).collect();
        let (mut values, mut scales) = (vec![0; source.len()], vec![0.0; outputs]);
        let made = quantize(Source::F32(&source), outputs, inputs, &mut values, &mut scales);
        let (columns, outliers) = made.expect("finite values");
        assert_eq!(columns, [5]);
        let int8 = Int8 { values: &values, scales: &scales, columns: &columns, outliers: &outliers };
        let kernel = Kernel::Emulated(super::super::amx::Tiles::<super::super::amx::Emulated>::new());
        let weight = Int8Weight::with_kernel(kernel, int8, outputs, inputs);
        let mut decoded = vec![0.0; outputs * inputs];
        for (n, row) in decoded.chunks_exact_mut(inputs).enumerate() {
            int8.read(n, 0, row);
        }
        let make = |width: usize, seed: usize| -> Vec<T> {
            (0..rows * width)
                .map(|i| T::round(number(i, seed) * feature(i / width, i % width, width)))
                .collect()
        };
        let (x, dy) = (make(inputs, 4), make(outputs, 5));
        let bias: Vec<f32> = (0..outputs).map(|n| number(n, 6)).collect();
        let (mut y, mut dx) = (vec![T::round(0.0); rows * outputs], vec![T::round(0.0); rows * inputs]);
        weight.forward(Rows::dense(&x, rows, inputs), Some(&bias), RowsMut::dense(&mut y, rows, outputs));
        for accumulate in [false, true] {
            let dx = RowsMut::dense(&mut dx, rows, inputs);
            weight.backward(Rows::dense(&dy, rows, outputs), dx, accumulate);
        }
        let wide = |value: T| f64::from(value.widen());
        let ahead = error(&y, |i| {
            let terms = x[i / outputs * inputs..].iter().zip(&decoded[i % outputs * inputs..][..inputs]);
            terms.map(|(x, w)| wide(*x) * f64::from(*w)).sum::<f64>() + f64::from(bias[i % outputs])
        });
        let back = error(&dx, |i| {
            let terms = dy[i / inputs * outputs..][..outputs].iter().enumerate();
            2.0 * terms.map(|(n, dy)| wide(*dy) * f64::from(decoded[n * inputs + i % inputs])).sum::<f64>()
        });
        // Half a step of 127, evenly distributed, is 0.004 of the numbers that are not outliers; a row whose largest is up to four
        // times the others has a step as much larger.
        assert!(ahead < 1e-2 && back < 1e-2, "{rows} rows, {outputs} x {inputs}: {ahead:e}, {back:e}");
        let mut infinite = x.clone();
        infinite[inputs] = T::round(f32::INFINITY);
        let before = y.clone();
        weight.forward(
            Rows::dense(&infinite, rows, inputs),
            Some(&bias),
            RowsMut::dense(&mut y, rows, outputs),
        );
        assert!(y[outputs..2 * outputs].iter().all(|value| value.widen().is_nan()));
        let apart = |y: &[T]| -> Vec<f32> {
            y[..outputs].iter().chain(&y[2 * outputs..]).map(|value| value.widen()).collect()
        };
        assert_eq!(apart(&y), apart(&before));
    }

    #[test]
    fn rows_of_eight_bits_keep_their_outliers() {
        for (rows, outputs, inputs) in [(3, 97, 200), (70, 341, 700), (200, 700, 40), (7, 50, 33)] {
            check::<f32>(rows, outputs, inputs);
            check::<bf16>(rows, outputs, inputs);
        }
    }
}
