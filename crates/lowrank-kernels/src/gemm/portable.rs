//! Frozen products through the `gemm` crate: one row-major f32 copy of the weight serves both directions.

use rayon::prelude::*;

use super::matmul::{Matrix, MatrixMut, matmul};
use super::rows::widened;
use super::streamed::Streamed;
use crate::element::Element;
use crate::rows::{Rows, RowsMut};
use crate::scratch;

/// Rows that are widened, multiplied and rounded together.
const ROW_BLOCK: usize = 512;

#[derive(Debug)]
pub(super) struct Portable {
    /// `[outputs, inputs]`; under bf16 the widened values of the rounded weight.
    values: Vec<f32>,
    outputs: usize,
    inputs: usize,
}

impl Portable {
    /// Keeps the weight; `read(i, into)` copies the elements from i on of its row-major form.
    pub fn new(outputs: usize, inputs: usize, read: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let mut values = vec![0.0; outputs * inputs];
        if inputs > 0 {
            values.par_chunks_mut(inputs).enumerate().for_each(|(n, row)| read(n * inputs, row));
        }
        Self { values, outputs, inputs }
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&self.values[..])
    }

    pub fn forward<T: Element>(&self, x: Rows<'_, T>, bias: Option<&[f32]>, y: RowsMut<'_, T>) {
        let weight = Matrix::dense(&self.values, self.outputs, self.inputs).transposed();
        multiply(x, weight, bias, false, y);
    }

    pub fn backward<T: Element>(&self, dy: Rows<'_, T>, dx: RowsMut<'_, T>, accumulate: bool) {
        multiply(dy, Matrix::dense(&self.values, self.outputs, self.inputs), None, accumulate, dx);
    }
}

/// `out = [out +] x·weight [+ bias]`, block by block of rows.
fn multiply<T: Element>(
    x: Rows<'_, T>,
    weight: Matrix<'_>,
    bias: Option<&[f32]>,
    accumulate: bool,
    out: RowsMut<'_, T>,
) {
    let width = out.cols();
    let mut start = 0;
    for mut out in out.into_blocks(ROW_BLOCK) {
        let rows = out.rows();
        let block = x.slice(start, start + rows);
        start += rows;
        widened(block, |block| {
            if let Some(mut out) = out.cast_mut::<f32>() {
                prepare(bias, accumulate, &mut out);
                let beta = if accumulate || bias.is_some() { 1.0 } else { 0.0 };
                return matmul(1.0, block, weight, beta, (&mut out).into(), true);
            }
            scratch::with(rows * width, |sums| {
                for (i, sums) in sums.chunks_exact_mut(width.max(1)).enumerate() {
                    match bias {
                        Some(bias) => sums.copy_from_slice(bias),
                        None if accumulate => {
                            sums.iter_mut().zip(out.row(i)).for_each(|(sum, y)| *sum = y.widen());
                        }
                        None => sums.fill(0.0),
                    }
                }
                matmul(1.0, block, weight, 1.0, MatrixMut::dense(sums, rows, width), true);
                for (i, sums) in sums.chunks_exact(width.max(1)).enumerate() {
                    out.row(i).iter_mut().zip(sums).for_each(|(y, &sum)| *y = T::round(sum));
                }
            });
        });
    }
}

/// Values of a stored weight that are decoded together.
const STREAM_BLOCK: usize = 1 << 20;

/// `out = [out +] left·Wᵀ [+ bias]`, or with W in the place of Wᵀ unless `forward`: block by block of W's rows.
pub(super) fn multiply_streamed<T: Element>(
    weight: &Streamed<'_>,
    forward: bool,
    left: Rows<'_, T>,
    bias: Option<&[f32]>,
    accumulate: bool,
    mut out: RowsMut<'_, T>,
) {
    let (outputs, inputs) = (weight.outputs(), weight.inputs());
    let (count, width) = (out.rows(), out.cols());
    let block = (STREAM_BLOCK / inputs.max(1)).max(1);
    // Columns of `sums` are written block by block going forward; going back each block adds to all of them.
    scratch::with(count * width, |sums| {
        for (i, sums) in sums.chunks_exact_mut(width.max(1)).enumerate() {
            match bias {
                Some(bias) => sums.copy_from_slice(bias),
                None if accumulate => {
                    sums.iter_mut().zip(out.row(i)).for_each(|(sum, y)| *sum = y.widen());
                }
                None => sums.fill(0.0),
            }
        }
        for start in (0..outputs).step_by(block) {
            let rows = block.min(outputs - start);
            scratch::with(rows * inputs, |values| {
                if inputs > 0 {
                    let each = |(i, row): (usize, &mut [f32])| weight.read(start + i, 0, row);
                    values.par_chunks_exact_mut(inputs).enumerate().for_each(each);
                }
                let values = Matrix::dense(values, rows, inputs);
                if forward {
                    widened(left, |left| {
                        let place = sums.get_mut(start..).unwrap_or_default();
                        matmul(
                            1.0,
                            left,
                            values.transposed(),
                            1.0,
                            MatrixMut::new(place, count, rows, width, 1),
                            true,
                        );
                    });
                } else {
                    widened(left.narrow(start, rows), |part| {
                        matmul(1.0, part, values, 1.0, MatrixMut::dense(sums, count, width), true);
                    });
                }
            });
        }
        for (i, sums) in sums.chunks_exact(width.max(1)).enumerate() {
            out.row(i).iter_mut().zip(sums).for_each(|(y, &sum)| *y = T::round(sum));
        }
    });
}

/// Lays the bias into `out` as what the product is added to.
fn prepare(bias: Option<&[f32]>, accumulate: bool, out: &mut RowsMut<'_, f32>) {
    if let (Some(bias), false) = (bias, accumulate) {
        for i in 0..out.rows() {
            out.row(i).copy_from_slice(bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// Small whole numbers, whose products and sums are exact in every type here.
    fn values<T: Element>(len: usize, seed: usize) -> Vec<T> {
        (0..len).map(|i| T::round(((i * 5 + seed) % 3) as f32 - 1.0)).collect()
    }

    fn check<T: Element>(m: usize, n: usize, k: usize) {
        let (x, dy, w) = (values::<T>(m * k, 1), values::<T>(m * n, 2), values::<f32>(n * k, 0));
        let bias = values::<f32>(n, 1);
        let weight = Portable::new(n, k, |start, into| into.copy_from_slice(&w[start..start + into.len()]));
        let sum = |terms: usize, term: &dyn Fn(usize) -> f32| (0..terms).map(term).sum::<f32>();
        let mut y = vec![T::round(f32::NAN); m * n];
        weight.forward(Rows::dense(&x, m, k), Some(&bias), RowsMut::dense(&mut y, m, n));
        for i in 0..m * n {
            let expected = bias[i % n] + sum(k, &|p| x[i / n * k + p].widen() * w[i % n * k + p]);
            assert_eq!(y[i], T::round(expected), "forward {m}x{n}x{k} at {i}");
        }
        for accumulate in [false, true] {
            let mut dx = values::<T>(m * k, 0);
            let before = dx.clone();
            weight.backward(Rows::dense(&dy, m, n), RowsMut::dense(&mut dx, m, k), accumulate);
            for i in 0..m * k {
                let start = if accumulate { before[i].widen() } else { 0.0 };
                let expected = start + sum(n, &|p| dy[i / k * n + p].widen() * w[p * k + i % k]);
                assert_eq!(dx[i], T::round(expected), "backward {m}x{n}x{k} at {i}");
            }
        }
    }

    #[test]
    fn both_directions_are_exact_on_small_whole_numbers() {
        for (m, n, k) in [(0, 3, 2), (1, 1, 1), (1, 40, 33), (5, 3, 1), (33, 70, 19), (ROW_BLOCK + 1, 3, 4)] {
            check::<f32>(m, n, k);
            check::<bf16>(m, n, k);
        }
    }
}
