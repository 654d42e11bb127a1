//! Attention over ragged rows.

mod backward;
mod bias;
mod cached;
mod operands;

use std::sync::Arc;

pub use bias::RelativeBias;
pub use cached::cached_attention;
use lowrank_kernels::RowsMut;
pub use lowrank_kernels::attention::AttentionMask;
use lowrank_kernels::attention::{self as kernels, AttentionShape, MOST_HEADS, MOST_TOKENS};

use super::with_rows;
use crate::tape::{Backward, DropoutSite, Layout, Named, Tape, Var};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use backward::{AttentionBackward, Inputs};
use operands::{Operands, Part};

/// A multi-head attention: its sizes, and which keys a query sees.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// The number of heads `H`.
    pub heads: usize,
    /// The number of heads `Hkv` of keys and values, which divides `H`: as many neighbouring heads read each.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// What multiplies the scores, usually `1/√head_dim`.
    pub scale: f32,
    /// The probability with which an attention weight is dropped in training.
    pub dropout: f32,
    /// Which keys a query sees.
    pub mask: AttentionMask,
}

impl Attention {
    /// That of an encoder: every token sees every other, and each head has its own keys.
    pub fn encoder(heads: usize, head_dim: usize, dropout: f32) -> Self {
        let scale = 1.0 / (head_dim as f32).sqrt();
        Self { heads, kv_heads: heads, head_dim, scale, dropout, mask: AttentionMask::Full }
    }

    fn shape(&self) -> AttentionShape {
        let Self { heads, kv_heads, head_dim, scale, .. } = *self;
        AttentionShape { heads, kv_heads, head_dim, scale }
    }

    /// The widths of the queries, and of the keys or the values.
    fn widths(&self) -> Result<[usize; 2]> {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        if kv_heads == 0 || head_dim == 0 || !heads.is_multiple_of(kv_heads) || heads > MOST_HEADS {
            return Err(Error::Usage(format!(
                "attention of {heads} heads of {head_dim} over {kv_heads} heads of keys: heads are at most {MOST_HEADS}, \
                 a multiple of the heads of keys, and none of these is 0"
            )));
        }
        if self.mask == AttentionMask::Window(0) {
            return Err(Error::Usage(
                "an attention window holds at least the token itself, not 0 tokens".into(),
            ));
        }
        // Twice, for keys and values side by side.
        match heads.checked_add(2 * kv_heads).and_then(|heads| heads.checked_mul(head_dim)) {
            Some(_) => Ok([heads * head_dim, kv_heads * head_dim]),
            None => Err(Error::Usage(format!("{heads} heads of {head_dim} are more than fit into memory"))),
        }
    }
}

/// The tokens of the longest sequence.
fn longest(offsets: &[usize]) -> usize {
    offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

fn check_tokens(longest: usize) -> Result<()> {
    if longest > MOST_TOKENS {
        return Err(Error::Usage(format!(
            "attention over {longest} tokens: at most {MOST_TOKENS} are possible"
        )));
    }
    Ok(())
}

fn check_width(what: &str, attention: &Attention, wanted: usize, var: &Var) -> Result<()> {
    let width = var.value().shape().width();
    if width == wanted {
        return Ok(());
    }
    let Attention { heads, kv_heads, head_dim, .. } = attention;
    Err(Error::Usage(format!(
        "attention of {heads} heads of {head_dim} over {kv_heads} heads of keys needs {what} of {wanted}, not {width}"
    )))
}

/// `dropout(softmax(scale·q·kᵀ + bias))·v` within each sequence, over the keys that the mask lets a query see.
///
/// # Shapes
/// `qkv`: `[tokens, (H + 2·Hkv)·head_dim]`, queries, keys and values side by side. The result: `[tokens, H·head_dim]`.
///
/// # Errors
/// If widths or the biases' table do not fit the heads, or there are more heads, or more tokens in a sequence, than the
/// masks of dropout have numbers for.
///
/// # Source
/// Dao et al., FlashAttention (arXiv 2205.14135): backward recomputes the weights from each row's log-sum-exp. Ainslie
/// et al., GQA (arXiv 2305.13245): groups of heads over the same keys.
pub fn attention(
    tape: &mut Tape,
    qkv: &Var,
    attention: &Attention,
    bias: Option<&RelativeBias<'_>>,
) -> Result<Var> {
    let [q, kv] = attention.widths()?;
    check_width("rows", attention, q + 2 * kv, qkv)?;
    check_tokens(longest(qkv.layout().offsets()))?;
    let parts = bias::parts(attention, bias, qkv.layout(), tape.is_recording())?;
    let operands = Operands { q: qkv.value().clone(), kv: qkv.value().clone(), kv_start: q };
    let inputs = Inputs::Together(qkv.id());
    Recorded { attention, operands, inputs, queries: qkv.layout(), keys: qkv.layout(), parts }.run(tape)
}

/// As [`attention`], from the tokens of targets to those of sources: sequence by sequence, as many of these as of those.
///
/// # Shapes
/// `q`: `[target tokens, H·head_dim]`; `kv`: `[source tokens, 2·Hkv·head_dim]`, keys and values side by side. The
/// result: `[target tokens, H·head_dim]`.
///
/// # Errors
/// As [`attention`], and if the numbers of sequences or the types of the rows differ.
pub fn cross_attention(tape: &mut Tape, q: &Var, kv: &Var, attention: &Attention) -> Result<Var> {
    let [q_width, kv_width] = attention.widths()?;
    check_width("queries", attention, q_width, q)?;
    check_width("keys and values", attention, 2 * kv_width, kv)?;
    let (targets, sources) = (q.layout().sequences(), kv.layout().sequences());
    if targets != sources || q.compute() != kv.compute() {
        return Err(Error::Usage(format!(
            "attention from {targets} sequences of {} to {sources} of {}: both must be the same",
            q.value().dtype(),
            kv.value().dtype()
        )));
    }
    check_tokens(longest(q.layout().offsets()).max(longest(kv.layout().offsets())))?;
    let parts = bias::parts(attention, None, q.layout(), false)?;
    let operands = Operands { q: q.value().clone(), kv: kv.value().clone(), kv_start: 0 };
    let inputs = Inputs::Apart { q: q.id(), kv: kv.id() };
    Recorded { attention, operands, inputs, queries: q.layout(), keys: kv.layout(), parts }.run(tape)
}

/// An attention that may be recorded.
struct Recorded<'a> {
    attention: &'a Attention,
    operands: Operands,
    inputs: Inputs,
    queries: &'a Arc<Layout>,
    keys: &'a Arc<Layout>,
    parts: Vec<Part>,
}

impl Recorded<'_> {
    fn run(self, tape: &mut Tape) -> Result<Var> {
        let Self { attention, operands, inputs, queries, keys, parts } = self;
        let (compute, site) = (operands.compute(), tape.dropout_site(attention.dropout));
        let records = inputs.need_gradient() || parts.iter().any(Part::is_trained);
        let (rows, heads, width) = (queries.rows(), attention.heads, attention.heads * attention.head_dim);
        let mut out = Tensor::uninit([rows, width], compute.into());
        let mut logsumexp = Tensor::uninit([if records { rows * heads } else { 0 }], DType::F32);
        for part in &parts {
            with_rows!(compute, T => {
                let view = operands.view::<T>(attention, part, queries, keys, site.as_ref());
                let out = RowsMut::dense(out.make_mut::<T>(), rows, width);
                kernels::forward(&view, out, logsumexp.make_mut::<f32>());
            });
        }
        let backward = records.then(|| {
            let (queries, keys) = (Arc::clone(queries), Arc::clone(keys));
            let attention = *attention;
            Box::new(AttentionBackward { inputs, operands, attention, parts, logsumexp, queries, keys, site })
                as Box<dyn Backward>
        });
        tape.finish(|| Named::After("the output of attention".into()), out, queries, backward)
    }
}

#[cfg(test)]
mod tests;
