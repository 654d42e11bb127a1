//! The form in which the micro-kernels read a frozen weight: panels of a few columns, each contiguous.

use std::sync::OnceLock;

use rayon::prelude::*;

use crate::element::Element;

/// How a kernel wants its panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Columns of a panel.
    pub cols: usize,
    /// Consecutive elements along the sum that lie next to each other: 2 where products are taken in pairs.
    pub group: usize,
    /// The sum is padded with zeros to a multiple of this, itself a multiple of `group`.
    pub depth_multiple: usize,
    /// The number of panels is padded to a multiple of this.
    pub panel_multiple: usize,
}

/// A matrix `[depth, width]` cut into panels of `layout.cols` columns, padded with zeros.
#[derive(Debug)]
pub(super) struct Panels<V> {
    lines: Vec<Line>,
    layout: Layout,
    depth: usize,
    width: usize,
    kind: std::marker::PhantomData<V>,
}

/// One cache line, so that panels start on one.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: 64 bytes without padding, for which every pattern, all zeros included, is valid.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; the type is `Copy` and holds no references.
unsafe impl bytemuck::Pod for Line {}

impl<V: Element> Panels<V> {
    /// Packs the matrix whose element (d, w) is `get(d, w)`.
    pub fn new(layout: Layout, depth: usize, width: usize, get: impl Fn(usize, usize) -> V + Sync) -> Self {
        let panels = width.div_ceil(layout.cols).next_multiple_of(layout.panel_multiple);
        let len = depth.next_multiple_of(layout.depth_multiple) * layout.cols;
        let mut packed = Self { lines: Vec::new(), layout, depth, width, kind: std::marker::PhantomData };
        let bytes = panels.checked_mul(len * size_of::<V>()).expect("a weight that fits memory");
        packed.lines = vec![Line([0; 64]); bytes.div_ceil(size_of::<Line>())];
        let fill = |(panel, values): (usize, &mut [V])| {
            let start = panel * layout.cols;
            let cols = layout.cols.min(width.saturating_sub(start));
            for (block, values) in values.chunks_exact_mut(layout.cols * layout.group).enumerate() {
                let first = block * layout.group;
                for (i, d) in (first..depth.min(first + layout.group)).enumerate() {
                    for col in 0..cols {
                        values[col * layout.group + i] = get(d, start + col);
                    }
                }
            }
        };
        if len > 0 {
            let values = &mut bytemuck::cast_slice_mut(&mut packed.lines)[..panels * len];
            values.par_chunks_exact_mut(len).enumerate().for_each(fill);
        }
        packed
    }

    /// The panels of the transposed matrix.
    fn transposed(&self) -> Self {
        let (values, len, Layout { cols, group, .. }) = (self.values(), self.panel_len(), self.layout);
        Self::new(self.layout, self.width, self.depth, |d, w| {
            values[d / cols * len + w / group * group * cols + d % cols * group + w % group]
        })
    }

    /// Length of the sum.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements of one panel; a step of the sum is `layout.cols` of them.
    pub fn panel_len(&self) -> usize {
        self.depth.next_multiple_of(self.layout.depth_multiple) * self.layout.cols
    }

    /// All panels, one after the other.
    pub fn values(&self) -> &[V] {
        bytemuck::cast_slice(&self.lines)
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }
}

/// The panels for both directions, the second packed from the first when it is first needed.
#[derive(Debug)]
pub(super) struct Directions<V> {
    forward: Panels<V>,
    backward: OnceLock<Panels<V>>,
}

impl<V: Element> Directions<V> {
    /// Packs `W [outputs, inputs]`, element i of whose row-major form is `get(i)`.
    pub fn new(layout: Layout, outputs: usize, inputs: usize, get: impl Fn(usize) -> V + Sync) -> Self {
        let forward = Panels::new(layout, inputs, outputs, |d, w| get(w * inputs + d));
        Self { forward, backward: OnceLock::new() }
    }

    /// `Wᵀ [inputs, outputs]`.
    pub fn forward(&self) -> &Panels<V> {
        &self.forward
    }

    /// `W [outputs, inputs]`.
    pub fn backward(&self) -> &Panels<V> {
        self.backward.get_or_init(|| self.forward.transposed())
    }

    /// Bytes of both.
    pub fn bytes(&self) -> usize {
        self.forward.bytes() + self.backward.get().map_or(0, Panels::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transpose_of_the_transpose_is_the_original() {
        let layout = Layout { cols: 16, group: 2, depth_multiple: 32, panel_multiple: 2 };
        let get = |i: usize| half::bf16::round(i as f32);
        let both = Directions::new(layout, 19, 37, get);
        assert_eq!(both.backward().values()[2 * 16], get(2 * 37), "row 2, column 0 starts the second pair");
        assert_eq!(both.backward().transposed().values(), both.forward().values());
        assert_eq!(both.bytes(), 2 * (2 * 16 * 64) + 2 * (4 * 16 * 32));
    }
}
