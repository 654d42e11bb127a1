//! Gradient checkpointing (Chen et al., arXiv 1604.06174): of a part of the model only what it reads is kept, and backward
//! runs the part again for the rest.

use super::gradients::{Activations, Gradients};
use super::{Choices, Mode, Node, Operation, Tape, Var, VarId};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A part of a model as it is run again.
type Part<'m> = Box<dyn Fn(&mut Tape<'m>, &[Var]) -> Result<Var> + Send + 'm>;

/// A part of the forward pass that was run and is to be run again.
pub(super) struct Checkpoint<'m> {
    part: Part<'m>,
    inputs: Vec<Var>,
    /// The first dropout site, so that the same elements are dropped.
    sites: u32,
}

impl<'m> Tape<'m> {
    /// Keeps of every part of the model that is run by [`Tape::checkpoint`] its inputs alone: backward runs it again, for
    /// about a third more work and the same bits.
    #[must_use]
    pub fn checkpointing(mut self, checkpointing: bool) -> Self {
        self.checkpointing = checkpointing;
        self
    }

    /// Runs a part of the model, usually a layer, on `inputs`, as `torch.utils.checkpoint` does. What it reads of the model
    /// alone may be captured; values of this tape are inputs. Run again, it must do the same.
    ///
    /// # Errors
    /// Those of the part.
    ///
    /// # Panics
    /// In [`Tape::backward`], if the part captured a value of this tape that needs a gradient.
    pub fn checkpoint(
        &mut self,
        inputs: &[&Var],
        part: impl Fn(&mut Tape<'m>, &[Var]) -> Result<Var> + Send + 'm,
    ) -> Result<Var> {
        let inputs: Vec<Var> = inputs.iter().map(|&input| input.clone()).collect();
        // Where experts are noted or repeated, each is chosen once.
        if !self.checkpointing || !self.is_recording() || !matches!(self.choices, Choices::Free) {
            return part(self, &inputs);
        }
        let (nodes, variables, sites) = (self.nodes.len(), self.variables, self.sites);
        let output = part(self, &inputs)?;
        if self.nodes.len() == nodes || output.id.is_none() {
            return Ok(output);
        }
        self.nodes.truncate(nodes);
        self.variables = variables;
        let id = self.variable();
        let checkpoint = Checkpoint { part: Box::new(part), inputs, sites };
        self.nodes.push(Node { output: id, operation: Operation::Again(checkpoint) });
        Ok(Var { id: Some(id), ..output })
    }
}

impl<'m> Checkpoint<'m> {
    /// Runs the part again on a tape of its own, and that backward.
    pub fn backward(
        self,
        output: Tensor,
        activations: &mut Activations,
        gradients: &mut Gradients,
        (compute, mode): (lowrank_kernels::Compute, Mode),
    ) -> Result<()> {
        let mut tape = Tape::new(compute, mode);
        tape.sites = self.sites;
        let outer: Vec<Option<VarId>> = self.inputs.iter().map(|input| input.id).collect();
        let inputs: Vec<Var> = self
            .inputs
            .into_iter()
            .map(|input| Var { id: input.id.map(|_| tape.variable()), ..input })
            .collect();
        let inner: Vec<Option<VarId>> = inputs.iter().map(|input| input.id).collect();
        let again = (self.part)(&mut tape, &inputs)?;
        drop(inputs);
        let Some(id) = again.id else {
            return Err(Error::Usage("a part of a model that is run again must do the same".into()));
        };
        drop(again);
        let mut within = tape.run_backward(id, output, gradients)?;
        for (outer, inner) in outer.into_iter().zip(inner) {
            if let Some((outer, gradient)) = outer.zip(inner.and_then(|inner| within.take(inner))) {
                activations.add(outer, gradient);
            }
        }
        Ok(())
    }
}
