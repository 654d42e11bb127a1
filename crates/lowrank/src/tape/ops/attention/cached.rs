//! Attention to the keys and values of earlier calls.

use lowrank_kernels::RowsMut;
use lowrank_kernels::attention::{self as kernels, AttentionMask, Keys};

use super::bias::biases;
use super::operands::Operands;
use super::{Attention, RelativeBias, check_width, longest, with_rows};
use crate::tape::{KeyValues, Layout, Leaf, Named, Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// As [`super::attention`], without gradient, where the keys and values of earlier calls are kept in `cache`: a token
/// sees those and the new ones up to itself, as far as the mask lets it.
///
/// # Shapes
/// `qkv`: `[new tokens, (H + 2·Hkv)·head_dim]`, those of each sequence. The result: `[new tokens, H·head_dim]`.
///
/// # Errors
/// As [`super::attention`]; and if something below `qkv` is trained, the mask is not causal, the cache has another number
/// of sequences or rows of another kind, or sequences that share the call have different biases.
pub fn cached_attention(
    tape: &mut Tape,
    qkv: &Var,
    attention: &Attention,
    bias: Option<&RelativeBias<'_>>,
    cache: &mut KeyValues,
) -> Result<Var> {
    let [q, kv] = attention.widths()?;
    check_width("rows", attention, q + 2 * kv, qkv)?;
    let window = match attention.mask {
        AttentionMask::Causal => None,
        AttentionMask::Window(most) => Some(most),
        AttentionMask::Full => {
            return Err(Error::Usage(
                "attention with a cache needs a causal mask: later tokens are not there".into(),
            ));
        }
    };
    if qkv.needs_gradient() {
        return Err(Error::Usage("attention with a cache has no gradient: use a tape for inference".into()));
    }
    let layout = qkv.layout();
    let table = bias.map(|bias| one_table(bias, layout)).transpose()?.flatten();
    cache.append(qkv, q, window)?;
    let keys = cache.ranges();
    let sizes = [longest(layout.offsets()), keys.iter().map(ExactSizeIterator::len).max().unwrap_or(0)];
    let all = match (bias, table) {
        (Some(bias), Some(leaf)) => Some(biases(attention, bias, leaf, sizes, false)?),
        _ => None,
    };
    let rows = layout.rows();
    let operands = Operands { q: qkv.value().clone(), kv: cache.rows().clone(), kv_start: 0 };
    let mut out = Tensor::uninit([rows, q], qkv.value().dtype());
    with_rows!(operands.compute(), T => {
        let view = operands.plain::<T>(attention, layout.offsets(), Keys::Ranges(&keys), all.as_ref());
        kernels::forward(&view, RowsMut::dense(out.make_mut::<T>(), rows, q), &mut []);
    });
    tape.finish(|| Named::After("the output of attention".into()), out, layout, None)
}

/// The biases that all sequences share; none where there is no sequence.
fn one_table<'a>(bias: &RelativeBias<'a>, layout: &Layout) -> Result<Option<&'a Leaf>> {
    let mut one: Option<&Leaf> = None;
    for (_, adapter) in layout.segments() {
        let leaf = bias.table.active(adapter)?;
        if one.is_some_and(|one| one.id() != leaf.id()) {
            let name = bias.table.name();
            return Err(Error::Usage(format!(
                "{name}: attention with a cache takes the biases of one adapter at a time"
            )));
        }
        one = Some(leaf);
    }
    Ok(one)
}
