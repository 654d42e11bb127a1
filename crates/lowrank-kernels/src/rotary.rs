//! Rotary positions: the queries and keys of fused rows turned by their positions, after a norm of each head where
//! the model has one.

use crate::element::Element;
use crate::parallel::{for_each_row_block, sum_row_blocks};
use crate::rms_norm::{self, inverse_root};
use crate::rows::{Rows, RowsMut};
use crate::scratch;
use crate::simd::{Vector, each};

/// How a fused row of queries, keys and values is divided.
#[derive(Clone, Copy, Debug)]
pub struct RotaryShape {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys, and of values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl RotaryShape {
    /// The width of a row.
    pub fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// The columns that are turned; the others hold values.
    fn turned(&self) -> usize {
        (self.heads + self.kv_heads) * self.head_dim
    }
}

/// The weights of the norms of each head of queries and of keys: `[head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// What the queries are scaled by.
    pub query: &'a [f32],
    /// What the keys are scaled by.
    pub key: &'a [f32],
    /// What is added to the mean square.
    pub eps: f32,
}

/// The cosines and sines of the rows of a batch.
#[derive(Clone, Debug)]
pub struct Rotations {
    half: usize,
    /// For each distinct position the cosines, then the sines.
    table: Vec<f32>,
    /// The place in the table of each row.
    places: Vec<u32>,
}

impl Rotations {
    /// Angles `position · frequency`, their cosines and sines times `factor`; computed in f32, as in Transformers.
    pub fn new(positions: &[u32], frequencies: &[f32], factor: f32) -> Self {
        let mut distinct = positions.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let place = |position: &u32| distinct.partition_point(|other| other < position) as u32;
        let places = positions.iter().map(place).collect();
        let half = frequencies.len();
        let mut table = vec![0.0; 2 * half * distinct.len()];
        for (row, &position) in table.chunks_exact_mut((2 * half).max(1)).zip(&distinct) {
            let (cosines, sines) = row.split_at_mut(half);
            for ((cosine, sine), frequency) in cosines.iter_mut().zip(sines).zip(frequencies) {
                let angle = position as f32 * frequency;
                (*cosine, *sine) = (angle.cos() * factor, angle.sin() * factor);
            }
        }
        Self { half, table, places }
    }

    fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let start = self.places[row] as usize * 2 * self.half;
        self.table[start..start + 2 * self.half].split_at(self.half)
    }
}

/// `(a, b)` becomes `(a·cos − b·sin, b·cos + a·sin)`: `a` is the first half of what is turned, `b` the second. `load`
/// gives the elements of the head from a place on.
#[inline(always)]
fn turn<V: Vector, T: Element>(
    (cosines, sines): (&[f32], &[f32]),
    load: impl Fn(usize, usize) -> V,
    y: &mut [T],
) {
    let half = cosines.len();
    each::<V>(
        half,
        #[inline(always)]
        |at, n| {
            let (cosine, sine) = (V::load_some(cosines, at, n), V::load_some(sines, at, n));
            let (a, b) = (load(at, n), load(half + at, n));
            a.mul(cosine).sub(b.mul(sine)).store_some(y, at, n);
            b.mul(cosine).add(a.mul(sine)).store_some(y, half + at, n);
        },
    );
    each::<V>(
        y.len() - 2 * half,
        #[inline(always)]
        |at, n| load(2 * half + at, n).store_some(y, 2 * half + at, n),
    );
}

/// [`turn`] by the opposite angle, in place.
#[inline(always)]
fn turn_back<V: Vector, T: Element>((cosines, sines): (&[f32], &[f32]), y: &mut [T]) {
    let half = cosines.len();
    each::<V>(
        half,
        #[inline(always)]
        |at, n| {
            let (cosine, sine) = (V::load_some(cosines, at, n), V::load_some(sines, at, n));
            let (a, b) = (V::load_some(y, at, n), V::load_some(y, half + at, n));
            a.mul(cosine).add(b.mul(sine)).store_some(y, at, n);
            b.mul(cosine).sub(a.mul(sine)).store_some(y, half + at, n);
        },
    );
}

multiversion! {
    fn forward_row[V, T: Element](
        x: &[T], angles: (&[f32], &[f32]), shape: RotaryShape, norms: Option<HeadNorms>, y: &mut [T],
    ) {
        let (turned, values) = y.split_at_mut(shape.turned());
        values.copy_from_slice(&x[shape.turned()..]);
        let heads = x.chunks_exact(shape.head_dim).zip(turned.chunks_exact_mut(shape.head_dim));
        for (head, (x, y)) in heads.enumerate() {
            match norms {
                None => turn::<V, T>(angles, #[inline(always)] |at, n| V::load_some(x, at, n), y),
                Some(norms) => {
                    let weight = if head < shape.heads { norms.query } else { norms.key };
                    let scale = V::splat(inverse_root::<V, T>(x, norms.eps));
                    turn::<V, T>(angles, #[inline(always)] |at, n| {
                        V::load_some(x, at, n).mul(scale).mul(V::load_some(weight, at, n))
                    }, y);
                }
            }
        }
    }
}

/// `y = x` with each head of queries and keys normalised, if there are `norms`, and then turned.
///
/// # Shapes
/// `x`, `y`: `[rows, (heads + 2·kv_heads)·head_dim]`; `rotations`: of as many rows, and at most half of `head_dim`
/// frequencies.
pub fn forward<T: Element>(
    x: Rows<T>,
    rotations: &Rotations,
    shape: RotaryShape,
    norms: Option<HeadNorms>,
    y: RowsMut<T>,
) {
    (T::COMPILED.rotary_forward)(x, rotations, shape, norms, y);
}

fn check(rows: usize, cols: usize, rotations: &Rotations, shape: RotaryShape, norms: Option<HeadNorms>) {
    assert_eq!((rows, cols), (rotations.places.len(), shape.width()));
    assert!(2 * rotations.half <= shape.head_dim);
    let fits = |norms: HeadNorms| (norms.query.len(), norms.key.len()) == (shape.head_dim, shape.head_dim);
    assert!(norms.is_none_or(fits));
}

pub(crate) fn forward_kernel<T: Element>(
    x: Rows<T>,
    rotations: &Rotations,
    shape: RotaryShape,
    norms: Option<HeadNorms>,
    y: RowsMut<T>,
) {
    check(x.rows(), x.cols(), rotations, shape, norms);
    assert_eq!((y.rows(), y.cols()), (x.rows(), x.cols()));
    for_each_row_block(x.rows(), 4 * x.cols(), y, |range, mut y| {
        for (i, row) in range.enumerate() {
            forward_row(x.row(row), rotations.row(row), shape, norms, y.row(i));
        }
    });
}

multiversion! {
    fn turn_row_back[V, T: Element](angles: (&[f32], &[f32]), head_dim: usize, gradient: &mut [T]) {
        for gradient in gradient.chunks_exact_mut(head_dim) {
            turn_back::<V, T>(angles, gradient);
        }
    }
}

multiversion! {
    /// `dweights` are those of the queries' norm, then of the keys'; `working` has room for a head.
    fn normed_row_back[V, T: Element](
        x: &[T], angles: (&[f32], &[f32]), shape: RotaryShape, norms: HeadNorms, gradient: &mut [T],
        dweights: Option<&mut [f32]>, working: &mut [f32],
    ) {
        let mut dweights = dweights;
        let heads = x.chunks_exact(shape.head_dim).zip(gradient.chunks_exact_mut(shape.head_dim));
        for (head, (x, gradient)) in heads.enumerate() {
            let is_query = head < shape.heads;
            for (wide, narrow) in working.iter_mut().zip(&*gradient) {
                *wide = narrow.widen();
            }
            turn_back::<V, f32>(angles, working);
            let weight = if is_query { norms.query } else { norms.key };
            let dweight = dweights.as_deref_mut().map(#[inline(always)] |both| {
                let (query, key) = both.split_at_mut(shape.head_dim);
                if is_query { query } else { key }
            });
            let rstd = inverse_root::<V, T>(x, norms.eps);
            rms_norm::backward::<V, f32, T>(working, x, weight, rstd, gradient, dweight);
        }
    }
}

/// The backward of [`forward`], in place: `gradient` is that of the output before and that of the input after. With
/// norms it needs the forward's input; the gradients of their weights (of the queries', then of the keys') are added
/// to `dweights`.
///
/// # Shapes
/// As [`forward`]; `dweights`: `[2·head_dim]`.
pub fn backward<T: Element>(
    norms: Option<(HeadNorms, Rows<T>)>,
    rotations: &Rotations,
    shape: RotaryShape,
    gradient: RowsMut<T>,
    dweights: Option<&mut [f32]>,
) {
    (T::COMPILED.rotary_backward)(norms, rotations, shape, gradient, dweights);
}

pub(crate) fn backward_kernel<T: Element>(
    norms: Option<(HeadNorms, Rows<T>)>,
    rotations: &Rotations,
    shape: RotaryShape,
    gradient: RowsMut<T>,
    dweights: Option<&mut [f32]>,
) {
    let (rows, cols, turned) = (gradient.rows(), gradient.cols(), shape.turned());
    check(rows, cols, rotations, shape, norms.map(|(norms, _)| norms));
    let Some((norms, x)) = norms else {
        return for_each_row_block(rows, 4 * cols, gradient, |range, mut gradient| {
            for (i, row) in range.enumerate() {
                turn_row_back(rotations.row(row), shape.head_dim, &mut gradient.row(i)[..turned]);
            }
        });
    };
    assert_eq!((x.rows(), x.cols()), (rows, cols));
    let block = |range: std::ops::Range<usize>,
                 mut gradient: RowsMut<T>,
                 mut dweights: Option<&mut [f32]>| {
        scratch::with(shape.head_dim, |working| {
            for (i, row) in range.enumerate() {
                let (gradient, dweights) = (&mut gradient.row(i)[..turned], dweights.as_deref_mut());
                normed_row_back(x.row(row), rotations.row(row), shape, norms, gradient, dweights, working);
            }
        });
    };
    match dweights {
        None => for_each_row_block(rows, 12 * cols, gradient, |range, gradient| block(range, gradient, None)),
        Some(dweights) => {
            assert_eq!(dweights.len(), 2 * shape.head_dim);
            let mut total = vec![0.0; dweights.len()];
            sum_row_blocks(rows, 12 * cols, &mut total, gradient, |range, gradient, sum| {
                block(range, gradient, Some(sum));
            });
            dweights.iter_mut().zip(total).for_each(|(gradient, total)| *gradient += total);
        }
    }
}
