//! The layers of an encoder, one after the other.

use crate::Result;
use crate::tape::{Tape, Var, ops};

/// Attention among all tokens of a sequence, and what is done with each of them after it.
pub(super) trait EncoderLayer: Sync {
    /// What each token's heads gather.
    fn attend(&self, tape: &mut Tape, x: &Var) -> Result<Var>;

    /// The layer's output, from what was gathered and from what the layer read.
    fn after_attention(&self, tape: &mut Tape, context: &Var, residual: &Var) -> Result<Var>;
}

/// The last hidden row of each token: `[tokens, D]`.
pub(super) fn each_token<'m>(
    layers: &'m [impl EncoderLayer],
    tape: &mut Tape<'m>,
    mut hidden: Var,
) -> Result<Var> {
    for layer in layers {
        hidden = tape.checkpoint(&[&hidden], move |tape, inputs| {
            let context = layer.attend(tape, &inputs[0])?;
            layer.after_attention(tape, &context, &inputs[0])
        })?;
    }
    Ok(hidden)
}

/// The last hidden row of each first token, f32: `[sequences, D]`.
///
/// The last layer attends from and to every token, but goes on with the first tokens alone: the others would be
/// computed for nobody, a twelfth of a base model's work and an eighth of MiniLM's.
pub(super) fn first_tokens<'m>(
    layers: &'m [impl EncoderLayer],
    tape: &mut Tape<'m>,
    hidden: Var,
) -> Result<Var> {
    let Some((last, layers)) = layers.split_last() else { return ops::first_token(tape, &hidden) };
    let hidden = each_token(layers, tape, hidden)?;
    tape.checkpoint(&[&hidden], move |tape, inputs| {
        let context = last.attend(tape, &inputs[0])?;
        let context = ops::first_token(tape, &context)?;
        let residual = ops::first_token(tape, &inputs[0])?;
        last.after_attention(tape, &context, &residual)
    })
}
