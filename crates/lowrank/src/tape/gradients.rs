//! Where gradients gather.

use std::collections::HashMap;

use half::bf16;

use super::leaf::{Leaf, LeafId};
use super::{Var, VarId};
use crate::tensor::{DType, Shape, Tensor};

/// The gradients of trained leaves, f32, accumulated until they are cleared.
#[derive(Default)]
pub struct Gradients {
    leaves: HashMap<LeafId, Sum>,
}

struct Sum {
    value: Tensor,
    /// Whether something was added since the last clearing.
    reached: bool,
}

impl Gradients {
    /// No gradients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The gradient of `leaf`, if backward reached it since the last clearing.
    pub fn get(&self, leaf: &Leaf) -> Option<&[f32]> {
        self.leaves.get(&leaf.id()).filter(|sum| sum.reached).map(|sum| sum.value.as_slice::<f32>())
    }

    /// The accumulator of `leaf`: zeros at its first use.
    pub(crate) fn accumulator(&mut self, leaf: &Leaf) -> &mut [f32] {
        self.of(leaf.id(), leaf.shape())
    }

    pub(crate) fn of(&mut self, id: LeafId, shape: Shape) -> &mut [f32] {
        let zeros = || Sum { value: Tensor::zeros(shape, DType::F32), reached: true };
        let sum = self.leaves.entry(id).or_insert_with(zeros);
        sum.reached = true;
        sum.value.make_mut::<f32>()
    }

    /// Forgets all gradients for the next step, keeping their memory.
    pub fn clear(&mut self) {
        for sum in self.leaves.values_mut().filter(|sum| sum.reached) {
            sum.value.make_mut::<f32>().fill(0.0);
            sum.reached = false;
        }
    }
}

/// The gradients of recorded values, on their way down.
pub(crate) struct Activations {
    tape: u64,
    slots: Vec<Option<Tensor>>,
}

impl Activations {
    pub(crate) fn new(tape: u64, variables: usize) -> Self {
        Self { tape, slots: (0..variables).map(|_| None).collect() }
    }

    /// Assigns the gradient of a value, or adds to it.
    ///
    /// # Panics
    /// If the value is of another tape: a part that is run again has captured it.
    pub(crate) fn add(&mut self, id: VarId, gradient: Tensor) {
        assert_eq!(
            id.tape, self.tape,
            "a part of a model that is run again reads a value that is not its input"
        );
        let slot = &mut self.slots[id.place];
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
        self.slots[id.place].take()
    }
}

impl Var {
    pub(crate) fn id(&self) -> Option<VarId> {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleared_gradient_is_there_again_only_when_backward_reaches_it() {
        let leaf = Leaf::trained(Tensor::zeros([2], DType::F32));
        let mut gradients = Gradients::new();
        assert_eq!(gradients.get(&leaf), None);
        gradients.accumulator(&leaf)[1] += 3.0;
        assert_eq!(gradients.get(&leaf), Some(&[0.0, 3.0][..]));
        gradients.clear();
        assert_eq!(gradients.get(&leaf), None, "momentum would move a leaf of zeros");
        gradients.accumulator(&leaf)[0] += 1.0;
        assert_eq!(gradients.get(&leaf), Some(&[1.0, 0.0][..]));
    }
}
