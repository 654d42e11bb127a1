//! The differentiable operations, each a forward and a backward in a file of its own.

mod activation;
mod add;
mod attention;
mod block;
mod convolution;
mod cross_entropy;
mod dropout;
mod embedding;
mod gated;
mod layer_norm;
mod linear;
mod mixture;
mod patch_embeddings;
mod rms_norm;
mod rotary;
mod scale;
mod select_rows;
mod span_loss;
mod squared_error;
mod unfold;

pub use activation::activation;
pub use add::add;
pub use attention::{Attention, AttentionMask, RelativeBias, attention, cached_attention, cross_attention};
pub use convolution::convolution;
pub use cross_entropy::cross_entropy;
pub use dropout::dropout;
pub use embedding::{Lookup, embedding};
pub use gated::gated;
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::{Branch, linear, linear_of_rows};
pub use lowrank_kernels::activation::Activation;
pub use lowrank_kernels::unfold::Window;
pub use mixture::{Choice, Routes, collect, dispatch, route, share};
pub use patch_embeddings::patch_embeddings;
pub use rms_norm::rms_norm;
pub use rotary::{HeadNorms, Rotary, rotary};
pub use scale::scale;
pub use select_rows::{first_token, select_rows};
pub use span_loss::{SpanDenominators, span_loss, span_targets};
pub use squared_error::squared_error;
pub use unfold::unfold;

/// Runs `$body` with the type `$t` of the rows of a compute type.
macro_rules! with_rows {
    ($compute:expr, $t:ident => $body:expr) => {
        match $compute {
            ::lowrank_kernels::Compute::F32 => {
                type $t = f32;
                $body
            }
            ::lowrank_kernels::Compute::Bf16 => {
                type $t = ::half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_rows;
