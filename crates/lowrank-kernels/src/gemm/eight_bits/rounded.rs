//! The rows of a task in whole numbers, and the panels that they meet.

use bytemuck::{cast_slice, cast_slice_mut};

use super::driver::Dot;
use super::rows::{Carry, Whole, round_rows};
use crate::element::Element;
use crate::gemm::panels::Layout;
use crate::rows::Rows;
use crate::scratch;

/// Bytes of a cache line.
const LINE: usize = 64;

/// A left factor in whole numbers as a kernel reads it, and panels of the right one.
#[derive(Clone, Copy)]
pub(super) struct Term<'a, L> {
    pub left: &'a [L],
    /// From one row to the next.
    pub stride: usize,
    /// The length of the sum, as padded.
    pub depth: usize,
    /// From the task's first column on.
    pub panels: &'a [i8],
    pub panel_len: usize,
}

/// Calls `work` with the scales of the rows `factors∘rows`, and the terms of which their product with the panels of a task's
/// columns is the sum: that of their whole numbers, and that of what they carry, which counts 256 times.
pub(super) fn with_terms<K: Dot, T: Element, R>(
    rows: Rows<'_, T>,
    factors: Option<&[f32]>,
    (panels, panel_len): (&[i8], usize),
    work: impl FnOnce(&[f32], &[Term<'_, K::Left>]) -> R,
) -> R {
    let (count, depth) = (rows.rows(), rows.cols());
    let (padded, stride) = (padded::<K>(depth), stride::<K>(depth));
    let most = K::Left::most_carries(depth);
    scratch::with_numbers(count.next_multiple_of(K::ROW_MULTIPLE) * stride, |left: &mut [K::Left]| {
        scratch::with(count, |scales| {
            scratch::with_numbers(count * most, |carries: &mut [Carry]| {
                round_rows(rows, factors, padded, (left, stride), scales, (carries, most));
                let whole = Term { left: &*left, stride, depth: padded, panels, panel_len };
                if carries.iter().all(|carry| carry.count == 0) {
                    return work(scales, &[whole]);
                }
                with_carried::<K, _>(carries, count, depth, (panels, panel_len), |carried| {
                    work(scales, &[whole, carried])
                })
            })
        })
    })
}

/// Calls `work` with the term of what is carried: of the places where a row carries anything, and the panels' steps there.
fn with_carried<K: Dot, R>(
    carries: &[Carry],
    rows: usize,
    depth: usize,
    (panels, panel_len): (&[i8], usize),
    work: impl FnOnce(Term<'_, K::Left>) -> R,
) -> R {
    let most = carries.len() / rows;
    let carries = || carries.iter().enumerate().filter(|(_, carry)| carry.count != 0);
    scratch::with_numbers(2 * depth, |both: &mut [u32]| {
        // Where each place is among those, and the places.
        let (among, places) = both.split_at_mut(depth);
        among.fill(u32::MAX);
        carries().for_each(|(_, carry)| among[carry.place as usize] = 0);
        let mut count = 0;
        for (place, among) in among.iter_mut().enumerate().filter(|(_, among)| **among == 0) {
            (*among, places[count]) = (count as u32, place as u32);
            count += 1;
        }
        let (padded, stride) = (padded::<K>(count), stride::<K>(count));
        scratch::with_numbers(rows.next_multiple_of(K::ROW_MULTIPLE) * stride, |left: &mut [K::Left]| {
            left.fill(K::Left::from(0));
            for (i, carry) in carries() {
                let place = among[carry.place as usize] as usize;
                left[i / most * stride + place] = K::Left::from(carry.count as i8);
            }
            let len = padded * K::LAYOUT.cols;
            scratch::with_numbers(panels.len() / panel_len * len, |some: &mut [i8]| {
                for (to, from) in some.chunks_exact_mut(len).zip(panels.chunks_exact(panel_len)) {
                    steps_of_panel(K::LAYOUT, &places[..count], cast_slice(from), cast_slice_mut(to));
                }
                work(Term { left: &*left, stride, depth: padded, panels: &*some, panel_len: len })
            })
        })
    })
}

/// The length of a row as the kernel `K` reads it.
fn padded<K: Dot>(depth: usize) -> usize {
    depth.next_multiple_of(K::LAYOUT.depth_multiple)
}

/// From one row to the next: an odd number of cache lines, so that no two rows of a tile meet in one set of the first-level
/// cache.
fn stride<K: Dot>(depth: usize) -> usize {
    let line = LINE / size_of::<K::Left>();
    (padded::<K>(depth).div_ceil(line) | 1) * line
}

multiversion! {
    /// Some steps of a panel, of which four are a group: a column's four bytes are one number.
    fn steps_of_panel[V](layout: Layout, steps: &[u32], from: &[u32], to: &mut [u32]) {
        const GROUP: usize = size_of::<u32>();
        const COLS: usize = 16;
        assert_eq!((layout.group, layout.cols), (GROUP, COLS), "only kernels that read fours carry anything");
        let mut groups = steps.chunks(GROUP);
        for to in to.chunks_exact_mut(COLS) {
            let mut four = [0; COLS];
            for (i, &step) in groups.next().unwrap_or(&[]).iter().enumerate() {
                let (group, place) = (step as usize / GROUP, step as usize % GROUP);
                for (four, from) in four.iter_mut().zip(&from[group * COLS..][..COLS]) {
                    let byte = u32::from_le(*from) >> (8 * place) & 0xff;
                    *four |= (byte << (8 * i)).to_le();
                }
            }
            to.copy_from_slice(&four);
        }
    }
}
