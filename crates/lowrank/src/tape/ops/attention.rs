//! Self-attention over ragged rows.

use std::sync::Arc;

use lowrank_kernels::attention::{self, AttentionShape, MOST_HEADS, MOST_TOKENS};
use lowrank_kernels::{Compute, Rows, RowsMut};

use super::with_rows;
use crate::tape::{Activations, Backward, DropoutSite, Gradients, Layout, Named, Tape, Var, VarId};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The sizes of a multi-head attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// The number of heads `H`.
    pub heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// The probability with which an attention weight is dropped in training.
    pub dropout: f32,
}

/// `softmax(q·kᵀ/√head_dim)·v` within each sequence, every token seeing every other.
///
/// # Shapes
/// `qkv`: `[tokens, 3·H·head_dim]`, queries, keys and values side by side. The result: `[tokens, H·head_dim]`.
///
/// # Errors
/// If the width of `qkv` is another, or there are more heads, or more tokens in a sequence, than the masks of dropout
/// have numbers for.
///
/// # Source
/// Dao et al., FlashAttention (arXiv 2205.14135): backward recomputes the weights from each row's log-sum-exp.
pub fn attention(tape: &mut Tape, qkv: &Var, attention: Attention) -> Result<Var> {
    let Attention { heads, head_dim, dropout } = attention;
    let (rows, width) = qkv.value().rows_and_width();
    if width != 3 * heads * head_dim {
        return Err(Error::Usage(format!(
            "attention of {heads} heads of {head_dim} needs rows of {}, not {width}",
            3 * heads * head_dim
        )));
    }
    let longest = qkv.layout().offsets().windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    if heads > MOST_HEADS || longest > MOST_TOKENS {
        return Err(Error::Usage(format!(
            "attention of {heads} heads over {longest} tokens: at most {MOST_HEADS} and {MOST_TOKENS} are possible"
        )));
    }
    let shape = AttentionShape { heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
    let (compute, site, layout) = (qkv.compute(), tape.dropout_site(dropout), qkv.layout());
    let records = qkv.needs_gradient();
    let mut out = Tensor::uninit([rows, heads * head_dim], qkv.value().dtype());
    let mut logsumexp = Tensor::uninit([if records { rows * heads } else { 0 }], DType::F32);
    with_rows!(compute, T => attention::forward(
        Rows::dense(qkv.value().as_slice::<T>(), rows, width),
        layout.offsets(),
        shape,
        site.map(|site| site.attention(layout)).as_ref(),
        RowsMut::dense(out.make_mut::<T>(), rows, heads * head_dim),
        logsumexp.make_mut::<f32>(),
    ));
    let backward = qkv.id().map(|input| {
        let (qkv, out, layout) = (qkv.value().clone(), out.clone(), Arc::clone(layout));
        Box::new(AttentionBackward { input, qkv, out, logsumexp, layout, shape, site, compute })
            as Box<dyn Backward>
    });
    tape.finish(|| Named::After("the output of attention".into()), out, layout, backward)
}

struct AttentionBackward {
    input: VarId,
    qkv: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    layout: Arc<Layout>,
    shape: AttentionShape,
    site: Option<DropoutSite>,
    compute: Compute,
}

impl Backward for AttentionBackward {
    fn backward(self: Box<Self>, dout: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let (rows, width) = self.qkv.rows_and_width();
        let mut dqkv = Tensor::uninit([rows, width], dout.dtype());
        with_rows!(self.compute, T => attention::backward(
            Rows::dense(self.qkv.as_slice::<T>(), rows, width),
            Rows::dense(self.out.as_slice::<T>(), rows, width / 3),
            Rows::dense(dout.as_slice::<T>(), rows, width / 3),
            self.logsumexp.as_slice::<f32>(),
            self.layout.offsets(),
            self.shape,
            self.site.map(|site| site.attention(&self.layout)).as_ref(),
            RowsMut::dense(dqkv.make_mut::<T>(), rows, width),
        ));
        activations.add(self.input, dqkv);
    }
}
