//! The differentiable operations, each a forward and a backward in a file of its own.

mod activation;
mod attention;
mod block;
mod cross_entropy;
mod dropout;
mod embedding;
mod first_token;
mod layer_norm;
mod linear;
mod rms_norm;
mod squared_error;

pub use activation::activation;
pub use attention::{Attention, AttentionMask, RelativeBias, attention, cached_attention, cross_attention};
pub use cross_entropy::cross_entropy;
pub use dropout::dropout;
pub use embedding::{Lookup, embedding};
pub use first_token::first_token;
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::{Branch, linear};
pub use lowrank_kernels::activation::Activation;
pub use rms_norm::rms_norm;
pub use squared_error::squared_error;

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
