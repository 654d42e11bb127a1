//! Linear layers with their adapters.
//!
//! Layers that read the same input (query, key and value) are one operation: their outputs stand side by side, and
//! the `A` matrices of their adapters are one product. `B·A` is never formed.

mod base;
mod grouped;
mod stack;

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::Compute;

pub(super) use self::base::add_magnitude_gradient;
use self::base::{Base, resolve};
use self::stack::{Part, Stack, stack};
use super::with_rows;
use crate::tape::{
    Activations, AdapterId, Backward, Gradients, Layout, Leaf, Lora, Named, Parameter, Tape, Var, VarId,
    offsets_of,
};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// One linear layer of several that share an input.
pub struct Branch<'a> {
    /// `W`: `[outputs, inputs]`, or `[outputs, inputs/groups]`.
    pub weight: &'a Parameter,
    /// How many blocks of its rows there are, each of which reads its own part of the inputs: one, but for convolutions.
    pub groups: usize,
    /// The parameter that the weight is another name of.
    pub tied: Option<&'a Parameter>,
    /// `b`: `[outputs]`.
    pub bias: Option<&'a Parameter>,
    /// The adapters attached to the layer, of which each sequence uses its own.
    pub lora: &'a [Lora],
}

impl Branch<'_> {
    /// Checks that it reads rows of `inputs`, and that its pairs are for its groups.
    fn check(&self, inputs: usize) -> Result<()> {
        let (name, shape, groups) = (self.weight.name(), self.weight.shape(), self.groups);
        if groups == 0 || shape.width().checked_mul(groups) != Some(inputs) {
            let reads = shape.width().saturating_mul(groups);
            return Err(Error::Usage(format!("{name} reads rows of {reads}, not of {inputs}")));
        }
        if !shape.rows().is_multiple_of(groups) {
            return Err(Error::Usage(format!("{name} is {shape}, which cannot be cut into {groups} groups")));
        }
        let other = |lora: &Lora| lora.groups() != groups || (groups > 1 && lora.magnitude.is_some());
        match self.lora.iter().find(|lora| other(lora)) {
            None => Ok(()),
            Some(_) => {
                Err(Error::Usage(format!("a pair of {name} is not for {groups} groups, or has a magnitude")))
            }
        }
    }
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
    linear_beside(tape, x, None, branches)
}

/// As [`linear`], of layers side by side in their rows: each reads rows of its own, which together are all, and their
/// outputs are of one width.
///
/// What is trained of a layer without rows, or of one without rows of an adapter in the batch, has a gradient of zero.
///
/// # Shapes
/// `x`: `[tokens, inputs]`. The result: `[tokens, outputs]`.
///
/// # Errors
/// As [`linear`]; if there are not as many ranges of rows as layers, one after the other over all of `x`, or the widths
/// differ.
pub fn linear_of_rows(
    tape: &mut Tape,
    x: &Var,
    branches: &[Branch<'_>],
    rows: &[Range<usize>],
) -> Result<Var> {
    let width = branches.first().map_or(0, |branch| branch.weight.shape().rows());
    let end = rows.iter().try_fold(0, |end, rows| (rows.start == end).then_some(rows.end));
    if rows.len() != branches.len() || end != Some(x.value().shape().rows()) {
        return Err(Error::Usage("layers with rows of their own do not share out all rows".into()));
    }
    if branches.iter().any(|branch| branch.weight.shape().rows() != width) {
        return Err(Error::Usage("layers with rows of their own have outputs of different widths".into()));
    }
    let place = |(branch, rows): (_, &Range<usize>)| Placed { branch, rows: rows.clone(), columns: 0..width };
    let placed: Vec<_> = branches.iter().zip(rows).map(place).collect();
    placed_linear(tape, x, None, &placed, Reading::Own)
}

/// As [`linear`], where `dropped` is the input of adapters with dropout: without it, masks are drawn here.
pub(super) fn linear_beside(
    tape: &mut Tape,
    x: &Var,
    dropped: Option<&Var>,
    branches: &[Branch<'_>],
) -> Result<Var> {
    let widths: Vec<usize> = branches.iter().map(|branch| branch.weight.shape().rows()).collect();
    let offsets = offsets_of(&widths);
    let rows = 0..x.value().shape().rows();
    let place =
        |(branch, pair): (_, &[usize])| Placed { branch, rows: rows.clone(), columns: pair[0]..pair[1] };
    let placed: Vec<_> = branches.iter().zip(offsets.windows(2)).map(place).collect();
    placed_linear(tape, x, dropped, &placed, Reading::All)
}

/// A layer, the rows that it reads, and where its outputs are.
struct Placed<'b, 'a> {
    branch: &'b Branch<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// Which rows layers read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// All of them read the same.
    All,
    /// Each reads its own.
    Own,
}

fn placed_linear(
    tape: &mut Tape,
    x: &Var,
    dropped: Option<&Var>,
    placed: &[Placed<'_, '_>],
    reading: Reading,
) -> Result<Var> {
    let (rows, inputs) = x.value().rows_and_width();
    let compute = x.compute();
    let width = placed.iter().map(|placed| placed.columns.end).max().unwrap_or(0);
    let (mut bases, mut parts, mut sites, mut idle) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let all_segments = x.layout().segments();
    for (index, Placed { branch, rows, columns }) in placed.iter().enumerate() {
        branch.check(inputs)?;
        // A site is taken for every branch, adapted or not, so that masks do not depend on the targets.
        let dropout = branch.lora.iter().map(|lora| lora.dropout).fold(0.0, f32::max);
        sites.push(tape.dropout_site(dropout));
        let segments = within(&all_segments, rows);
        match reading {
            Reading::All => tape.show(branch.weight.name(), x.value()),
            Reading::Own => idle.extend(untouched(branch, x.layout(), &segments)),
        }
        if rows.is_empty() {
            continue;
        }
        bases.extend(resolve(branch, &segments, columns, sites[index], dropped.is_some(), compute)?);
        for (range, adapter) in segments {
            let own = branch.lora.iter().filter(|lora| Some(lora.adapter) == adapter);
            for lora in own.flat_map(|lora| [Some(lora.clone()), lora.taken_off()]).flatten() {
                parts.push(Part { rows: range.clone(), columns: columns.clone(), branch: index, lora });
            }
        }
    }
    let stacks = stack(parts, &sites, dropped.is_some());
    let input = Input { rows: x.value(), dropped: dropped.map(Var::value) };

    let mut y = Tensor::uninit([rows, width], x.value().dtype());
    let recording = tape.is_recording();
    let down: Vec<Tensor> = with_rows!(compute, T => {
        bases.iter_mut().for_each(|base| base.forward::<T>(&input, x.layout(), &mut y));
        let down = stacks.iter().map(|stack| stack.forward::<T>(&input, x.layout(), &mut y)).collect();
        bases.iter_mut().for_each(|base| base.finish::<T>(&input, recording, &mut y));
        down
    });

    let trained = recording
        && (!idle.is_empty()
            || bases.iter().any(Base::is_trainable)
            || stacks.iter().any(Stack::is_trainable));
    let backward = (trained || x.needs_gradient()).then(|| {
        let reads_input =
            recording && (bases.iter().any(Base::trains_rows) || stacks.iter().any(Stack::trains_a));
        Box::new(LinearBackward {
            input: x.id(),
            dropped_input: dropped.and_then(Var::id),
            x: reads_input.then(|| x.value().clone()),
            dropped: dropped.filter(|_| reads_input).map(|dropped| dropped.value().clone()),
            layout: Arc::clone(x.layout()),
            inputs,
            bases,
            stacks,
            down,
            idle,
            compute,
        }) as Box<dyn Backward>
    });
    tape.finish(|| Named::Module(names(placed)), y, x.layout(), backward)
}

/// Neighbouring rows with the same adapter.
type Segment = (Range<usize>, Option<AdapterId>);

/// The part of segments, which are in order, that is within `rows`.
fn within(segments: &[Segment], rows: &Range<usize>) -> Vec<Segment> {
    let first = segments.partition_point(|(own, _)| own.end <= rows.start);
    let own = segments[first..].iter().take_while(|(own, _)| own.start < rows.end);
    let clipped = own.map(|(own, adapter)| (own.start.max(rows.start)..own.end.min(rows.end), *adapter));
    clipped.filter(|(own, _)| !own.is_empty()).collect()
}

/// What a layer trains under the adapters of a batch and no row of its own is under.
fn untouched(branch: &Branch<'_>, layout: &Layout, segments: &[Segment]) -> Vec<Leaf> {
    let has_rows = |adapter| segments.iter().any(|(_, own)| *own == adapter);
    let is_untouched =
        |lora: &&Lora| layout.adapters().contains(&Some(lora.adapter)) && !has_rows(Some(lora.adapter));
    let pairs = branch.lora.iter().filter(is_untouched);
    let pairs = pairs.flat_map(|lora| lora.leaves().map(|(_, leaf)| leaf.clone()));
    let own = branch.weight.base().into_iter().chain(branch.bias.and_then(Parameter::base));
    let own = own.filter(|_| segments.is_empty()).cloned();
    own.chain(pairs).filter(Leaf::is_trainable).collect()
}

fn names(placed: &[Placed<'_, '_>]) -> String {
    let module = |p: &Placed<'_, '_>| p.branch.weight.name().trim_end_matches(".weight").to_owned();
    placed.iter().map(module).collect::<Vec<_>>().join(", ")
}

/// What a layer reads.
struct Input<'a> {
    /// `x`.
    rows: &'a Tensor,
    /// `dropout(x)`, where it is given.
    dropped: Option<&'a Tensor>,
}

impl<'a> Input<'a> {
    /// `x`, or what is given as `dropout(x)`.
    fn of(&self, dropped: bool) -> &'a Tensor {
        self.dropped.filter(|_| dropped).unwrap_or(self.rows)
    }
}

/// The gradients of what a layer reads, where they are needed.
struct InputGradients {
    /// That of `x`.
    rows: Option<Tensor>,
    /// That of what is given as `dropout(x)`.
    dropped: Option<Tensor>,
}

impl InputGradients {
    fn of(&mut self, dropped: bool) -> Option<&mut Tensor> {
        if dropped { self.dropped.as_mut() } else { self.rows.as_mut() }
    }
}

struct LinearBackward {
    input: Option<VarId>,
    dropped_input: Option<VarId>,
    /// Kept only where an `A` or a weight is trained, as is what is given as `dropout(x)`.
    x: Option<Tensor>,
    dropped: Option<Tensor>,
    layout: Arc<Layout>,
    inputs: usize,
    bases: Vec<Base>,
    stacks: Vec<Stack>,
    /// `dropout(x)·Aᵀ` of each stack.
    down: Vec<Tensor>,
    /// What is trained and has no rows.
    idle: Vec<Leaf>,
    compute: Compute,
}

impl Backward for LinearBackward {
    fn backward(self: Box<Self>, mut dy: Tensor, activations: &mut Activations, gradients: &mut Gradients) {
        for leaf in &self.idle {
            gradients.accumulator(leaf);
        }
        let shape = [dy.shape().rows(), self.inputs];
        let mut dx = InputGradients {
            rows: self.input.map(|_| Tensor::uninit(shape, dy.dtype())),
            // Not every row is written to.
            dropped: self.dropped_input.map(|_| Tensor::zeros(shape, dy.dtype())),
        };
        let input = self.x.as_ref().map(|rows| Input { rows, dropped: self.dropped.as_ref() });
        let input = input.as_ref();
        with_rows!(self.compute, T => {
            for base in &self.bases {
                base.backward::<T>(input, &self.layout, &mut dy, &mut dx, gradients);
            }
            for (stack, u) in self.stacks.iter().zip(&self.down) {
                stack.backward::<T>(input, &self.layout, u, &dy, &mut dx, gradients);
            }
        });
        let of_inputs = [(self.input, dx.rows), (self.dropped_input, dx.dropped)];
        for (input, dx) in of_inputs.into_iter().filter_map(|(input, dx)| input.zip(dx)) {
            activations.add(input, dx);
        }
    }
}
