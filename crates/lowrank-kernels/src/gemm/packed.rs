//! A micro-kernel and the weight in the form that it reads.

use super::driver::multiply;
use super::panels::Directions;
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
    /// Packs the weight, element i of whose row-major form is `get(i)`.
    pub fn new(kernel: K, outputs: usize, inputs: usize, get: impl Fn(usize) -> f32 + Sync) -> Self {
        let panels = Directions::new(K::LAYOUT, outputs, inputs, |i| K::Panel::round(get(i)));
        Self { kernel, panels }
    }

    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    pub fn forward<T: Element>(&self, x: Rows<'_, T>, bias: Option<&[f32]>, y: RowsMut<'_, T>) {
        multiply(self.kernel, x, self.panels.forward(), bias, false, y);
    }

    pub fn backward<T: Element>(&self, dy: Rows<'_, T>, dx: RowsMut<'_, T>, accumulate: bool) {
        multiply(self.kernel, dy, self.panels.backward(), None, accumulate, dx);
    }
}
