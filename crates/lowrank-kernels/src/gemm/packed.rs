//! A micro-kernel and the weight in the form that it reads.

use super::driver::multiply;
use super::panels::{Directions, PACK_DEPTH};
use super::tile::Tile;
use crate::element::Element;
use crate::rows::{Rows, RowsMut};

/// `W [outputs, inputs]` in panels for the kernel `K`.
#[derive(Debug)]
pub(super) struct Packed<K: Tile> {
    kernel: K,
    panels: Directions<K::Panel>,
}

impl<K: Tile> Packed<K> {
    /// Packs the weight; `read(i, into)` copies the elements from i on of its row-major form.
    pub fn new(kernel: K, outputs: usize, inputs: usize, read: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let panels = Directions::new(K::LAYOUT, outputs, inputs, |i, into: &mut [K::Panel]| {
            let mut wide = [0.0; PACK_DEPTH];
            let wide = &mut wide[..into.len()];
            read(i, wide);
            into.iter_mut().zip(wide).for_each(|(into, &mut value)| *into = K::Panel::round(value));
        });
        Self { kernel, panels }
    }

    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    pub fn forward<T: Element>(&self, x: Rows<'_, T>, bias: Option<&[f32]>, y: RowsMut<'_, T>) {
        multiply(self.kernel, x, self.panels.forward(), bias, false, y);
    }

    pub fn backward<T: Element>(&self, dy: Rows<'_, T>, dx: RowsMut<'_, T>, accumulate: bool) {
        self.panels.by_transpose(!K::TURNS, dx, |panels, dx| {
            multiply(self.kernel, dy, panels, None, accumulate, dx);
        });
    }
}
