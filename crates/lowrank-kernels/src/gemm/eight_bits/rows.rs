//! Rows in whole numbers.

use crate::element::Element;
use crate::rows::Rows;

/// Rows whose largest magnitude is below this are zeros: the reciprocal of their scale would not be finite.
const SMALLEST: f32 = 1e-30;
/// Adding it to a number of up to 22 bits leaves the nearest whole one, halves to even, in the low bits.
const WHOLE: f32 = (3 << 22) as f32;

/// The largest whole number of a row, so that sums of `depth` products with any 8 bits stay below 2³¹.
pub(super) fn levels(depth: usize) -> i16 {
    let room = i32::MAX as usize / (128 * depth.max(1));
    room.clamp(1, i16::MAX as usize) as i16
}

/// `whole[i] = round(levels / m·factors∘rows[i])`, `scales[i] = m / levels` with `m` the largest magnitude of the row. A row
/// that is not finite has a scale of NaN.
///
/// # Shapes
/// `rows [M, depth]`, `factors [depth]`, `whole [M, padded]`, `scales [M]`.
pub(super) fn round_rows<T: Element>(
    rows: Rows<'_, T>,
    factors: Option<&[f32]>,
    levels: i16,
    padded: usize,
    whole: &mut [i16],
    scales: &mut [f32],
) {
    if padded == 0 {
        return scales.fill(0.0);
    }
    for (i, (whole, scale)) in whole.chunks_exact_mut(padded).zip(scales).enumerate() {
        let row = rows.row(i);
        let (whole, padding) = whole.split_at_mut(row.len());
        padding.fill(0);
        *scale = match factors {
            Some(factors) => scaled_row(row, factors, f32::from(levels), whole),
            None => plain_row(row, f32::from(levels), whole),
        };
    }
}

multiversion! {
    fn plain_row[V, T: Element](row: &[T], levels: f32, whole: &mut [i16]) -> f32 {
        round_row(row.len(), |k| row[k].widen(), levels, whole)
    }
}

multiversion! {
    fn scaled_row[V, T: Element](row: &[T], factors: &[f32], levels: f32, whole: &mut [i16]) -> f32 {
        let factors = &factors[..row.len()];
        round_row(row.len(), |k| row[k].widen() * factors[k], levels, whole)
    }
}

#[inline(always)]
fn round_row(len: usize, value: impl Fn(usize) -> f32, levels: f32, whole: &mut [i16]) -> f32 {
    let whole = &mut whole[..len];
    // Magnitudes as integers are in the order of the numbers, with NaN above all.
    let mut largest = 0;
    for k in 0..len {
        largest = largest.max(value(k).to_bits() & 0x7fff_ffff);
    }
    let largest = f32::from_bits(largest);
    if !(SMALLEST..=f32::MAX).contains(&largest) {
        whole.fill(0);
        return if largest < SMALLEST { 0.0 } else { f32::NAN };
    }
    let factor = levels / largest;
    for (k, whole) in whole.iter_mut().enumerate() {
        *whole = ((value(k) * factor + WHOLE).to_bits().wrapping_sub(WHOLE.to_bits())) as i16;
    }
    largest / levels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(row: &[f32], levels: i16) -> (Vec<i16>, f32) {
        let (mut whole, mut scales) = (vec![1; row.len() + 3], [0.0]);
        let rows = Rows::dense(row, 1, row.len());
        round_rows(rows, None, levels, row.len() + 3, &mut whole, &mut scales);
        assert_eq!(whole.split_off(row.len()), [0; 3], "padding is zero");
        (whole, scales[0])
    }

    #[test]
    fn rows_are_rounded_to_the_nearest_of_their_levels() {
        let (whole, scale) = round(&[0.5, -1.0, 0.25, 0.0, 0.3749], 4);
        assert_eq!((whole, scale), (vec![2, -4, 1, 0, 1], 0.25));
        let (whole, _) = round(&[-3e38, 3e38, 1e38], i16::MAX);
        assert_eq!(whole, [-32767, 32767, 10922]);
    }

    #[test]
    fn rows_of_next_to_nothing_are_zeros_and_those_that_are_not_finite_stay_so() {
        assert_eq!(round(&[1e-35, 0.0], 100), (vec![0, 0], 0.0));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (whole, scale) = round(&[1.0, bad], 100);
            assert!(whole == [0, 0] && scale.is_nan());
        }
    }

    #[test]
    fn sums_stay_in_32_bits() {
        for depth in [1, 5, 768, 2048, 3072, 100_000, 16_000_000] {
            let sum = depth as i64 * 128 * i64::from(levels(depth));
            assert!(sum <= i64::from(i32::MAX) && levels(depth) >= 1, "{depth}");
        }
        assert_eq!((levels(768), levels(2048), levels(1)), (21845, 8191, i16::MAX));
    }
}
