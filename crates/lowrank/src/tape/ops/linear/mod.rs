//! Linear layers with their adapters.
//!
//! Layers that read the same input (query, key and value) are one operation: their outputs stand side by side, and
//! the `A` matrices of their adapters are one product. `B·A` is never formed.

mod stack;

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::gemm::weight_gradient;
use lowrank_kernels::row_ops::column_sums;
use lowrank_kernels::{Compute, Element, Rows};

use self::stack::{Part, Stack, stack};
use super::block::{block, block_mut};
use super::with_rows;
use crate::tape::{
    Activations, Backward, Gradients, Layout, Leaf, Lora, Named, Operand, Parameter, Tape, Var, VarId,
};
use crate::tensor::{DType, Tensor};
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
///
/// # Shapes
/// `x`: `[tokens, inputs]`. The result: `[tokens, Σ outputs]`.
///
/// # Errors
/// If the branches' inputs are not as wide as `x`, or a parameter has no value.
///
/// # Source
/// Hu et al., LoRA (arXiv 2106.09685), equation 3; dropout on the adapter's input as in PEFT, one mask a layer.
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
        bases.extend(resolve_bases(branch, x.layout(), &columns, compute)?);
        for (range, adapter) in x.layout().segments() {
            for lora in branch.lora.iter().filter(|lora| Some(lora.adapter) == adapter) {
                parts.push(Part {
                    rows: range.clone(),
                    columns: columns.clone(),
                    branch: index,
                    lora: lora.clone(),
                });
            }
        }
    }
    let stacks = stack(parts, &sites);

    let mut y = Tensor::uninit([rows, width], x.value().dtype());
    let down: Vec<Tensor> = with_rows!(compute, T => {
        for base in &bases {
            let bias = base.bias_vector();
            let bias = bias.as_ref().map(|bias| bias.as_slice::<f32>());
            let out = block_mut::<T>(&mut y, &base.rows, &base.columns);
            base.weight.forward(block::<T>(x.value(), &base.rows, &(0..inputs)), bias, out);
        }
        stacks.iter().map(|stack| stack.forward::<T>(x.value(), x.layout(), &mut y)).collect()
    });

    let trained = tape.is_recording()
        && (bases.iter().any(Base::is_trainable) || stacks.iter().any(Stack::is_trainable));
    let backward = (trained || x.needs_gradient()).then(|| {
        let reads_input = tape.is_recording()
            && (bases.iter().any(|base| base.master.is_trainable()) || stacks.iter().any(Stack::trains_a));
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

/// The base layer of one branch on a run of rows.
struct Base {
    rows: Range<usize>,
    columns: Range<usize>,
    weight: Operand,
    master: Leaf,
    bias: Option<Leaf>,
    /// What adapters add to the bias, each with its scaling.
    added: Vec<(f32, Leaf)>,
}

impl Base {
    fn is_trainable(&self) -> bool {
        let biases = self.bias.iter().chain(self.added.iter().map(|(_, bias)| bias));
        self.master.is_trainable() || biases.into_iter().any(Leaf::is_trainable)
    }

    /// The whole bias in f32.
    fn bias_vector(&self) -> Option<Tensor> {
        let mut sum = self.bias.as_ref().map(Leaf::vector);
        for (scaling, bias) in &self.added {
            let sum = sum.get_or_insert_with(|| Tensor::zeros(bias.value().shape(), DType::F32));
            let values = bias.value().as_slice::<f32>();
            sum.make_mut::<f32>().iter_mut().zip(values).for_each(|(sum, bias)| *sum += scaling * bias);
        }
        sum
    }

    /// Adds the gradients of the biases, of which `dy` is the outputs'.
    fn bias_backward<T: Element>(&self, dy: Rows<'_, T>, gradients: &mut Gradients) {
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.is_trainable()) {
            column_sums(dy, gradients.accumulator(bias));
        }
        let added: Vec<_> = self.added.iter().filter(|(_, bias)| bias.is_trainable()).collect();
        if !added.is_empty() {
            let mut sums = vec![0.0; self.columns.len()];
            column_sums(dy, &mut sums);
            for (scaling, bias) in added {
                let into = gradients.accumulator(bias);
                into.iter_mut().zip(&sums).for_each(|(gradient, sum)| *gradient += scaling * sum);
            }
        }
    }
}

fn resolve_bases(
    branch: &Branch<'_>,
    layout: &Layout,
    columns: &Range<usize>,
    compute: Compute,
) -> Result<Vec<Base>> {
    let mut bases: Vec<Base> = Vec::new();
    for (rows, adapter) in layout.segments() {
        let master = branch.weight.active_or_tied(adapter, branch.tied)?;
        let bias = branch.bias.map(|bias| bias.active(adapter)).transpose()?;
        let own = branch.lora.iter().filter(|lora| Some(lora.adapter) == adapter);
        let added: Vec<(f32, Leaf)> =
            own.filter_map(|lora| Some((lora.scaling, lora.bias.clone()?))).collect();
        if let Some(last) = bases.last_mut()
            && last.master.id() == master.id()
            && last.bias.as_ref().map(Leaf::id) == bias.map(Leaf::id)
            && last.added.iter().map(|(_, bias)| bias.id()).eq(added.iter().map(|(_, bias)| bias.id()))
        {
            last.rows.end = rows.end;
            continue;
        }
        let weight = master.operand(compute);
        bases.push(Base {
            rows,
            columns: columns.clone(),
            weight,
            master: master.clone(),
            bias: bias.cloned(),
            added,
        });
    }
    Ok(bases)
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
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, gradients: &mut Gradients) {
        let rows = dy.shape().rows();
        let mut dx = self.input.map(|_| Tensor::uninit([rows, self.inputs], dy.dtype()));
        with_rows!(self.compute, T => {
            for base in &self.bases {
                let dy = block::<T>(&dy, &base.rows, &base.columns);
                base.bias_backward(dy, gradients);
                if let Some(x) = self.x.as_ref().filter(|_| base.master.is_trainable()) {
                    let x = block::<T>(x, &base.rows, &(0..self.inputs));
                    weight_gradient(dy, x, gradients.accumulator(&base.master));
                }
                if let Some(dx) = &mut dx {
                    // The first branch assigns, the others add.
                    let accumulate = base.columns.start > 0;
                    let dx = block_mut::<T>(dx, &base.rows, &(0..self.inputs));
                    base.weight.backward(dy, dx, accumulate);
                }
            }
            for (stack, u) in self.stacks.iter().zip(&self.down) {
                stack.backward::<T>(self.x.as_ref(), &self.layout, u, &dy, dx.as_mut(), gradients);
            }
        });
        if let Some((input, dx)) = self.input.zip(dx) {
            activations.add(input, dx);
        }
    }
}
