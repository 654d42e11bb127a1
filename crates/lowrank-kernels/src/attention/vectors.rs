//! Attention's products on vectors, in f32.
//!
//! Sequences are short here (often ten tokens), so the products are the register-blocked loops of `tile`: a call of a library
//! GEMM costs more than such a head.

use super::heads::{cut, transpose, widen};
use super::mask::Span;
use super::products::{Backward, Block, Engine, Forward, Sums};
use super::task::Task;
use super::{Attention, HASH_KEYS};
use crate::element::Element;
use crate::rows::Rows;
use crate::simd::Vector;
use crate::tile::{Left, Panel, multiply};

/// Products by vectors' multiply-adds.
pub(super) struct VectorEngine;

/// Keys, transposed, and values; each is padded with zeros.
pub(super) struct VectorForward<'w> {
    q: &'w mut [f32],
    k_transposed: &'w mut [f32],
    v: &'w mut [f32],
    dim: usize,
    stride: usize,
    padded: usize,
}

/// Keys in both forms, values transposed, and the sums of their gradients.
pub(super) struct VectorBackward<'w> {
    q: &'w mut [f32],
    dout: &'w mut [f32],
    k: &'w mut [f32],
    k_transposed: &'w mut [f32],
    v_transposed: &'w mut [f32],
    sums: Sums<'w>,
    dim: usize,
    stride: usize,
    padded: usize,
}

impl Engine for VectorEngine {
    const QUERY_BLOCK: usize = 16;
    const WIDTH: usize = HASH_KEYS;

    type Forward<'w> = VectorForward<'w>;
    type Backward<'w> = VectorBackward<'w>;

    fn forward_len(keys: usize, dim: usize) -> usize {
        (Self::QUERY_BLOCK + keys) * Self::padded(dim) + dim * Self::columns(keys)
    }

    fn backward_len(keys: usize, dim: usize) -> usize {
        (2 * Self::QUERY_BLOCK + 3 * keys) * Self::padded(dim) + 2 * dim * Self::columns(keys)
    }

    #[inline(always)]
    fn forward<'w, V: Vector, T: Element>(
        a: &Attention<T>,
        task: &Task,
        working: &'w mut [f32],
    ) -> VectorForward<'w> {
        let (keys, dim) = (task.keys.len(), a.shape.head_dim);
        let (stride, padded) = (Self::columns(keys), Self::padded(dim));
        let rest = &mut &mut *working;
        let (q, v) = (cut(rest, Self::QUERY_BLOCK * padded), cut(rest, keys * padded));
        let k_transposed = cut(rest, dim * stride);
        // `v` holds k until it is transposed.
        widen::<V, T>(a.k, task.keys.clone(), [task.kv_head * dim, dim], 1.0, padded, v);
        transpose(v, keys, dim, padded, stride, k_transposed);
        widen::<V, T>(a.v, task.keys.clone(), [task.kv_head * dim, dim], 1.0, padded, v);
        VectorForward { q, k_transposed, v, dim, stride, padded }
    }

    #[inline(always)]
    fn backward<'w, V: Vector, T: Element>(
        a: &Attention<T>,
        task: &Task,
        working: &'w mut [f32],
    ) -> VectorBackward<'w> {
        let (keys, dim) = (task.keys.len(), a.shape.head_dim);
        let (stride, padded) = (Self::columns(keys), Self::padded(dim));
        let columns = [task.kv_head * dim, dim];
        let rest = &mut &mut *working;
        let (k, dk, dv) = (cut(rest, keys * padded), cut(rest, keys * padded), cut(rest, keys * padded));
        let (k_transposed, v_transposed) = (cut(rest, dim * stride), cut(rest, dim * stride));
        let (q, dout) = (cut(rest, Self::QUERY_BLOCK * padded), cut(rest, Self::QUERY_BLOCK * padded));
        // `k` holds v until it is transposed.
        widen::<V, T>(a.v, task.keys.clone(), columns, 1.0, padded, k);
        transpose(k, keys, dim, padded, stride, v_transposed);
        widen::<V, T>(a.k, task.keys.clone(), columns, 1.0, padded, k);
        transpose(k, keys, dim, padded, stride, k_transposed);
        let sums = Sums::new(a, task, dk, dv);
        VectorBackward { q, dout, k, k_transposed, v_transposed, sums, dim, stride, padded }
    }
}

impl Forward for VectorForward<'_> {
    #[inline(always)]
    fn scores<V: Vector, T: Element>(
        &mut self,
        a: &Attention<T>,
        block: &Block,
        span: &Span,
        scores: &mut [f32],
    ) {
        widen::<V, T>(a.q, block.rows.clone(), block.columns, a.shape.scale, self.padded, self.q);
        let q = Left::Plain(Panel { data: &*self.q, stride: self.padded });
        let k = Panel { data: &self.k_transposed[span.start..], stride: self.stride };
        multiply([block.rows.len(), self.dim, span.width], 1.0, q, k, scores, span.width, false);
    }

    #[inline(always)]
    fn results<V: Vector>(&mut self, p: &[f32], rows: usize, span: &Span, results: &mut [f32]) {
        let p = Left::Plain(Panel { data: p, stride: span.width });
        let v = Panel { data: &self.v[span.start * self.padded..], stride: self.padded };
        multiply([rows, span.keys(), self.padded], 1.0, p, v, results, self.padded, false);
    }
}

impl Backward for VectorBackward<'_> {
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
        let Self { stride, padded, .. } = *self;
        let size = [block.rows.len(), self.dim, span.width];
        widen::<V, T>(a.q, block.rows.clone(), block.columns, a.shape.scale, padded, self.q);
        widen::<V, T>(dout, block.rows.clone(), block.columns, 1.0, padded, self.dout);
        let left = Left::Plain(Panel { data: &*self.q, stride: padded });
        let transposed = Panel { data: &self.k_transposed[span.start..], stride };
        multiply(size, 1.0, left, transposed, scores, span.width, false);
        let left = Left::Plain(Panel { data: &*self.dout, stride: padded });
        let transposed = Panel { data: &self.v_transposed[span.start..], stride };
        multiply(size, 1.0, left, transposed, dp, span.width, false);
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
        let by_key = |data| Left::Transposed(Panel { data, stride: span.width });
        let (size, at) = ([span.keys(), rows, padded], span.start * padded);
        let dout = Panel { data: &*self.dout, stride: padded };
        multiply(size, 1.0, by_key(p), dout, &mut self.sums.v[at..], padded, more);
        // The queries are scaled already.
        let q = Panel { data: &*self.q, stride: padded };
        multiply(size, 1.0, by_key(ds), q, &mut self.sums.k[at..], padded, more);
        self.sums.more = true;
        let by_query = Left::Plain(Panel { data: ds, stride: span.width });
        let k = Panel { data: &self.k[at..], stride: padded };
        multiply([rows, span.keys(), padded], scale, by_query, k, dq, padded, false);
    }

    #[inline(always)]
    fn sums(&self) -> &Sums<'_> {
        &self.sums
    }
}
