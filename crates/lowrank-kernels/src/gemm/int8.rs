//! A frozen weight in 8 bits: row-wise absmax, with columns of unusual absmax kept in bf16.
//!
//! # Source
//! Dettmers et al., LLM.int8() (arXiv 2208.07339), whose split of outlier features is applied to the weight alone:
//! activations stay in the type that is computed in.

use half::bf16;
use rayon::prelude::*;

use crate::element::{Element, Source};

/// A column is an outlier if its absmax exceeds the median column's by this factor.
pub const OUTLIER_FACTOR: f32 = 6.0;
/// At most one column in so many is an outlier, rounded up.
pub const OUTLIER_SHARE: usize = 100;
/// The largest magnitude in 8 bits.
const LARGEST: f32 = 127.0;
/// Values that a task looks at.
const TASK_VALUES: usize = 1 << 18;

/// `W [outputs N, inputs K]` with `W[n, k] = scales[n] · values[n, k]`, except where k is an outlier column.
#[derive(Clone, Copy, Debug)]
pub struct Int8<'a> {
    /// `[N, K]`; zero in outlier columns.
    pub values: &'a [i8],
    /// `[N]`: the largest magnitude of each row, outlier columns left out, over 127.
    pub scales: &'a [f32],
    /// The outlier columns, ascending.
    pub columns: &'a [u32],
    /// Their values: `[N, columns]`.
    pub outliers: &'a [bf16],
}

impl Int8<'_> {
    /// Whether the parts fit a weight of these sizes.
    pub fn fits(&self, outputs: usize, inputs: usize) -> bool {
        Some(self.values.len()) == outputs.checked_mul(inputs)
            && self.scales.len() == outputs
            && Some(self.outliers.len()) == outputs.checked_mul(self.columns.len())
            && self.columns.windows(2).all(|pair| pair[0] < pair[1])
            && self.columns.last().is_none_or(|&last| (last as usize) < inputs)
    }

    /// The values `k..k + into.len()` of row `n`, in f32.
    pub fn read(&self, n: usize, k: usize, into: &mut [f32]) {
        let inputs = self.values.len() / self.scales.len().max(1);
        let values = &self.values[n * inputs + k..][..into.len()];
        let scale = self.scales[n];
        into.iter_mut().zip(values).for_each(|(into, &value)| *into = scale * f32::from(value));
        let outliers = &self.outliers[n * self.columns.len()..];
        for (&column, outlier) in self.columns.iter().zip(outliers) {
            if let Some(into) = (column as usize).checked_sub(k).and_then(|at| into.get_mut(at)) {
                *into = outlier.widen();
            }
        }
    }
}

/// The outlier columns of a weight, and their values in bf16.
pub type Outliers = (Vec<u32>, Vec<bf16>);

/// Brings `source [outputs, inputs]` into 8 bits; none if it holds a value that is not finite.
///
/// Columns whose absmax exceeds [`OUTLIER_FACTOR`] times the median column's are outliers, the largest first where they
/// are more than one in [`OUTLIER_SHARE`]. The result does not depend on the number of threads.
///
/// # Shapes
/// `values [outputs, inputs]`, `scales [outputs]`.
///
/// # Panics
/// If a slice is of another size.
pub fn quantize(
    source: Source<'_>,
    outputs: usize,
    inputs: usize,
    values: &mut [i8],
    scales: &mut [f32],
) -> Option<Outliers> {
    let size = outputs.checked_mul(inputs);
    assert!(Some(source.len()) == size && Some(values.len()) == size && scales.len() == outputs);
    if values.is_empty() {
        scales.fill(0.0);
        return Some((Vec::new(), Vec::new()));
    }
    let magnitudes = column_magnitudes(source, outputs, inputs);
    if magnitudes.iter().any(|magnitude| !magnitude.is_finite()) {
        return None;
    }
    let columns = outlier_columns(&magnitudes);
    let mut outliers = vec![bf16::ZERO; outputs * columns.len()];
    let rows = (TASK_VALUES / inputs).max(1);
    let blocks = values.par_chunks_mut(rows * inputs).zip(scales.par_chunks_mut(rows)).enumerate();
    let each = |block: usize, values: &mut [i8], scales: &mut [f32], outliers: &mut [bf16]| {
        let mut wide = vec![0.0; inputs];
        for (i, (values, scale)) in values.chunks_exact_mut(inputs).zip(scales).enumerate() {
            source.read((block * rows + i) * inputs, &mut wide);
            let outliers = &mut outliers[i * columns.len()..][..columns.len()];
            for (&column, outlier) in columns.iter().zip(outliers) {
                *outlier = bf16::round(std::mem::take(&mut wide[column as usize]));
            }
            *scale = round_row(&wide, values);
        }
    };
    if columns.is_empty() {
        blocks.for_each(|(block, (values, scales))| each(block, values, scales, &mut []));
    } else {
        let parts = outliers.par_chunks_mut(rows * columns.len());
        blocks
            .zip(parts)
            .for_each(|((block, (values, scales)), outliers)| each(block, values, scales, outliers));
    }
    Some((columns, outliers))
}

/// The largest magnitude in each column; not finite where a value is not.
fn column_magnitudes(source: Source<'_>, outputs: usize, inputs: usize) -> Vec<f32> {
    let rows = (TASK_VALUES / inputs).max(1);
    // Magnitudes as integers are in the order of the numbers, with NaN above all.
    let bits = (0..outputs.div_ceil(rows)).into_par_iter().map(|block| {
        let (mut wide, mut largest) = (vec![0.0_f32; inputs], vec![0_u32; inputs]);
        for n in block * rows..outputs.min((block + 1) * rows) {
            source.read(n * inputs, &mut wide);
            let both = largest.iter_mut().zip(&wide);
            both.for_each(|(largest, value)| *largest = (*largest).max(value.to_bits() & 0x7fff_ffff));
        }
        largest
    });
    let larger = |mut a: Vec<u32>, b: Vec<u32>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a = (*a).max(b));
        a
    };
    bits.reduce(|| vec![0; inputs], larger).into_iter().map(f32::from_bits).collect()
}

/// The columns that are kept apart, ascending.
fn outlier_columns(magnitudes: &[f32]) -> Vec<u32> {
    let mut sorted = magnitudes.to_vec();
    let middle = sorted.len() / 2;
    let (_, &mut median, _) = sorted.select_nth_unstable_by(middle, f32::total_cmp);
    let limit = OUTLIER_FACTOR * median;
    let mut columns: Vec<u32> =
        (0..magnitudes.len() as u32).filter(|&k| magnitudes[k as usize] > limit).collect();
    columns.sort_by(|&a, &b| magnitudes[b as usize].total_cmp(&magnitudes[a as usize]).then(a.cmp(&b)));
    columns.truncate(magnitudes.len().div_ceil(OUTLIER_SHARE));
    columns.sort_unstable();
    columns
}

/// The row in 8 bits, and its scale.
fn round_row(row: &[f32], values: &mut [i8]) -> f32 {
    let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / LARGEST;
    // Below this the inverse is infinite: nothing is left of such a row in f32 products either.
    if scale < f32::MIN_POSITIVE {
        values.fill(0);
        return 0.0;
    }
    let inverse = LARGEST / largest;
    for (value, &wide) in values.iter_mut().zip(row) {
        *value = (wide * inverse).round_ties_even() as i8;
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(source: &[f32], outputs: usize, inputs: usize) -> Option<(Vec<i8>, Vec<f32>, Outliers)> {
        let (mut values, mut scales) = (vec![1; source.len()], vec![1.0; outputs]);
        let outliers = quantize(Source::F32(source), outputs, inputs, &mut values, &mut scales)?;
        Some((values, scales, outliers))
    }

    /// Values between -1 and 1, all columns of about the same magnitude.
    fn values(outputs: usize, inputs: usize) -> Vec<f32> {
        (0..outputs * inputs).map(|i| ((i * 37 + i / 7) % 129) as f32 / 64.0 - 1.0).collect()
    }

    #[test]
    fn every_value_is_within_half_a_step_of_its_row() {
        let (outputs, inputs) = (700, 431);
        let source = values(outputs, inputs);
        let (values, scales, (columns, outliers)) = made(&source, outputs, inputs).unwrap();
        assert!(columns.is_empty());
        let int8 = Int8 { values: &values, scales: &scales, columns: &columns, outliers: &outliers };
        assert!(int8.fits(outputs, inputs));
        let mut row = vec![0.0; inputs];
        for n in 0..outputs {
            int8.read(n, 0, &mut row);
            let off = row.iter().zip(&source[n * inputs..]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= 0.5001 * scales[n], "row {n}: {off} of {}", scales[n]);
        }
    }

    #[test]
    fn columns_of_unusual_magnitude_keep_theirs() {
        let (outputs, inputs) = (9, 150);
        let mut source = values(outputs, inputs);
        for n in 0..outputs {
            source[n * inputs + 17] = 40.0 + n as f32;
            source[n * inputs + 149] = -100.0;
            // Above the limit, too, but the third: only two in 150 may be.
            source[n * inputs + 3] = 7.0;
        }
        let (values, scales, (columns, outliers)) = made(&source, outputs, inputs).unwrap();
        assert_eq!(columns, [17, 149]);
        let int8 = Int8 { values: &values, scales: &scales, columns: &columns, outliers: &outliers };
        let mut part = [0.0; 140];
        int8.read(4, 10, &mut part);
        assert_eq!((part[7], part[139]), (44.0, -100.0));
        assert!(scales.iter().all(|&scale| scale == 7.0 / 127.0), "outliers do not coarsen their rows");
        assert_eq!((values[17], values[149], values[3]), (0, 0, 127));
    }

    #[test]
    fn zeros_stay_and_what_is_not_finite_is_refused() {
        let (values, scales, _) = made(&[0.0; 6], 2, 3).unwrap();
        assert_eq!((values, scales), (vec![0; 6], vec![0.0; 2]));
        assert!(made(&[1.0, f32::NAN], 1, 2).is_none() && made(&[1.0, f32::INFINITY], 2, 1).is_none());
        assert_eq!(made(&[1e-44, 1e-44], 1, 2).unwrap().1, [0.0]);
        assert!(made(&[], 0, 5).is_some() && made(&[], 3, 0).is_some());
    }

    #[test]
    fn the_threads_do_not_show() {
        let (outputs, inputs) = (900, 700);
        let source: Vec<f32> =
            values(outputs, inputs).iter().enumerate().map(|(i, v)| v * (i % 11) as f32).collect();
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let one = pool(1).install(|| made(&source, outputs, inputs).unwrap());
        assert!(one == pool(3).install(|| made(&source, outputs, inputs).unwrap()));
    }
}
