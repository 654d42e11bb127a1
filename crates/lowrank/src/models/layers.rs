//! The layers of an encoder, one after the other.

use crate::Result;
use crate::tape::{Tape, Var, ops};

/// Attention among all tokens of a sequence, and what is done with each of them after it.
pub(super) trait EncoderLayer {
    /// What each token's heads gather.
    fn attend(&self, tape: &mut Tape, x: &Var) -> Result<Var>;

    /// The layer's output, from what was gathered and from what the layer read.
    fn after_attention(&self, tape: &mut Tape, context: &Var, residual: &Var) -> Result<Var>;
}

/// The last hidden row of each token: `[tokens, D]`.
pub(super) fn each_token(layers: &[impl EncoderLayer], tape: &mut Tape, mut hidden: Var) -> Result<Var> {
    for layer in layers {
        let context = layer.attend(tape, &hidden)?;
        hidden = layer.after_attention(tape, &context, &hidden)?;
    }
    Ok(hidden)
}

/// The last hidden row of each first token, f32: `[sequences, D]`.
///
/// The last layer attends from and to every token, but goes on with the first tokens alone: the others would be
/// computed for nobody, a twelfth of a base model's work and an eighth of MiniLM's.
pub(super) fn first_tokens(layers: &[impl EncoderLayer], tape: &mut Tape, hidden: Var) -> Result<Var> {
    let Some((last, layers)) = layers.split_last() else { return ops::first_token(tape, &hidden) };
    let hidden = each_token(layers, tape, hidden)?;
    let context = last.attend(tape, &hidden)?;
    let context = ops::first_token(tape, &context)?;
    let residual = ops::first_token(tape, &hidden)?;
    last.after_attention(tape, &context, &residual)
}
