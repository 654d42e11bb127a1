//! Rotary positions.

use std::ops::Range;

use lowrank_kernels::Compute;
use lowrank_kernels::rotary::{self as kernel, RotaryShape, Rotations};

use super::block::{block, block_mut};
use super::layer_norm::module_of;
use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Leaf, Named, Parameter, Tape, Var, VarId};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// How queries and keys are turned by their positions.
#[derive(Clone, Copy)]
pub struct Rotary<'a> {
    /// The number of heads of queries `H`.
    pub heads: usize,
    /// The number of heads of keys and of values `Hkv`.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// The angle of each pair of elements at position 1. The first two times as many elements of a head are turned.
    pub frequencies: &'a [f32],
    /// What cosines and sines are multiplied by.
    pub factor: f32,
    /// The norms of each head before it is turned.
    pub norms: Option<HeadNorms<'a>>,
}

/// RMS norms of each head of queries and of keys, as in Qwen3.
#[derive(Clone, Copy)]
pub struct HeadNorms<'a> {
    /// The queries' scale: `[head_dim]`.
    pub query: &'a Parameter,
    /// The keys' scale: `[head_dim]`.
    pub key: &'a Parameter,
    /// What is added to the mean square.
    pub eps: f32,
}

/// Turns the queries and keys of fused rows by their positions; values are copied.
///
/// # Shapes
/// `qkv` and the result: `[tokens, (H + 2·Hkv)·head_dim]`; `positions`: one for each token.
///
/// # Errors
/// If a size is another, or a norm has no value.
///
/// # Source
/// Su et al., RoFormer (arXiv 2104.09864), with the pairs of Transformers' `rotate_half`: an element of the first half of
/// what is turned, and its place in the second.
pub fn rotary(tape: &mut Tape, qkv: &Var, positions: &[u32], rotary: &Rotary<'_>) -> Result<Var> {
    let (rows, width) = qkv.value().rows_and_width();
    let shape = RotaryShape { heads: rotary.heads, kv_heads: rotary.kv_heads, head_dim: rotary.head_dim };
    check(rotary, shape, [rows, width], positions.len())?;
    let (compute, layout, columns) = (qkv.compute(), qkv.layout(), 0..width);
    let mut y = Tensor::uninit([rows, width], qkv.value().dtype());
    let mut parts = Vec::new();
    for (rows, adapter) in layout.segments() {
        let norms = match &rotary.norms {
            Some(HeadNorms { query, key, eps }) => Some(Norms {
                query: query.active(adapter)?.clone(),
                key: key.active(adapter)?.clone(),
                eps: *eps,
            }),
            None => None,
        };
        let rotations = Rotations::new(&positions[rows.clone()], rotary.frequencies, rotary.factor);
        let weights = norms.as_ref().map(Norms::weights);
        with_rows!(compute, T => kernel::forward(
            block::<T>(qkv.value(), &rows, &columns),
            &rotations,
            shape,
            weights.as_ref().map(Weights::kernel),
            block_mut::<T>(&mut y, &rows, &columns),
        ));
        parts.push(Part { rows, rotations, norms });
    }
    let trained =
        tape.is_recording() && parts.iter().filter_map(|part| part.norms.as_ref()).any(Norms::is_trained);
    let backward = (trained || qkv.needs_gradient()).then(|| {
        let x = rotary.norms.is_some().then(|| qkv.value().clone());
        Box::new(RotaryBackward { input: qkv.id(), x, parts, shape, compute }) as Box<dyn Backward>
    });
    let name = || match &rotary.norms {
        Some(norms) => Named::Module(module_of(norms.query).to_owned()),
        None => Named::After("the turned queries and keys".into()),
    };
    tape.finish(name, y, layout, backward)
}

fn check(rotary: &Rotary<'_>, shape: RotaryShape, size: [usize; 2], positions: usize) -> Result<()> {
    let RotaryShape { heads, kv_heads, head_dim } = shape;
    let [rows, width] = size;
    if head_dim == 0 || width != shape.width() {
        return Err(Error::Usage(format!(
            "{heads} heads of queries and {kv_heads} of keys and of values of {head_dim} need rows of {}, not {width}",
            shape.width()
        )));
    }
    if positions != rows {
        return Err(Error::Usage(format!("{positions} positions for {rows} rows")));
    }
    if 2 * rotary.frequencies.len() > head_dim {
        return Err(Error::Usage(format!(
            "{} frequencies turn twice as many elements, more than a head of {head_dim} has",
            rotary.frequencies.len()
        )));
    }
    let norms = rotary.norms.iter().flat_map(|norms| [norms.query, norms.key]);
    match norms.into_iter().find(|weight| weight.shape().elements() != head_dim) {
        Some(weight) => {
            Err(Error::Usage(format!("{} is {} for heads of {head_dim}", weight.name(), weight.shape())))
        }
        None => Ok(()),
    }
}

/// The norms of a run of rows.
struct Norms {
    query: Leaf,
    key: Leaf,
    eps: f32,
}

/// Their weights as the kernels read them.
struct Weights {
    query: Tensor,
    key: Tensor,
    eps: f32,
}

impl Norms {
    fn is_trained(&self) -> bool {
        self.query.is_trainable() || self.key.is_trainable()
    }

    fn weights(&self) -> Weights {
        Weights { query: self.query.vector(), key: self.key.vector(), eps: self.eps }
    }
}

impl Weights {
    fn kernel(&self) -> kernel::HeadNorms<'_> {
        kernel::HeadNorms { query: self.query.as_slice(), key: self.key.as_slice(), eps: self.eps }
    }
}

struct Part {
    rows: Range<usize>,
    rotations: Rotations,
    norms: Option<Norms>,
}

struct RotaryBackward {
    input: Option<VarId>,
    /// What the norms read.
    x: Option<Tensor>,
    parts: Vec<Part>,
    shape: RotaryShape,
    compute: Compute,
}

impl Backward for RotaryBackward {
    fn backward(
        self: Box<Self>,
        mut gradient: Tensor,
        activations: &mut Activations,
        gradients: &mut Gradients,
    ) {
        let (columns, head_dim) = (0..self.shape.width(), self.shape.head_dim);
        for Part { rows, rotations, norms } in &self.parts {
            let weights = norms.as_ref().map(Norms::weights);
            let trained = norms.as_ref().is_some_and(Norms::is_trained);
            let mut dweights = vec![0.0; if trained { 2 * head_dim } else { 0 }];
            with_rows!(self.compute, T => kernel::backward(
                weights
                    .as_ref()
                    .zip(self.x.as_ref())
                    .map(|(weights, x)| (weights.kernel(), block::<T>(x, rows, &columns))),
                rotations,
                self.shape,
                block_mut::<T>(&mut gradient, rows, &columns),
                trained.then_some(&mut dweights[..]),
            ));
            if let Some(norms) = norms.as_ref().filter(|_| trained) {
                let (query, key) = dweights.split_at(head_dim);
                for (leaf, gradient) in [(&norms.query, query), (&norms.key, key)] {
                    if leaf.is_trainable() {
                        lowrank_kernels::elementwise::add_assign(gradients.accumulator(leaf), gradient);
                    }
                }
            }
        }
        if let Some(input) = self.input {
            activations.add(input, gradient);
        }
    }
}
