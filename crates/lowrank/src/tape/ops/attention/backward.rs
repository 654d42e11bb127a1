//! The backward of attention.

use std::sync::Arc;

use lowrank_kernels::attention::{self as kernels, AttentionGradients};
use lowrank_kernels::{Rows, RowsMut};

use super::operands::{Operands, Part};
use super::{Attention, with_rows};
use crate::tape::{Activations, Backward, DropoutSite, Gradients, Layout, VarId};
use crate::tensor::Tensor;

/// Where queries, keys and values came from.
pub(super) enum Inputs {
    /// From one value.
    Together(Option<VarId>),
    /// From a value of queries, and one of keys and values.
    Apart { q: Option<VarId>, kv: Option<VarId> },
}

impl Inputs {
    pub(super) fn need_gradient(&self) -> bool {
        match self {
            Self::Together(id) => id.is_some(),
            Self::Apart { q, kv } => q.is_some() || kv.is_some(),
        }
    }
}

pub(super) struct AttentionBackward {
    pub(super) inputs: Inputs,
    pub(super) operands: Operands,
    pub(super) attention: Attention,
    pub(super) parts: Vec<Part>,
    pub(super) logsumexp: Tensor,
    pub(super) queries: Arc<Layout>,
    pub(super) keys: Arc<Layout>,
    pub(super) site: Option<DropoutSite>,
}

impl Backward for AttentionBackward {
    fn backward(self: Box<Self>, dout: Tensor, activations: &mut Activations, gradients: &mut Gradients) {
        let Self { inputs, operands, attention, parts, logsumexp, queries, keys, site } = *self;
        let (rows, width) = dout.rows_and_width();
        let kv = attention.kv_heads * attention.head_dim;
        let mut first = Tensor::uninit(operands.q.shape(), dout.dtype());
        let mut second = match inputs {
            Inputs::Together(_) => None,
            Inputs::Apart { .. } => Some(Tensor::uninit(operands.kv.shape(), dout.dtype())),
        };
        for part in &parts {
            let mut sums =
                part.biases.as_ref().filter(|biases| biases.is_trained()).map(|biases| biases.zeros());
            with_rows!(operands.compute(), T => {
                let view = operands.view::<T>(&attention, part, &queries, &keys, site.as_ref());
                let [q, k, v] = match &mut second {
                    None => whole::<T>(&mut first).split_columns([width, kv, kv]),
                    Some(second) => {
                        let [k, v] = whole::<T>(second).split_columns([kv, kv]);
                        [whole::<T>(&mut first).into_columns(), k, v]
                    }
                };
                let bias = sums.as_mut().map(|sums| {
                    let distances = sums.len() / attention.heads;
                    RowsMut::dense(sums, attention.heads, distances)
                });
                kernels::backward(
                    &view,
                    logsumexp.as_slice::<f32>(),
                    Rows::dense(dout.as_slice::<T>(), rows, width),
                    AttentionGradients { q, k, v, bias },
                );
            });
            if let (Some(biases), Some(sums)) = (&part.biases, sums) {
                biases.add(&sums, gradients);
            }
        }
        let (q, kv) = match inputs {
            Inputs::Together(id) => (id, None),
            Inputs::Apart { q, kv } => (q, kv),
        };
        if let Some(id) = q {
            activations.add(id, first);
        }
        if let (Some(id), Some(second)) = (kv, second) {
            activations.add(id, second);
        }
    }
}

/// All of a tensor, for writing.
fn whole<T: crate::tensor::Stored>(tensor: &mut Tensor) -> RowsMut<'_, T> {
    let (rows, width) = tensor.rows_and_width();
    RowsMut::dense(tensor.make_mut::<T>(), rows, width)
}
