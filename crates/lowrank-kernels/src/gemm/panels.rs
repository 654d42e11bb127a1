//! The form in which the micro-kernels read a frozen weight: panels of a few columns, each contiguous.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

use bytemuck::Pod;
use rayon::prelude::*;

use crate::memory::Buffer;
use crate::rows::RowsMut;

/// How a kernel wants its panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Columns of a panel.
    pub cols: usize,
    /// Consecutive elements along the sum that lie next to each other: 2 where products are taken in pairs, 4 in fours.
    pub group: usize,
    /// The sum is padded with zeros to a multiple of this, itself a multiple of `group`.
    pub depth_multiple: usize,
    /// The number of panels is padded to a multiple of this.
    pub panel_multiple: usize,
}

/// Elements of a column that are packed at a time, so that the part of the panel stays in the first-level cache;
/// a multiple of every layout's `group` and `depth_multiple`.
pub(super) const PACK_DEPTH: usize = 128;

/// The panels of a product's right factor `[depth, width]`: there before it, or made while it goes on.
pub(super) trait Supply<V>: Sync {
    /// Whether panels are made: each costs something, and serves all the rows that it can.
    const MADE: bool;

    /// Length of the sum.
    fn depth(&self) -> usize;

    /// Columns.
    fn width(&self) -> usize;

    /// The panels of a tile of `layout`, its columns from `col` on and its steps `start..end` of the sum, and how far
    /// apart they are. `room` has place for them, the steps rounded up to `layout.depth_multiple`.
    fn tile<'a>(
        &'a self,
        layout: Layout,
        col: usize,
        steps: Range<usize>,
        room: &'a mut [V],
    ) -> (&'a [V], usize);
}

impl<V: Pod + Send + Sync> Supply<V> for Panels<V> {
    const MADE: bool = false;

    fn depth(&self) -> usize {
        self.depth
    }

    fn width(&self) -> usize {
        self.width
    }

    fn tile<'a>(
        &'a self,
        layout: Layout,
        col: usize,
        steps: Range<usize>,
        _: &'a mut [V],
    ) -> (&'a [V], usize) {
        let len = self.panel_len();
        (&self.values()[col / layout.cols * len + steps.start * layout.cols..], len)
    }
}

/// A matrix `[depth, width]` cut into panels of `layout.cols` columns, padded with zeros.
#[derive(Debug)]
pub(super) struct Panels<V> {
    bytes: Buffer,
    layout: Layout,
    depth: usize,
    width: usize,
    kind: PhantomData<V>,
}

impl<V: Pod + Send + Sync> Panels<V> {
    /// Packs a matrix; `read(w, d, into)` copies the elements from (d, w) on, down column w, at most
    /// [`PACK_DEPTH`] of them and starting at a multiple of that.
    pub fn new(
        layout: Layout,
        depth: usize,
        width: usize,
        read: impl Fn(usize, usize, &mut [V]) + Sync,
    ) -> Self {
        let mut packed = Self::of(layout, depth, width, Buffer::kept);
        let len = packed.panel_len();
        packed.values_mut().par_chunks_exact_mut(len.max(1)).enumerate().for_each(|(panel, values)| {
            let columns = (panel * layout.cols).min(width)..((panel + 1) * layout.cols).min(width);
            fill(layout, depth, columns, &read, values);
        });
        packed
    }

    /// Panels of any content in what `memory` gives for so many bytes.
    pub fn of(layout: Layout, depth: usize, width: usize, memory: impl Fn(usize) -> Buffer) -> Self {
        debug_assert!(PACK_DEPTH.is_multiple_of(layout.depth_multiple));
        let panels = width.div_ceil(layout.cols).next_multiple_of(layout.panel_multiple);
        let len = depth.next_multiple_of(layout.depth_multiple) * layout.cols;
        let mut bytes = memory(panels * len * size_of::<V>());
        if cfg!(debug_assertions) {
            // So that tests see padding that is not written.
            bytes.as_mut_slice::<u8>().fill(0xff);
        }
        Self { bytes, layout, depth, width, kind: PhantomData }
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Elements of one panel; a step of the sum is `layout.cols` of them.
    pub fn panel_len(&self) -> usize {
        self.depth.next_multiple_of(self.layout.depth_multiple) * self.layout.cols
    }

    /// All panels, one after the other, from the start of a cache line.
    pub fn values(&self) -> &[V] {
        self.bytes.as_slice()
    }

    /// As [`Panels::values`], for writing.
    pub fn values_mut(&mut self) -> &mut [V] {
        self.bytes.as_mut_slice()
    }

    /// Bytes of all panels.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes one panel of some columns, its padding included; `read` as in [`Panels::new`].
pub(super) fn fill<V: Pod + Send + Sync>(
    layout: Layout,
    depth: usize,
    columns: Range<usize>,
    read: impl Fn(usize, usize, &mut [V]),
    values: &mut [V],
) {
    let mut block = vec![V::zeroed(); layout.cols * PACK_DEPTH];
    let rows = values.chunks_mut(PACK_DEPTH * layout.cols);
    for (d, rows) in (0..depth).step_by(PACK_DEPTH).zip(rows) {
        let count = PACK_DEPTH.min(depth - d);
        block.fill(V::zeroed());
        for (w, column) in columns.clone().zip(block.chunks_exact_mut(PACK_DEPTH)) {
            read(w, d, &mut column[..count]);
        }
        match layout.group {
            1 => interleave::<V, 1>(&block, layout.cols, rows),
            2 => interleave::<V, 2>(&block, layout.cols, rows),
            _ => interleave::<V, 4>(&block, layout.cols, rows),
        }
    }
}

/// Writes columns of [`PACK_DEPTH`] elements, one after the other in `block`, as rows of a panel of `cols`.
#[inline(always)]
fn interleave<V: Pod + Send + Sync, const GROUP: usize>(block: &[V], cols: usize, rows: &mut [V]) {
    for (d, row) in (0..PACK_DEPTH).step_by(GROUP).zip(rows.chunks_exact_mut(cols * GROUP)) {
        for (into, column) in row.chunks_exact_mut(GROUP).zip(block.chunks_exact(PACK_DEPTH)) {
            into.copy_from_slice(&column[d..d + GROUP]);
        }
    }
}

/// The panels for both directions, the second made from the first when a product that is to keep it first needs it.
#[derive(Debug)]
pub(super) struct Directions<V> {
    forward: Panels<V>,
    backward: OnceLock<Panels<V>>,
}

impl<V: Pod + Send + Sync> Directions<V> {
    /// Packs `W [outputs, inputs]`; `read(i, into)` copies the elements from i on of its row-major form.
    pub fn new(layout: Layout, outputs: usize, inputs: usize, read: impl Fn(usize, &mut [V]) + Sync) -> Self {
        let forward = Panels::new(layout, inputs, outputs, |w, d, into| read(w * inputs + d, into));
        Self { forward, backward: OnceLock::new() }
    }

    /// `Wᵀ [inputs, outputs]`.
    pub fn forward(&self) -> &Panels<V> {
        &self.forward
    }

    /// `W [outputs, inputs]`.
    pub fn backward(&self) -> &Panels<V> {
        if let Some(panels) = self.backward.get() {
            return panels;
        }
        // Packed before the cell is entered: rayon may run another user of this weight on the packing thread.
        let panels = self.forward.turned(0..self.forward.depth, Buffer::kept);
        self.backward.get_or_init(|| panels)
    }

    /// Calls `product` with panels of `W`, and the columns of `out` that are theirs: of all, if they were kept before or
    /// `keeps`; else of one strip after the other, which is made for it.
    pub fn by_transpose<T>(
        &self,
        keeps: bool,
        out: RowsMut<'_, T>,
        mut product: impl FnMut(&Panels<V>, RowsMut<'_, T>),
    ) {
        if keeps || self.backward.get().is_some() {
            product(self.backward(), out);
        } else {
            self.forward.by_transpose(out, product);
        }
    }

    /// Bytes of both.
    pub fn bytes(&self) -> usize {
        self.forward.bytes() + self.backward.get().map_or(0, Panels::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: Layout = Layout { cols: 16, group: 2, depth_multiple: 32, panel_multiple: 2 };
    const PLAIN: Layout = Layout { cols: 48, group: 1, depth_multiple: 1, panel_multiple: 1 };

    /// W [outputs, inputs] whose element (n, k) is 200 n + k.
    fn pack(layout: Layout, outputs: usize, inputs: usize) -> Directions<u16> {
        Directions::new(layout, outputs, inputs, |i, into| {
            for (i, into) in (i..).zip(into) {
                *into = (i / inputs * 200 + i % inputs) as u16;
            }
        })
    }

    fn check(layout: Layout, outputs: usize, inputs: usize) {
        let weight = pack(layout, outputs, inputs);
        let element = |panels: &Panels<u16>, d: usize, w: usize| {
            let (group, row) = (layout.group, d / layout.group * layout.group);
            let panel = &panels.values()[w / layout.cols * panels.panel_len()..];
            panel[row * layout.cols + w % layout.cols * group + d % group]
        };
        for (n, k) in (0..outputs).flat_map(|n| (0..inputs).map(move |k| (n, k))) {
            let value = (n * 200 + k) as u16;
            assert_eq!(element(weight.forward(), k, n), value);
            assert_eq!(element(weight.backward(), n, k), value);
        }
        let sum = |panels: &Panels<u16>| panels.values().iter().map(|&v| f64::from(v)).sum::<f64>();
        let expected = (0..outputs * inputs).map(|i| (i / inputs * 200 + i % inputs) as f64).sum();
        assert_eq!((sum(weight.forward()), sum(weight.backward())), (expected, expected), "padding is zero");
        assert_eq!(weight.backward().turned(0..outputs, Buffer::kept).values(), weight.forward().values());
    }

    #[test]
    fn panels_hold_every_element_in_its_place_and_zeros_elsewhere() {
        for layout in [PAIRS, PLAIN] {
            for (outputs, inputs) in [(1, 1), (19, 37), (97, 130), (16, 96), (200, 5)] {
                check(layout, outputs, inputs);
            }
        }
    }

    #[test]
    fn bytes_count_both_directions_once_they_exist() {
        let weight = pack(PAIRS, 19, 37);
        assert_eq!(weight.bytes(), 2 * 16 * 64 * 2);
        weight.backward();
        assert_eq!(weight.bytes(), 2 * 16 * 64 * 2 + 4 * 16 * 32 * 2);
    }
}
