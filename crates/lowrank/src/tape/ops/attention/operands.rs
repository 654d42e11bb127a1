//! Where queries, keys and values lie, and the kernels' view of them.

use std::ops::Range;

use lowrank_kernels::attention::{Attention as View, AttentionDropout, Keys};
use lowrank_kernels::{Compute, Rows};

use super::bias::Biases;
use super::{Attention, DropoutSite, Layout};
use crate::tensor::{Stored, Tensor};

/// Queries in the first columns of `q`; keys and then values in `kv` from `kv_start` on.
pub(super) struct Operands {
    pub(super) q: Tensor,
    pub(super) kv: Tensor,
    pub(super) kv_start: usize,
}

/// Neighbouring sequences with the same biases.
pub(super) struct Part {
    pub(super) sequences: Range<usize>,
    pub(super) biases: Option<Biases>,
}

impl Part {
    pub(super) fn is_trained(&self) -> bool {
        self.biases.as_ref().is_some_and(Biases::is_trained)
    }
}

impl Operands {
    pub(super) fn compute(&self) -> Compute {
        self.q.dtype().into()
    }

    /// The kernels' view of some sequences.
    pub(super) fn view<'a, T: Stored + lowrank_kernels::Element>(
        &'a self,
        attention: &Attention,
        part: &'a Part,
        queries: &'a Layout,
        keys: &'a Layout,
        site: Option<&DropoutSite>,
    ) -> View<'a, T> {
        let (sequences, offsets) = (part.sequences.clone(), part.sequences.start..part.sequences.end + 1);
        let dropout = site.map(|site| {
            let all = site.attention(queries);
            AttentionDropout { examples: &all.examples[sequences], ..all }
        });
        let keys = Keys::Offsets(&keys.offsets()[offsets.clone()]);
        View { dropout, ..self.plain(attention, &queries.offsets()[offsets], keys, part.biases.as_ref()) }
    }

    /// A view without dropout.
    pub(super) fn plain<'a, T: Stored + lowrank_kernels::Element>(
        &'a self,
        attention: &Attention,
        queries: &'a [usize],
        keys: Keys<'a>,
        biases: Option<&'a Biases>,
    ) -> View<'a, T> {
        let shape = attention.shape();
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let columns = |tensor: &'a Tensor, start, width| {
            let (rows, all) = tensor.rows_and_width();
            Rows::columns(tensor.as_slice::<T>(), rows, all, start, width)
        };
        View {
            q: columns(&self.q, 0, q),
            k: columns(&self.kv, self.kv_start, kv),
            v: columns(&self.kv, self.kv_start + kv, kv),
            queries,
            keys,
            shape,
            mask: attention.mask,
            bias: biases.map(Biases::view),
            dropout: None,
        }
    }
}
