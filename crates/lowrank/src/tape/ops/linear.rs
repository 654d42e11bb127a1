//! Linear layers with their adapters.
//!
//! Layers that read the same input (query, key and value) are one operation: their outputs stand side by side, and
//! the `A` matrices of their adapters are one product. `B·A` is never formed.

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::gemm::{Weight, weight_gradient};
use lowrank_kernels::row_ops::column_sums;
use lowrank_kernels::{Compute, Element, Rows, RowsMut, low_rank};

use super::with_rows;
use crate::tape::{
    Activations, Backward, DropoutSite, Gradients, Layout, Leaf, Lora, Parameter, Tape, Var, VarId,
};
use crate::tensor::{DType, Stored, Tensor};
use crate::{Error, Result};

/// One linear layer of several that share an input.
pub struct Branch<'a> {
    /// `W`: `[outputs, inputs]`.
    pub weight: &'a Parameter,
    /// `b`: `[outputs]`.
    pub bias: Option<&'a Parameter>,
    /// The adapters attached to the layer, of which each sequence uses its own.
    pub lora: &'a [Lora],
}

/// `x·Wᵀ + b + s·(dropout(x)·Aᵀ)·Bᵀ` for each branch, the results side by side.
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
            let bias = base.bias.as_ref().map(Leaf::vector);
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
    tape.finish(|| format!("the output of {}", names(branches)), y, x.layout(), backward)
}

fn names(branches: &[Branch<'_>]) -> String {
    let module = |b: &Branch<'_>| b.weight.name().trim_end_matches(".weight").to_owned();
    branches.iter().map(module).collect::<Vec<_>>().join(", ")
}

/// The base layer of one branch on a run of rows.
struct Base {
    rows: Range<usize>,
    columns: Range<usize>,
    weight: Arc<Weight>,
    master: Leaf,
    bias: Option<Leaf>,
}

impl Base {
    fn is_trainable(&self) -> bool {
        self.master.is_trainable() || self.bias.as_ref().is_some_and(Leaf::is_trainable)
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
        let master = branch.weight.active(adapter)?;
        let bias = branch.bias.map(|bias| bias.active(adapter)).transpose()?;
        if let Some(last) = bases.last_mut()
            && last.master.id() == master.id()
            && last.bias.as_ref().map(Leaf::id) == bias.map(Leaf::id)
        {
            last.rows.end = rows.end;
            continue;
        }
        let weight = master.weight(compute);
        bases.push(Base {
            rows,
            columns: columns.clone(),
            weight,
            master: master.clone(),
            bias: bias.cloned(),
        });
    }
    Ok(bases)
}

/// One adapter of one branch on a run of rows.
struct Part {
    rows: Range<usize>,
    columns: Range<usize>,
    branch: usize,
    lora: Lora,
}

/// Adapters of several branches that read the same rows under the same mask: their `A` are one matrix.
struct Stack {
    rows: Range<usize>,
    site: Option<DropoutSite>,
    parts: Vec<Part>,
    /// The `A` matrices one below the other: `[Σ r, inputs]`.
    a: Tensor,
}

/// Joins the parts that can share a product.
fn stack(parts: Vec<Part>, sites: &[Option<DropoutSite>]) -> Vec<Stack> {
    let mut groups: Vec<(Range<usize>, Option<DropoutSite>, Vec<Part>)> = Vec::new();
    for part in parts {
        let site = sites[part.branch].filter(|_| part.lora.dropout > 0.0);
        let site = site.map(|site| DropoutSite { probability: part.lora.dropout, ..site });
        let shared = groups
            .iter_mut()
            .find(|(rows, other, _)| *rows == part.rows && site.is_none() && other.is_none());
        match shared {
            Some((_, _, group)) => group.push(part),
            None => groups.push((part.rows.clone(), site, vec![part])),
        }
    }
    groups
        .into_iter()
        .map(|(rows, site, parts)| {
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
            Stack { rows, site, parts, a }
        })
        .collect()
}

impl Stack {
    fn trains_a(&self) -> bool {
        self.parts.iter().any(|part| part.lora.a.is_trainable())
    }

    fn is_trainable(&self) -> bool {
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

    /// Adds the adapters' output to `y` and returns `dropout(x)·Aᵀ`.
    fn forward<T: Element + Stored>(&self, x: &Tensor, layout: &Layout, y: &mut Tensor) -> Tensor {
        let (tokens, inputs) = (self.rows.len(), self.a.shape().width());
        let mut u = Tensor::uninit([tokens, self.rank()], DType::F32);
        low_rank::down(
            block::<T>(x, &self.rows, &(0..inputs)),
            self.a.as_slice::<f32>(),
            self.site.map(|site| site.on(layout, self.rows.clone())).as_ref(),
            RowsMut::dense(u.make_mut::<f32>(), tokens, self.rank()),
        );
        for (part, ranks) in self.ranks() {
            low_rank::up(
                block::<f32>(&u, &(0..tokens), &ranks),
                part.lora.b.value().as_slice::<f32>(),
                part.lora.scaling,
                block_mut::<T>(y, &part.rows, &part.columns),
            );
        }
        u
    }

    /// Adds the gradients of `A` and `B`, and the adapters' part of `dx`.
    fn backward<T: Element + Stored>(
        &self,
        x: Option<&Tensor>,
        layout: &Layout,
        u: &Tensor,
        dy: &Tensor,
        dx: Option<&mut Tensor>,
        gradients: &mut Gradients,
    ) {
        let (tokens, inputs, rank) = (self.rows.len(), self.a.shape().width(), self.rank());
        let site = self.site.map(|site| site.on(layout, self.rows.clone()));
        let mut du = Tensor::uninit([tokens, rank], DType::F32);
        for (part, ranks) in self.ranks() {
            let dy = block::<T>(dy, &part.rows, &part.columns);
            let (b, scaling) = (&part.lora.b, part.lora.scaling);
            let du = block_mut::<f32>(&mut du, &(0..tokens), &ranks);
            low_rank::up_backward(dy, b.value().as_slice::<f32>(), scaling, du);
            if b.is_trainable() {
                let u = block::<f32>(u, &(0..tokens), &ranks);
                low_rank::outer_transposed(dy, u, scaling, gradients.accumulator(b));
            }
        }
        let du = Rows::dense(du.as_slice::<f32>(), tokens, rank);
        if let Some(x) = x.filter(|_| self.trains_a()) {
            let x = block::<T>(x, &self.rows, &(0..inputs));
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
        if let Some(dx) = dx {
            let dx = block_mut::<T>(dx, &self.rows, &(0..inputs));
            low_rank::down_backward(du, self.a.as_slice::<f32>(), site.as_ref(), dx);
        }
    }
}

fn block<'a, T: Stored>(tensor: &'a Tensor, rows: &Range<usize>, columns: &Range<usize>) -> Rows<'a, T> {
    let (all, width) = tensor.rows_and_width();
    Rows::columns(tensor.as_slice::<T>(), all, width, columns.start, columns.len())
        .slice(rows.start, rows.end)
}

fn block_mut<'a, T: Stored>(
    tensor: &'a mut Tensor,
    rows: &Range<usize>,
    columns: &Range<usize>,
) -> RowsMut<'a, T> {
    let (_, width) = tensor.rows_and_width();
    let data = &mut tensor.make_mut::<T>()[rows.start * width..rows.end * width];
    RowsMut::columns(data, rows.len(), width, columns.start, columns.len())
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
                if let Some(bias) = base.bias.as_ref().filter(|bias| bias.is_trainable()) {
                    column_sums(dy, gradients.accumulator(bias));
                }
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
