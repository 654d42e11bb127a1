//! Linear layers with their adapters.
//!
//! Layers that read the same input (query, key and value) are one operation: their outputs stand side by side, and
//! the `A` matrices of their adapters are one product. `B·A` is never formed.

mod base;
mod stack;

use std::sync::Arc;

use lowrank_kernels::Compute;

pub(super) use self::base::add_magnitude_gradient;
use self::base::{Base, resolve};
use self::stack::{Part, Stack, stack};
use super::block::{block, block_mut};
use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Layout, Lora, Named, Parameter, Tape, Var, VarId};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// One linear layer of several that share an input.
pub struct Branch<'a> {
    /// `W`: `[outputs, inputs]`.
    pub weight: &'a Parameter,
    /// The parameter that the weight is another name of.
    pub tied: Option<&'a Parameter>,
    /// `b`: `[outputs]`.
    pub bias: Option<&'a Parameter>,
    /// The adapters attached to the layer, of which each sequence uses its own.
    pub lora: &'a [Lora],
}

/// `x·Wᵀ + b + s·((dropout(x)·Aᵀ)·Bᵀ + b')` for each branch, the results side by side; few adapters have a bias `b'`.
/// Where an adapter has a magnitude, what is without dropout `(x·Wᵀ + s·(x·Aᵀ)·Bᵀ)∘m/‖W + s·B·A‖ + b`.
///
/// # Shapes
/// `x`: `[tokens, inputs]`. The result: `[tokens, Σ outputs]`.
///
/// # Errors
/// If the branches' inputs are not as wide as `x`, or a parameter has no value.
///
/// # Source
/// Hu et al., LoRA (arXiv 2106.09685), equation 3; Liu et al., DoRA (arXiv 2402.09353), equation 5. Dropout on the
/// adapter's input as in PEFT, one mask a layer; a magnitude less 1 scales what the layer gives of that input, too.
pub fn linear(tape: &mut Tape, x: &Var, branches: &[Branch<'_>]) -> Result<Var> {
    let (rows, inputs) = x.value().rows_and_width();
    let compute = x.compute();
    let mut width = 0;
    let (mut bases, mut parts, mut sites) = (Vec::new(), Vec::new(), Vec::new());
    for (index, branch) in branches.iter().enumerate() {
        let shape = branch.weight.shape();
        if shape.width() != inputs {
            let name = branch.weight.name();
            return Err(Error::Usage(format!("{name} reads rows of {}, not of {inputs}", shape.width())));
        }
        let columns = width..width + shape.rows();
        width = columns.end;
        // A site is taken for every branch, adapted or not, so that masks do not depend on the targets.
        let dropout = branch.lora.iter().map(|lora| lora.dropout).fold(0.0, f32::max);
        sites.push(tape.dropout_site(dropout));
        bases.extend(resolve(branch, x.layout(), &columns, sites[index], compute)?);
        for (range, adapter) in x.layout().segments() {
            let own = branch.lora.iter().filter(|lora| Some(lora.adapter) == adapter);
            for lora in own.flat_map(|lora| [Some(lora.clone()), lora.taken_off()]).flatten() {
                parts.push(Part { rows: range.clone(), columns: columns.clone(), branch: index, lora });
            }
        }
    }
    let stacks = stack(parts, &sites);

    let mut y = Tensor::uninit([rows, width], x.value().dtype());
    let recording = tape.is_recording();
    let down: Vec<Tensor> = with_rows!(compute, T => {
        bases.iter_mut().for_each(|base| base.forward::<T>(x.value(), x.layout(), &mut y));
        let down = stacks.iter().map(|stack| stack.forward::<T>(x.value(), x.layout(), &mut y)).collect();
        bases.iter_mut().for_each(|base| base.finish::<T>(x.value(), recording, &mut y));
        down
    });

    let trained =
        recording && (bases.iter().any(Base::is_trainable) || stacks.iter().any(Stack::is_trainable));
    let backward = (trained || x.needs_gradient()).then(|| {
        let reads_input =
            recording && (bases.iter().any(Base::trains_rows) || stacks.iter().any(Stack::trains_a));
        Box::new(LinearBackward {
            input: x.id(),
            x: reads_input.then(|| x.value().clone()),
            layout: Arc::clone(x.layout()),
            inputs,
            bases,
            stacks,
            down,
            compute,
        }) as Box<dyn Backward>
    });
    tape.finish(|| Named::Module(names(branches)), y, x.layout(), backward)
}

fn names(branches: &[Branch<'_>]) -> String {
    let module = |b: &Branch<'_>| b.weight.name().trim_end_matches(".weight").to_owned();
    branches.iter().map(module).collect::<Vec<_>>().join(", ")
}

struct LinearBackward {
    input: Option<VarId>,
    /// Kept only where an `A` or a weight is trained.
    x: Option<Tensor>,
    layout: Arc<Layout>,
    inputs: usize,
    bases: Vec<Base>,
    stacks: Vec<Stack>,
    /// `dropout(x)·Aᵀ` of each stack.
    down: Vec<Tensor>,
    compute: Compute,
}

impl Backward for LinearBackward {
    fn backward(self: Box<Self>, mut dy: Tensor, activations: &mut Activations, gradients: &mut Gradients) {
        let rows = dy.shape().rows();
        let mut dx = self.input.map(|_| Tensor::uninit([rows, self.inputs], dy.dtype()));
        let x = self.x.as_ref();
        with_rows!(self.compute, T => {
            for base in &self.bases {
                base.backward::<T>(x, &self.layout, &mut dy, dx.as_mut(), gradients);
            }
            for (stack, u) in self.stacks.iter().zip(&self.down) {
                stack.backward::<T>(x, &self.layout, u, &dy, dx.as_mut(), gradients);
            }
        });
        if let Some((input, dx)) = self.input.zip(dx) {
            activations.add(input, dx);
        }
    }
}
