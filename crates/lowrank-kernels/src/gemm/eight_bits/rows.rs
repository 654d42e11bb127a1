//! Rows in whole numbers: of 16 bits, or of 8 and what does not fit these.

use bytemuck::{Pod, Zeroable};

use crate::element::Element;
use crate::rows::Rows;

/// Rows whose largest magnitude is below this are zeros: the reciprocal of their scale would not be finite.
const SMALLEST: f32 = 1e-30;
/// Adding it to a number of up to 22 bits leaves the nearest whole one, halves to even, in the low bits.
const WHOLE: f32 = (3 << 22) as f32;
/// Numbers of more than this part of the largest may be outliers.
const OUTLIER_PART: f32 = 0.25;
/// At most one number of a row in so many is an outlier, rounded up.
const OUTLIER_SHARE: usize = 256;
/// Numbers that are looked through for outliers at a time.
const LOOK: usize = 64;

/// What a carry counts.
pub(super) const CARRY: f32 = 256.0;

/// What does not fit the whole number at this place of a row: so many times [`CARRY`], or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Carry {
    pub place: u32,
    pub count: i32,
}

/// Whole numbers that rows are rounded to.
pub(in crate::gemm) trait Whole: Pod + Send + Sync + From<i8> {
    /// Length of the sum after which whole sums become floats: products with any 8 bits stay below 2³¹.
    const DEPTH: usize;

    /// The most numbers of a row of this length of which something is carried.
    fn most_carries(len: usize) -> usize;

    /// `value(k) ≈ scale · (whole[k] + 256 · carried)`, and gives the scale: NaN for a row that is not finite.
    ///
    /// `carries` is as long as [`Whole::most_carries`] says, and all zeros.
    fn round_row(value: impl Fn(usize) -> f32, whole: &mut [Self], carries: &mut [Carry]) -> f32;
}

/// As finely as sums in 32 bits leave room for: there is nothing to carry.
impl Whole for i16 {
    // The longer, the fewer levels a row has.
    const DEPTH: usize = 2048;

    fn most_carries(_: usize) -> usize {
        0
    }

    #[inline(always)]
    fn round_row(value: impl Fn(usize) -> f32, whole: &mut [i16], _: &mut [Carry]) -> f32 {
        let levels = f32::from(levels(whole.len().min(Self::DEPTH)));
        match largest(whole.len(), &value) {
            Ok(largest) => {
                let factor = levels / largest;
                for (k, whole) in whole.iter_mut().enumerate() {
                    *whole = rounded(value(k) * factor) as i16;
                }
                largest / levels
            }
            Err(scale) => {
                whole.fill(0);
                scale
            }
        }
    }
}

/// Numbers above a quarter of the largest are outliers if they are one in 256 at most, rounded up; so are those above a quarter
/// of the largest that is left, together with them, and so on. Outliers have a carry, and the others 127 levels and a sign for
/// themselves.
///
/// # Source
/// Dettmers et al., LLM.int8() (arXiv 2208.07339), which keeps a batch's outlier features in 16 bits. Here a row has its
/// own, whose 16 bits are two whole numbers, so that its product does not depend on the other rows.
impl Whole for i8 {
    const DEPTH: usize = 1 << 16;

    fn most_carries(len: usize) -> usize {
        len.div_ceil(OUTLIER_SHARE)
    }

    #[inline(always)]
    fn round_row(value: impl Fn(usize) -> f32, whole: &mut [i8], carries: &mut [Carry]) -> f32 {
        const LEVELS: f32 = 127.0;
        let len = whole.len();
        let largest = match largest(len, &value) {
            Ok(largest) => largest,
            Err(scale) => {
                whole.fill(0);
                return scale;
            }
        };
        // The largest that is not an outlier. No number is more than 127 carries.
        let (mut usual, least) = (largest, largest / CARRY);
        while usual > least {
            // Integers, of which a loop takes several at a time.
            let limit = (usual * OUTLIER_PART).to_bits();
            let (mut above, mut below) = (0_u32, 0_u32);
            for k in 0..len {
                let magnitude = magnitude_bits(value(k));
                above += u32::from(magnitude > limit);
                below = below.max(if magnitude > limit { 0 } else { magnitude });
            }
            if above as usize > carries.len() {
                break;
            }
            usual = f32::from_bits(below).max(least);
        }
        let factor = LEVELS / usual;
        for (k, whole) in whole.iter_mut().enumerate() {
            // The low 8 bits.
            *whole = rounded(value(k) * factor) as i8;
        }
        if usual < largest {
            let mut carries = carries.iter_mut();
            for start in (0..len).step_by(LOOK) {
                let places = start..len.min(start + LOOK);
                let count = |k: usize| {
                    let number = rounded(value(k) * factor);
                    (number - i32::from(number as i8)) / CARRY as i32
                };
                if places.clone().fold(0, |any, k| any | count(k)) == 0 {
                    continue;
                }
                let found = places.filter(|&k| count(k) != 0);
                for k in found {
                    let carry = carries.next();
                    debug_assert!(carry.is_some(), "more numbers carry something than are outliers");
                    carry.into_iter().for_each(|carry| *carry = Carry { place: k as u32, count: count(k) });
                }
            }
        }
        usual / LEVELS
    }
}

/// The nearest whole number of one of up to 22 bits.
#[inline(always)]
fn rounded(value: f32) -> i32 {
    (value + WHOLE).to_bits().wrapping_sub(WHOLE.to_bits()) as i32
}

/// The magnitude as an integer: these are in the order of the numbers, with NaN above all.
#[inline(always)]
fn magnitude_bits(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// The largest magnitude of a row, or the scale of a row without one that can be divided by.
#[inline(always)]
fn largest(len: usize, value: impl Fn(usize) -> f32) -> Result<f32, f32> {
    let mut largest = 0;
    for k in 0..len {
        largest = largest.max(magnitude_bits(value(k)));
    }
    let largest = f32::from_bits(largest);
    if (SMALLEST..=f32::MAX).contains(&largest) {
        Ok(largest)
    } else {
        Err(if largest < SMALLEST { 0.0 } else { f32::NAN })
    }
}

/// The largest whole number of a row, so that sums of `depth` products with any 8 bits stay below 2³¹.
pub(super) fn levels(depth: usize) -> i16 {
    let room = i32::MAX as usize / (128 * depth.max(1));
    room.clamp(1, i16::MAX as usize) as i16
}

/// Rounds `factors∘rows[i]` into the row i of `whole`, at `stride`, with zeros up to `padded`.
///
/// # Shapes
/// `rows [M, depth]`, `factors [depth]`, `scales [M]`, `carries [M, most]`.
pub(super) fn round_rows<L: Whole, T: Element>(
    rows: Rows<'_, T>,
    factors: Option<&[f32]>,
    padded: usize,
    (whole, stride): (&mut [L], usize),
    scales: &mut [f32],
    (carries, most): (&mut [Carry], usize),
) {
    carries.fill(Carry::default());
    for (i, scale) in scales.iter_mut().enumerate() {
        let row = rows.row(i);
        let (whole, padding) = whole[i * stride..][..padded].split_at_mut(row.len());
        let carries = &mut carries[i * most..(i + 1) * most];
        padding.fill(L::zeroed());
        *scale = match factors {
            Some(factors) => scaled_row(row, factors, whole, carries),
            None => plain_row(row, whole, carries),
        };
    }
}

multiversion! {
    fn plain_row[V, L: Whole, T: Element](row: &[T], whole: &mut [L], carries: &mut [Carry]) -> f32 {
        let row = &row[..whole.len()];
        L::round_row(|k| row[k].widen(), whole, carries)
    }
}

multiversion! {
    fn scaled_row[V, L: Whole, T: Element](
        row: &[T],
        factors: &[f32],
        whole: &mut [L],
        carries: &mut [Carry],
    ) -> f32 {
        let (row, factors) = (&row[..whole.len()], &factors[..whole.len()]);
        L::round_row(|k| row[k].widen() * factors[k], whole, carries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRIDE: usize = 1 << 10;

    fn round<L: Whole + PartialEq>(row: &[f32], factors: Option<&[f32]>) -> (Vec<L>, f32, Vec<Carry>) {
        let (mut whole, mut scales) = (vec![L::from(-1); STRIDE], [0.0]);
        let mut carries = vec![Carry { place: 7, count: 7 }; L::most_carries(row.len())];
        let (rows, padded, most) = (Rows::dense(row, 1, row.len()), row.len() + 3, carries.len());
        round_rows(rows, factors, padded, (&mut whole, STRIDE), &mut scales, (&mut carries, most));
        assert!(whole[row.len()..padded].iter().all(|padding| *padding == L::zeroed()));
        assert!(whole[padded..].iter().all(|beyond| *beyond == L::from(-1)));
        whole.truncate(row.len());
        (whole, scales[0], carries)
    }

    #[test]
    fn rows_are_rounded_to_the_nearest_of_their_levels() {
        let (whole, scale, _) = round::<i16>(&[0.5, -1.0, 0.25, 0.0, 0.3749], None);
        assert_eq!(scale, 1.0 / 32767.0);
        assert_eq!(whole, [16384, -32767, 8192, 0, 12284]);
        let (whole, ..) = round::<i16>(&[-3e38, 3e38, 1e38], None);
        assert_eq!(whole, [-32767, 32767, 10922]);
        let (whole, scale, carries) = round::<i8>(&[0.5, -1.0, 0.25, 0.0, 0.3749], Some(&[2.0; 5]));
        assert_eq!((whole, scale), (vec![64, -127, 32, 0, 48], 2.0 / 127.0));
        assert_eq!(carries, [Carry::default()]);
    }

    #[test]
    fn outliers_are_carried_and_the_others_keep_their_levels() {
        let mut row: Vec<f32> = (0..600).map(|k| ((k * 37) % 201) as f32 / 100.0 - 1.0).collect();
        (row[2], row[70], row[599]) = (100.0, -4.01, 5.0);
        let (whole, scale, carries) = round::<i8>(&row, None);
        assert_eq!(scale, 1.0 / 127.0);
        assert_eq!(carries.iter().map(|carry| carry.place).collect::<Vec<_>>(), [2, 70, 599]);
        let mut found: Vec<f32> = whole.iter().map(|&whole| f32::from(whole)).collect();
        carries.iter().for_each(|carry| found[carry.place as usize] += CARRY * carry.count as f32);
        for (k, (found, wanted)) in found.iter().zip(&row).enumerate() {
            assert!((found * scale - wanted).abs() <= 0.5001 * scale, "{k}: {found} for {wanted}");
        }
        // A fourth is one too many for 600: then none is, but the largest for itself, which is twenty times the next.
        row[5] = 4.5;
        let (_, scale, carries) = round::<i8>(&row, None);
        assert_eq!(scale, 5.0 / 127.0);
        assert_eq!(carries, [Carry { place: 2, count: 10 }, Carry::default(), Carry::default()]);
    }

    #[test]
    fn outliers_are_looked_for_again_among_what_is_left() {
        let mut row = [1.0; 512];
        (row[9], row[300]) = (1000.0, -20.0);
        let (_, scale, carries) = round::<i8>(&row, None);
        assert_eq!(scale, 1000.0 / 256.0 / 127.0);
        assert_eq!(carries, [Carry { place: 9, count: 127 }, Carry { place: 300, count: -3 }]);
        // Of 640, the low part is -128.
        (row[9], row[300]) = (640.0 / 127.0, 1.0);
        let (whole, scale, carries) = round::<i8>(&row, None);
        assert_eq!((scale, whole[9], whole[300]), (1.0 / 127.0, -128, 127));
        assert_eq!(carries, [Carry { place: 9, count: 3 }, Carry::default()]);
    }

    #[test]
    fn an_outlier_that_all_others_vanish_beside_fits() {
        for sign in [-1.0, 1.0] {
            let mut row = [1e-9; 9];
            row[4] = sign * 3e7;
            let (whole, scale, carries) = round::<i8>(&row, None);
            let wanted = [0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!((&whole[..], scale), (&wanted[..], 3e7 / 256.0 / 127.0));
            assert_eq!(carries, [Carry { place: 4, count: 127 * sign as i32 }]);
        }
    }

    #[test]
    fn rows_of_next_to_nothing_are_zeros_and_those_that_are_not_finite_stay_so() {
        fn check<L: Whole + PartialEq + std::fmt::Debug>() {
            let zeros = vec![L::zeroed(); 2];
            let (whole, scale, _) = round::<L>(&[1e-35, 0.0], None);
            assert_eq!((whole, scale), (zeros.clone(), 0.0));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (whole, scale, _) = round::<L>(&[1.0, bad], None);
                assert!(whole == zeros && scale.is_nan());
            }
            assert_eq!(round::<L>(&[], None).1, 0.0);
        }
        check::<i16>();
        check::<i8>();
    }

    #[test]
    fn sums_stay_in_32_bits() {
        for depth in [1, 5, 768, 2048, 3072, 100_000, 16_000_000] {
            let sum = depth as i64 * 128 * i64::from(levels(depth));
            assert!(sum <= i64::from(i32::MAX) && levels(depth) >= 1, "{depth}");
        }
        assert_eq!((levels(768), levels(2048), levels(1)), (21845, 8191, i16::MAX));
        assert!(<i8 as Whole>::DEPTH as i64 * 128 * 128 <= i64::from(i32::MAX));
    }
}
