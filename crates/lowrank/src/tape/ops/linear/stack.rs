//! The adapters of linear layers that read the same rows.

use std::collections::HashMap;
use std::ops::Range;

use lowrank_kernels::{Element, Rows, RowsMut, low_rank};

use super::{Input, InputGradients};
use crate::tape::ops::block::{block, block_mut};
use crate::tape::{DropoutSite, Gradients, Layout, Lora};
use crate::tensor::{DType, Stored, Tensor};

/// One adapter of one branch on a run of rows.
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) branch: usize,
    pub(super) lora: Lora,
}

/// Adapters of several branches that read the same rows under the same mask: their `A` are one matrix.
pub(super) struct Stack {
    rows: Range<usize>,
    reads: Reads,
    parts: Vec<Part>,
    /// The `A` matrices one below the other: `[Σ r, inputs]`.
    a: Tensor,
}

/// What adapters read of the input.
#[derive(Clone, Copy)]
enum Reads {
    /// All of it.
    Whole,
    /// What a mask of this place leaves.
    Masked(DropoutSite),
    /// What is given as the input with dropout done.
    Given,
}

impl Reads {
    fn site(&self) -> Option<DropoutSite> {
        if let Self::Masked(site) = self { Some(*site) } else { None }
    }

    fn is_given(&self) -> bool {
        matches!(self, Self::Given)
    }

    /// Whether several layers can read it; each mask is one layer's.
    fn is_shared(&self) -> bool {
        matches!(self, Self::Whole | Self::Given)
    }
}

/// A block of the rows of a part's `B`, which reads its own columns of the rank.
struct Block<'a> {
    part: &'a Part,
    columns: Range<usize>,
    ranks: Range<usize>,
    /// Where it is in `B`.
    elements: Range<usize>,
}

/// Joins the parts that can share a product; `is_given` where the input is there with dropout done.
pub(super) fn stack(parts: Vec<Part>, sites: &[Option<DropoutSite>], is_given: bool) -> Vec<Stack> {
    let mut groups: Vec<(Range<usize>, Reads, Vec<Part>)> = Vec::new();
    let mut shared: HashMap<(Range<usize>, bool), usize> = HashMap::new();
    for part in parts {
        let site = sites[part.branch].filter(|_| part.lora.dropout > 0.0);
        let reads = match site {
            _ if is_given && part.lora.dropout > 0.0 => Reads::Given,
            Some(site) => Reads::Masked(DropoutSite { probability: part.lora.dropout, ..site }),
            None => Reads::Whole,
        };
        let place = match reads.is_shared() {
            true => *shared.entry((part.rows.clone(), reads.is_given())).or_insert(groups.len()),
            false => groups.len(),
        };
        match groups.get_mut(place) {
            Some((_, _, group)) => group.push(part),
            None => groups.push((part.rows.clone(), reads, vec![part])),
        }
    }
    groups
        .into_iter()
        .map(|(rows, reads, parts)| {
            let a = match &parts[..] {
                [only] => only.lora.a.value().clone(),
                several => {
                    let stacked: Vec<f32> = several
                        .iter()
                        .flat_map(|part| part.lora.a.value().as_slice::<f32>())
                        .copied()
                        .collect();
                    let inputs = several[0].lora.a.value().shape().width();
                    Tensor::from_slice([stacked.len() / inputs, inputs], &stacked)
                }
            };
            Stack { rows, reads, parts, a }
        })
        .collect()
}

impl Stack {
    pub(super) fn trains_a(&self) -> bool {
        self.parts.iter().any(|part| part.lora.a.is_trainable())
    }

    pub(super) fn is_trainable(&self) -> bool {
        self.trains_a() || self.parts.iter().any(|part| part.lora.b.is_trainable())
    }

    fn rank(&self) -> usize {
        self.a.shape().rows()
    }

    /// Each part with its columns of the stacked rank.
    fn ranks(&self) -> impl Iterator<Item = (&Part, Range<usize>)> {
        self.parts.iter().scan(0, |end, part| {
            let start = *end;
            *end += part.lora.rank();
            Some((part, start..*end))
        })
    }

    /// Each block of the rows of a part's `B`.
    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        self.ranks().flat_map(|(part, ranks)| {
            let groups = part.lora.groups();
            let (outputs, r) = (part.columns.len() / groups, ranks.len() / groups);
            (0..groups).map(move |group| Block {
                part,
                columns: part.columns.start + group * outputs..part.columns.start + (group + 1) * outputs,
                ranks: ranks.start + group * r..ranks.start + (group + 1) * r,
                elements: group * outputs * r..(group + 1) * outputs * r,
            })
        })
    }

    /// Adds the adapters' output to `y` and returns `dropout(x)·Aᵀ`.
    pub(super) fn forward<T: Element + Stored>(
        &self,
        x: &Input<'_>,
        layout: &Layout,
        y: &mut Tensor,
    ) -> Tensor {
        let (tokens, inputs) = (self.rows.len(), self.a.shape().width());
        let mut u = Tensor::uninit([tokens, self.rank()], DType::F32);
        low_rank::down(
            block::<T>(x.of(self.reads.is_given()), &self.rows, &(0..inputs)),
            self.a.as_slice::<f32>(),
            self.reads.site().map(|site| site.on(layout, self.rows.clone())).as_ref(),
            RowsMut::dense(u.make_mut::<f32>(), tokens, self.rank()),
        );
        for Block { part, columns, ranks, elements } in self.blocks() {
            low_rank::up(
                block::<f32>(&u, &(0..tokens), &ranks),
                &part.lora.b.value().as_slice::<f32>()[elements],
                part.lora.scaling,
                block_mut::<T>(y, &part.rows, &columns),
            );
        }
        u
    }

    /// Adds the gradients of `A` and `B`, and the adapters' part of `dx`.
    pub(super) fn backward<T: Element + Stored>(
        &self,
        x: Option<&Input<'_>>,
        layout: &Layout,
        u: &Tensor,
        dy: &Tensor,
        dx: &mut InputGradients,
        gradients: &mut Gradients,
    ) {
        let (tokens, inputs, rank) = (self.rows.len(), self.a.shape().width(), self.rank());
        let site = self.reads.site().map(|site| site.on(layout, self.rows.clone()));
        let mut du = Tensor::uninit([tokens, rank], DType::F32);
        for Block { part, columns, ranks, elements } in self.blocks() {
            let dy = block::<T>(dy, &part.rows, &columns);
            let (b, scaling) = (&part.lora.b, part.lora.scaling);
            let du = block_mut::<f32>(&mut du, &(0..tokens), &ranks);
            low_rank::up_backward(dy, &b.value().as_slice::<f32>()[elements.clone()], scaling, du);
            if b.is_trainable() {
                let u = block::<f32>(u, &(0..tokens), &ranks);
                low_rank::outer_transposed(dy, u, scaling, &mut gradients.accumulator(b)[elements]);
            }
        }
        let du = Rows::dense(du.as_slice::<f32>(), tokens, rank);
        if let Some(x) = x.filter(|_| self.trains_a()) {
            let x = block::<T>(x.of(self.reads.is_given()), &self.rows, &(0..inputs));
            if let [only] = &self.parts[..] {
                low_rank::outer(du, x, site.as_ref(), 1.0, gradients.accumulator(&only.lora.a));
            } else {
                let mut da = Tensor::zeros(self.a.shape(), DType::F32);
                low_rank::outer(du, x, site.as_ref(), 1.0, da.make_mut::<f32>());
                let da = da.as_slice::<f32>();
                for (part, ranks) in self.ranks().filter(|(part, _)| part.lora.a.is_trainable()) {
                    let own = &da[ranks.start * inputs..ranks.end * inputs];
                    lowrank_kernels::elementwise::add_assign(gradients.accumulator(&part.lora.a), own);
                }
            }
        }
        if let Some(dx) = dx.of(self.reads.is_given()) {
            let dx = block_mut::<T>(dx, &self.rows, &(0..inputs));
            low_rank::down_backward(du, self.a.as_slice::<f32>(), site.as_ref(), dx);
        }
    }
}
