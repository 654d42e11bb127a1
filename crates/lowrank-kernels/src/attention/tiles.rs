//! Attention's products on a matrix unit, for rows of bf16.
//!
//! Factors are bf16 and sums f32. Backward rounds probabilities and the gradients of scores where it multiplies them, as
//! PyTorch's `scaled_dot_product_attention` on bf16 does. Forward has probabilities as the sum of two bf16: rounded, they make
//! gradients of the whole model up to twice as inexact (on the golden models, 3 of which are then off by more than 2e-2).
//!
//! Tiles take 32 steps of a sum at once, so blocks have 32 queries, over which the gradients of keys and values are summed.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::cast_slice_mut;
use half::bf16;

use super::heads::{cut, scale_by};
use super::mask::Span;
use super::products::{Backward, Block, Engine, Forward, Sums};
use super::task::Task;
use super::{Attention, HASH_KEYS};
use crate::element::Element;
use crate::gemm::amx::Unit;
use crate::gemm::amx::small::{self, Right, TileProducts};
use crate::rows::Rows;
use crate::simd::Vector;

// Spans start at multiples of the one, panels of their keys at those of the other.
const _: () = assert!(HASH_KEYS.is_multiple_of(small::PANEL));

/// Products on the unit `U`, which the machine has.
pub(super) struct TileEngine<U>(PhantomData<fn() -> U>);

/// Keys and values as right factors, one of columns and one of rows.
pub(super) struct TileForward<'w, U> {
    unit: TileProducts<U>,
    k: &'w [bf16],
    v: &'w [bf16],
    /// A block's queries.
    q: &'w mut [bf16],
    /// Its probabilities, as sums of two.
    p: [&'w mut [bf16]; 2],
    keys: usize,
    padded: usize,
}

/// Keys and values as right factors of columns, keys also of rows, and the sums of their gradients.
pub(super) struct TileBackward<'w, U> {
    unit: TileProducts<U>,
    k_columns: &'w [bf16],
    v_columns: &'w [bf16],
    k_rows: &'w [bf16],
    /// A block's queries, and the gradients of its output.
    q: Operand<'w>,
    dout: Operand<'w>,
    /// Its probabilities or the gradients of its scores, and their transpose.
    rounded: &'w mut [bf16],
    transposed: &'w mut [bf16],
    sums: Sums<'w>,
    keys: usize,
    padded: usize,
}

/// A block's rows as a left factor, and as a right factor along its queries.
struct Operand<'w> {
    rows: &'w mut [bf16],
    packed: &'w mut [bf16],
}

impl<'w> Operand<'w> {
    fn cut(rest: &mut &'w mut [bf16], len: usize) -> Self {
        Self { rows: cut(rest, len), packed: cut(rest, len) }
    }

    #[inline(always)]
    fn read<T: Element>(&mut self, from: Rows<T>, block: &Block, padded: usize) {
        gather(from, block.rows.clone(), block.columns, padded, self.rows);
        small::pack(self.rows, padded, self.packed);
    }
}

/// Copies one head's columns of some rows into rows of `padded`; the rest of `out` becomes 0.
#[inline(always)]
fn gather<T: Element>(
    from: Rows<T>,
    range: Range<usize>,
    [column, dim]: [usize; 2],
    padded: usize,
    out: &mut [bf16],
) {
    let from = from.cast::<bf16>().expect("rows of bf16");
    let (rows, rest) = out.split_at_mut(range.len() * padded);
    for (to, i) in rows.chunks_exact_mut(padded).zip(range) {
        let row = &from.row(i)[column..column + dim];
        for (to, from) in to.chunks_exact_mut(small::MULTIPLE).zip(row.chunks(small::MULTIPLE)) {
            // Of a constant length, so that it is no call.
            if from.len() == small::MULTIPLE {
                to.copy_from_slice(&from[..small::MULTIPLE]);
            } else {
                to[..from.len()].copy_from_slice(from);
                to[from.len()..].fill(bf16::ZERO);
            }
        }
    }
    rest.fill(bf16::ZERO);
}

/// Rounds `scale·from` to the start of `to`; the rest of `to` becomes 0. Lengths are multiples of the longest vector.
#[inline(always)]
fn round<V: Vector>(from: &[f32], scale: f32, to: &mut [bf16]) {
    let (to, rest) = to.split_at_mut(from.len());
    for (to, from) in to.chunks_exact_mut(V::LANES).zip(from.chunks_exact(V::LANES)) {
        V::load(from).mul(V::splat(scale)).store(to);
    }
    rest.fill(bf16::ZERO);
}

/// Cuts `from` into its upper half and, again cut off, what that leaves: together 15 bits or more of it, by fewer
/// instructions than rounding twice. Lengths are multiples of the longest vector.
#[inline(always)]
fn split<V: Vector>(from: &[f32], [high, low]: [&mut [bf16]; 2]) {
    let upper = |x: V| V::from_bits(V::and(x.to_bits(), V::bits(0xffff_0000)));
    let halves = high.chunks_exact_mut(V::LANES).zip(low.chunks_exact_mut(V::LANES));
    for ((high, low), from) in halves.zip(from.chunks_exact(V::LANES)) {
        let from = V::load(from);
        let above = upper(from);
        above.store_exact(high);
        upper(from.sub(above)).store_exact(low);
    }
}

impl<U: Unit> TileEngine<U> {
    /// What tasks of this engine hold of the unit.
    fn unit() -> TileProducts<U> {
        // SAFETY: a task takes hold of the unit once, and starts no other kernel before it gives it back.
        unsafe { TileProducts::new() }
    }
}

impl<U: Unit> Engine for TileEngine<U> {
    const QUERY_BLOCK: usize = small::MULTIPLE;
    const WIDTH: usize = small::MULTIPLE;

    type Forward<'w> = TileForward<'w, U>;
    type Backward<'w> = TileBackward<'w, U>;

    fn forward_len(keys: usize, dim: usize) -> usize {
        let (keys, padded) = (Self::columns(keys), Self::padded(dim));
        (3 * keys * padded + Self::QUERY_BLOCK * (padded + 2 * keys)) / 2
    }

    fn backward_len(keys: usize, dim: usize) -> usize {
        let (keys, padded) = (Self::columns(keys), Self::padded(dim));
        2 * keys * padded + (4 * keys * padded + Self::QUERY_BLOCK * (4 * padded + 2 * keys)) / 2
    }

    #[inline(always)]
    fn forward<'w, V: Vector, T: Element>(
        a: &Attention<T>,
        task: &Task,
        working: &'w mut [f32],
    ) -> TileForward<'w, U> {
        let dim = a.shape.head_dim;
        let (keys, padded) = (Self::columns(task.keys.len()), Self::padded(dim));
        let columns = [task.kv_head * dim, dim];
        let rest = &mut cast_slice_mut::<f32, bf16>(working);
        let (rows, k, v) = (cut(rest, keys * padded), cut(rest, keys * padded), cut(rest, keys * padded));
        let q = cut(rest, Self::QUERY_BLOCK * padded);
        let p = [cut(rest, Self::QUERY_BLOCK * keys), cut(rest, Self::QUERY_BLOCK * keys)];
        gather(a.k, task.keys.clone(), columns, padded, rows);
        small::pack_columns(rows, padded, k);
        gather(a.v, task.keys.clone(), columns, padded, rows);
        small::pack(rows, padded, v);
        TileForward { unit: Self::unit(), k, v, q, p, keys, padded }
    }

    #[inline(always)]
    fn backward<'w, V: Vector, T: Element>(
        a: &Attention<T>,
        task: &Task,
        working: &'w mut [f32],
    ) -> TileBackward<'w, U> {
        let dim = a.shape.head_dim;
        let (keys, padded) = (Self::columns(task.keys.len()), Self::padded(dim));
        let columns = [task.kv_head * dim, dim];
        let rest = &mut &mut *working;
        let (dk, dv) = (cut(rest, keys * padded), cut(rest, keys * padded));
        let rest = &mut cast_slice_mut::<f32, bf16>(std::mem::take(rest));
        let (rows, k_columns) = (cut(rest, keys * padded), cut(rest, keys * padded));
        let (v_columns, k_rows) = (cut(rest, keys * padded), cut(rest, keys * padded));
        let q = Operand::cut(rest, Self::QUERY_BLOCK * padded);
        let dout = Operand::cut(rest, Self::QUERY_BLOCK * padded);
        let (rounded, transposed) =
            (cut(rest, Self::QUERY_BLOCK * keys), cut(rest, Self::QUERY_BLOCK * keys));
        gather(a.v, task.keys.clone(), columns, padded, rows);
        small::pack_columns(rows, padded, v_columns);
        gather(a.k, task.keys.clone(), columns, padded, rows);
        small::pack_columns(rows, padded, k_columns);
        small::pack(rows, padded, k_rows);
        let sums = Sums::new(a, task, dk, dv);
        let unit = Self::unit();
        TileBackward { unit, k_columns, v_columns, k_rows, q, dout, rounded, transposed, sums, keys, padded }
    }
}

impl<U: Unit> Forward for TileForward<'_, U> {
    #[inline(always)]
    fn scores<V: Vector, T: Element>(
        &mut self,
        a: &Attention<T>,
        block: &Block,
        span: &Span,
        scores: &mut [f32],
    ) {
        let (rows, padded, width) = (block.rows.len(), self.padded, span.width);
        gather(a.q, block.rows.clone(), block.columns, padded, self.q);
        let k = Right::new(self.k, padded).from([0, span.start]);
        self.unit.multiply([rows, padded, width], (self.q, padded), k, (scores, width), false);
        scale_by::<V>(&mut scores[..rows * width], a.shape.scale);
    }

    #[inline(always)]
    fn results<V: Vector>(&mut self, p: &[f32], rows: usize, span: &Span, results: &mut [f32]) {
        let (padded, width) = (self.padded, span.width);
        let [high, low] = &mut self.p;
        split::<V>(&p[..rows * width], [high, low]);
        let v = Right::new(self.v, self.keys).from([span.start, 0]);
        let size = [rows, width, padded];
        self.unit.multiply(size, (high, width), v, (results, padded), false);
        self.unit.multiply(size, (low, width), v, (results, padded), true);
    }
}

impl<U: Unit> Backward for TileBackward<'_, U> {
    #[inline(always)]
    fn scores<V: Vector, T: Element>(
        &mut self,
        a: &Attention<T>,
        dout: Rows<T>,
        block: &Block,
        span: &Span,
        scores: &mut [f32],
        dp: &mut [f32],
    ) {
        let (rows, padded, width) = (block.rows.len(), self.padded, span.width);
        self.q.read(a.q, block, padded);
        self.dout.read(dout, block, padded);
        let size = [rows, padded, width];
        let columns = |values| Right::new(values, padded).from([0, span.start]);
        self.unit.multiply(size, (self.q.rows, padded), columns(self.k_columns), (scores, width), false);
        self.unit.multiply(size, (self.dout.rows, padded), columns(self.v_columns), (dp, width), false);
        scale_by::<V>(&mut scores[..rows * width], a.shape.scale);
    }

    #[inline(always)]
    fn gradients<V: Vector>(
        &mut self,
        p: &[f32],
        ds: &[f32],
        rows: usize,
        span: &Span,
        scale: f32,
        dq: &mut [f32],
    ) {
        let (padded, more) = (self.padded, self.sums.more);
        let (width, block) = (span.width, small::MULTIPLE);
        let (size, at) = ([span.keys(), block, padded], span.start * padded);
        let (rounded, transposed) =
            (&mut self.rounded[..block * width], &mut self.transposed[..block * width]);
        let along_queries = |values| Right::new(values, block);
        round::<V>(&p[..rows * width], 1.0, rounded);
        small::transpose(rounded, transposed);
        let (dout, dv) = (along_queries(self.dout.packed), &mut self.sums.v[at..]);
        self.unit.multiply(size, (transposed, block), dout, (dv, padded), more);
        round::<V>(&ds[..rows * width], scale, rounded);
        small::transpose(rounded, transposed);
        let (q, dk) = (along_queries(self.q.packed), &mut self.sums.k[at..]);
        self.unit.multiply(size, (transposed, block), q, (dk, padded), more);
        self.sums.more = true;
        let k = Right::new(self.k_rows, self.keys).from([span.start, 0]);
        self.unit.multiply([rows, width, padded], (rounded, width), k, (dq, padded), false);
    }

    #[inline(always)]
    fn sums(&self) -> &Sums<'_> {
        &self.sums
    }
}

#[cfg(test)]
mod tests;
