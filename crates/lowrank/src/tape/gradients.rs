//! Where gradients gather.

use std::collections::HashMap;

use half::bf16;

use super::parameter::{Leaf, LeafId};
use super::{Var, VarId};
use crate::tensor::{DType, Shape, Tensor};

/// The gradients of trained leaves, f32, accumulated until they are taken or cleared.
#[derive(Default)]
pub struct Gradients {
    leaves: HashMap<LeafId, Tensor>,
}

impl Gradients {
    /// No gradients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The gradient of `leaf`, if backward reached it.
    pub fn get(&self, leaf: &Leaf) -> Option<&[f32]> {
        self.leaves.get(&leaf.id()).map(|tensor| tensor.as_slice::<f32>())
    }

    /// The accumulator of `leaf`: zeros at its first use.
    pub(crate) fn accumulator(&mut self, leaf: &Leaf) -> &mut [f32] {
        self.of(leaf.id(), leaf.value().shape())
    }

    pub(crate) fn of(&mut self, id: LeafId, shape: Shape) -> &mut [f32] {
        self.leaves.entry(id).or_insert_with(|| Tensor::zeros(shape, DType::F32)).make_mut::<f32>()
    }

    /// Sets all gradients to zero for the next step, keeping their memory.
    pub fn clear(&mut self) {
        for tensor in self.leaves.values_mut() {
            tensor.make_mut::<f32>().fill(0.0);
        }
    }
}

/// The gradients of recorded values, on their way down.
pub(crate) struct Activations {
    slots: Vec<Option<Tensor>>,
}

impl Activations {
    pub(crate) fn new(variables: usize) -> Self {
        Self { slots: (0..variables).map(|_| None).collect() }
    }

    /// Assigns the gradient of a value, or adds to it.
    pub(crate) fn add(&mut self, id: VarId, gradient: Tensor) {
        let slot = &mut self.slots[id.0];
        match slot {
            None => *slot = Some(gradient),
            Some(sum) => match sum.dtype() {
                DType::Bf16 => {
                    lowrank_kernels::elementwise::add_assign(
                        sum.make_mut::<bf16>(),
                        gradient.as_slice::<bf16>(),
                    );
                }
                _ => lowrank_kernels::elementwise::add_assign(
                    sum.make_mut::<f32>(),
                    gradient.as_slice::<f32>(),
                ),
            },
        }
    }

    pub(crate) fn take(&mut self, id: VarId) -> Option<Tensor> {
        self.slots[id.0].take()
    }
}

impl Var {
    pub(crate) fn id(&self) -> Option<VarId> {
        self.id
    }
}
