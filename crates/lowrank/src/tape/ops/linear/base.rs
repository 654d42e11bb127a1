//! The layers below the adapters.

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::row_ops::{add_rows, column_sums};
use lowrank_kernels::{Compute, Element, Rows, RowsMut, dropout, low_rank, magnitude};

use super::grouped::Grouped;
use super::{Branch, Input, InputGradients};
use crate::Result;
use crate::tape::ops::block::{add, all, all_mut, block, block_mut, copy, rows_of};
use crate::tape::{AdapterId, DropoutSite, Gradients, Layout, Leaf, Lora, Magnitude, TokenRows};
use crate::tensor::{DType, Stored, Tensor};

/// The base layer of one branch on a run of rows.
pub(super) struct Base {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    weight: Grouped,
    pub(super) master: Leaf,
    bias: Option<Leaf>,
    /// What adapters add to the bias, each with its scaling.
    added: Vec<(f32, Leaf)>,
    /// The lengths that an adapter gives the rows of the weight.
    decomposed: Option<Decomposed>,
    /// Rows of the weight that an adapter has values of its own for: it is tied to a table.
    tokens: Option<TokenRows>,
}

/// A weight of which an adapter sets the magnitude: `y = b + g∘p`, where `p = W·x + s·B·A·x` is made by the layer and its
/// stack. With dropout, which PEFT applies to what both read, `y = b + W·x + g∘p − W·x'` with `p` of `x' = dropout(x)`.
struct Decomposed {
    magnitude: Magnitude,
    norms: Arc<[f32]>,
    /// `g`: the magnitude over the norms.
    factors: Vec<f32>,
    /// Where `x'` is other than `x`.
    dropout: Option<Dropped>,
    /// `W·x'`, until the output is made.
    dropped: Option<Tensor>,
    /// `p`, where the magnitude is trained.
    kept: Option<Tensor>,
}

/// How `x'` comes about.
#[derive(Clone, Copy)]
enum Dropped {
    /// By a mask of this place.
    At(DropoutSite),
    /// It is given.
    Given,
}

impl Base {
    pub(super) fn is_trainable(&self) -> bool {
        let added = self.added.iter().map(|(_, bias)| bias);
        let magnitude = self.decomposed.iter().map(|decomposed| &decomposed.magnitude.vector);
        let vectors = self.bias.iter().chain(added).chain(magnitude);
        self.trains_rows() || vectors.into_iter().any(Leaf::is_trainable)
    }

    /// Whether a gradient is made of the input.
    pub(super) fn trains_rows(&self) -> bool {
        let tokens = self.tokens.as_ref().is_some_and(|tokens| tokens.values.is_trainable());
        tokens || self.master.is_trainable()
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

    /// Assigns the layer's output, or its part of `p`.
    pub(super) fn forward<T: Element + Stored>(&mut self, x: &Input<'_>, layout: &Layout, y: &mut Tensor) {
        let bias = self.bias_vector();
        let bias = bias.as_ref().map(|bias| bias.as_slice::<f32>());
        let Self { rows, columns, weight, .. } = self;
        let own = rows_of::<T>(x.rows, rows);
        let mut y = block_mut::<T>(y, rows, columns);
        let Some(decomposed) = &mut self.decomposed else {
            weight.forward(own, bias, y.reborrow());
            let tokens = self.tokens.iter();
            return tokens.for_each(|tokens| write_token_columns(tokens, own, bias, y.reborrow()));
        };
        let Some(dropout) = decomposed.dropout else { return weight.forward(own, None, y) };
        let dropped = dropped::<T>(x, dropout, layout, rows);
        let mut product = Tensor::uninit([rows.len(), columns.len()], T::DTYPE);
        weight.forward(all::<T>(&dropped), None, all_mut::<T>(&mut product));
        copy(all::<T>(&product), y);
        decomposed.dropped = Some(product);
    }

    /// Makes the output of `p`, to which the stacks have added their parts.
    pub(super) fn finish<T: Element + Stored>(&mut self, x: &Input<'_>, trained: bool, y: &mut Tensor) {
        let bias = self.bias_vector();
        let bias = bias.as_ref().map(|bias| bias.as_slice::<f32>());
        let Some(decomposed) = &mut self.decomposed else { return };
        let (rows, columns) = (&self.rows, &self.columns);
        if trained && decomposed.magnitude.vector.is_trainable() {
            let mut kept = Tensor::uninit([rows.len(), columns.len()], T::DTYPE);
            copy(block::<T>(y, rows, columns), all_mut::<T>(&mut kept));
            decomposed.kept = Some(kept);
        }
        let Some(mut rest) = decomposed.dropped.take() else {
            let y = block_mut::<T>(y, rows, columns);
            return magnitude::scale_columns(&decomposed.factors, bias, y);
        };
        magnitude::scale_columns(&decomposed.factors, None, block_mut::<T>(y, rows, columns));
        // W·x + b − W·x', of the layer that no dropout reaches.
        let mut whole = Tensor::uninit(rest.shape(), rest.dtype());
        self.weight.forward(rows_of::<T>(x.rows, rows), bias, all_mut::<T>(&mut whole));
        lowrank_kernels::elementwise::scale(rest.make_mut::<T>(), -1.0);
        lowrank_kernels::elementwise::add_assign(rest.make_mut::<T>(), whole.as_slice::<T>());
        add(all::<T>(&rest), block_mut::<T>(y, rows, columns));
    }

    /// Adds the layer's gradients and its part of `dx`. What is left in `dy` is the gradient of `p`.
    pub(super) fn backward<T: Element + Stored>(
        &self,
        input: Option<&Input<'_>>,
        layout: &Layout,
        dy: &mut Tensor,
        dx: &mut InputGradients,
        gradients: &mut Gradients,
    ) {
        let (rows, columns) = (&self.rows, &self.columns);
        let whole = input.map(|x| rows_of::<T>(x.rows, rows));
        let input = input.filter(|_| self.master.is_trainable());
        let x = input.map(|x| rows_of::<T>(x.rows, rows));
        // The first branch assigns, the others add.
        let accumulate = columns.start > 0;
        self.bias_backward(block::<T>(dy, rows, columns), gradients);
        let Some(decomposed) = &self.decomposed else {
            let taken = self
                .tokens
                .as_ref()
                .map(|tokens| take_token_columns(tokens, block_mut::<T>(dy, rows, columns)));
            self.product_backward::<T>(x, block(dy, rows, columns), dx.rows.as_mut(), accumulate, gradients);
            if let Some((tokens, taken)) = self.tokens.as_ref().zip(taken) {
                self.token_backward::<T>(tokens, &taken, whole, dx.rows.as_mut(), gradients);
                put_token_columns(tokens, &taken, block_mut::<T>(dy, rows, columns));
            }
            return;
        };
        decomposed.magnitude_backward(block::<T>(dy, rows, columns), gradients);
        let Some(dropout) = decomposed.dropout else {
            magnitude::scale_columns(&decomposed.factors, None, block_mut::<T>(dy, rows, columns));
            let dx = dx.rows.as_mut();
            return self.product_backward::<T>(x, block(dy, rows, columns), dx, accumulate, gradients);
        };
        self.product_backward::<T>(x, block(dy, rows, columns), dx.rows.as_mut(), accumulate, gradients);
        // The layer's part of p reads x', and was taken off: (g − 1)∘dy.
        let mut rest = Tensor::uninit([rows.len(), columns.len()], T::DTYPE);
        copy(block::<T>(dy, rows, columns), all_mut::<T>(&mut rest));
        let less_one: Vec<f32> = decomposed.factors.iter().map(|factor| factor - 1.0).collect();
        magnitude::scale_columns(&less_one, None, all_mut::<T>(&mut rest));
        if let Some(input) = input {
            let dropped = dropped::<T>(input, dropout, layout, rows);
            let gradient = gradients.accumulator(&self.master);
            self.weight.gradient(all::<T>(&rest), all::<T>(&dropped), gradient);
        }
        if let Some(dx) = dx.of(matches!(dropout, Dropped::Given)) {
            let inputs = dx.shape().width();
            let mut product = Tensor::uninit([rows.len(), inputs], T::DTYPE);
            self.weight.backward(all::<T>(&rest), all_mut::<T>(&mut product), false);
            let mut sum = Tensor::uninit(product.shape(), product.dtype());
            let before = block::<T>(dx, rows, &(0..inputs));
            let site = match &dropout {
                Dropped::At(site) => Some(site.on(layout, rows.clone())),
                Dropped::Given => None,
            };
            add_rows(all::<T>(&product), site.as_ref(), before, all_mut::<T>(&mut sum));
            copy(all::<T>(&sum), block_mut::<T>(dx, rows, &(0..inputs)));
        }
        magnitude::scale_columns(&decomposed.factors, None, block_mut::<T>(dy, rows, columns));
    }

    /// Adds the gradients of rows of an adapter's own, of which `taken` is that of the outputs.
    fn token_backward<T: Element + Stored>(
        &self,
        own: &TokenRows,
        taken: &Tensor,
        x: Option<Rows<'_, T>>,
        dx: Option<&mut Tensor>,
        gradients: &mut Gradients,
    ) {
        if let Some(x) = x.filter(|_| own.values.is_trainable()) {
            low_rank::outer(all::<f32>(taken), x, None, 1.0, gradients.accumulator(&own.values));
        }
        if let Some(dx) = dx {
            let dx = block_mut::<T>(dx, &self.rows, &(0..dx.shape().width()));
            low_rank::down_backward(all::<f32>(taken), own.values.value().as_slice::<f32>(), None, dx);
        }
    }

    /// The gradients of `W·x` where `dy` is the output's.
    fn product_backward<T: Element + Stored>(
        &self,
        x: Option<Rows<'_, T>>,
        dy: Rows<'_, T>,
        dx: Option<&mut Tensor>,
        accumulate: bool,
        gradients: &mut Gradients,
    ) {
        if let Some(x) = x {
            self.weight.gradient(dy, x, gradients.accumulator(&self.master));
        }
        if let Some(dx) = dx {
            let inputs = dx.shape().width();
            self.weight.backward(dy, block_mut::<T>(dx, &self.rows, &(0..inputs)), accumulate);
        }
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

impl Decomposed {
    fn of(lora: &Lora, weight: &Leaf, dropout: Option<Dropped>) -> Option<Self> {
        let (magnitude, norms) = lora.magnitude_and_norms(weight, Lora::norms)?;
        let factors = magnitude.factors(&norms);
        let dropout = dropout.filter(|_| lora.dropout > 0.0);
        let dropout = dropout.map(|dropout| match dropout {
            Dropped::At(site) => Dropped::At(DropoutSite { probability: lora.dropout, ..site }),
            Dropped::Given => Dropped::Given,
        });
        Some(Self { magnitude: magnitude.clone(), norms, factors, dropout, dropped: None, kept: None })
    }

    /// Adds the gradient of `m`, of which `dy` is the outputs'.
    fn magnitude_backward<T: Element + Stored>(&self, dy: Rows<'_, T>, gradients: &mut Gradients) {
        if let Some(kept) = &self.kept {
            add_magnitude_gradient(dy, all::<T>(kept), &self.norms, &self.magnitude.vector, gradients);
        }
    }
}

/// Adds `Σ dy∘p/‖W + s·B·A‖`, the gradient of a magnitude.
pub(in crate::tape::ops) fn add_magnitude_gradient<T: Element>(
    dy: Rows<'_, T>,
    p: Rows<'_, T>,
    norms: &[f32],
    vector: &Leaf,
    gradients: &mut Gradients,
) {
    let mut sums = vec![0.0; norms.len()];
    magnitude::column_dots(dy, p, &mut sums);
    let into = gradients.accumulator(vector);
    for ((gradient, sum), norm) in into.iter_mut().zip(sums).zip(norms) {
        if *norm > 0.0 {
            *gradient += sum / norm;
        }
    }
}

/// Puts the outputs of rows of an adapter's own in the place of the weight's.
fn write_token_columns<T: Element>(
    own: &TokenRows,
    x: Rows<'_, T>,
    bias: Option<&[f32]>,
    mut y: RowsMut<'_, T>,
) {
    let mut made = Tensor::uninit([x.rows(), own.ids.len()], DType::F32);
    low_rank::down(x, own.values.value().as_slice::<f32>(), None, all_mut::<f32>(&mut made));
    for (row, made) in made.as_slice::<f32>().chunks_exact(own.ids.len().max(1)).enumerate() {
        let y = y.row(row);
        for (id, made) in own.ids.iter().zip(made) {
            let id = *id as usize;
            y[id] = T::round(made + bias.map_or(0.0, |bias| bias[id]));
        }
    }
}

/// Takes the gradient of the outputs of these rows, and leaves zeros: `[rows, ids]`.
fn take_token_columns<T: Element>(own: &TokenRows, mut dy: RowsMut<'_, T>) -> Tensor {
    let mut taken = Vec::with_capacity(dy.rows() * own.ids.len());
    for row in 0..dy.rows() {
        let dy = dy.row(row);
        taken
            .extend(own.ids.iter().map(|id| std::mem::replace(&mut dy[*id as usize], T::round(0.0)).widen()));
    }
    Tensor::from_slice([dy.rows(), own.ids.len()], &taken)
}

/// Puts back what [`take_token_columns`] took.
fn put_token_columns<T: Element>(own: &TokenRows, taken: &Tensor, mut dy: RowsMut<'_, T>) {
    for (row, taken) in taken.as_slice::<f32>().chunks_exact(own.ids.len().max(1)).enumerate() {
        let dy = dy.row(row);
        own.ids.iter().zip(taken).for_each(|(id, taken)| dy[*id as usize] = T::round(*taken));
    }
}

/// The base layers of a branch on each of the runs of rows.
pub(super) fn resolve(
    branch: &Branch<'_>,
    segments: &[(Range<usize>, Option<AdapterId>)],
    columns: &Range<usize>,
    site: Option<DropoutSite>,
    is_given: bool,
    compute: Compute,
) -> Result<Vec<Base>> {
    let dropout = if is_given { Some(Dropped::Given) } else { site.map(Dropped::At) };
    let mut bases: Vec<Base> = Vec::new();
    for (rows, adapter) in segments.iter().cloned() {
        let master = branch.weight.active_or_tied(adapter, branch.tied)?;
        let bias = branch.bias.map(|bias| bias.active(adapter)).transpose()?;
        let own = || branch.lora.iter().filter(|lora| Some(lora.adapter) == adapter);
        let added: Vec<(f32, Leaf)> =
            own().filter_map(|lora| Some((lora.scaling, lora.bias.clone()?))).collect();
        let decomposed = own().find_map(|lora| Decomposed::of(lora, master, dropout));
        let tokens = branch.weight.active_rows(adapter, branch.tied).cloned();
        if let Some(last) = bases.last_mut()
            && last.master.id() == master.id()
            && last.bias.as_ref().map(Leaf::id) == bias.map(Leaf::id)
            && last.added.iter().map(|(_, bias)| bias.id()).eq(added.iter().map(|(_, bias)| bias.id()))
            && [&last.decomposed, &decomposed].into_iter().all(Option::is_none)
            && [&last.tokens, &tokens].into_iter().all(Option::is_none)
        {
            last.rows.end = rows.end;
            continue;
        }
        let weight = Grouped::new(master, branch.groups, compute);
        bases.push(Base {
            rows,
            columns: columns.clone(),
            weight,
            master: master.clone(),
            bias: bias.cloned(),
            added,
            decomposed,
            tokens,
        });
    }
    Ok(bases)
}

/// `x'`.
fn dropped<T: Element + Stored>(
    x: &Input<'_>,
    dropout: Dropped,
    layout: &Layout,
    rows: &Range<usize>,
) -> Tensor {
    let own = rows_of::<T>(x.rows, rows);
    let mut dropped = Tensor::uninit([own.rows(), own.cols()], T::DTYPE);
    match dropout {
        Dropped::At(site) => {
            dropout::apply(own, &site.on(layout, rows.clone()), all_mut::<T>(&mut dropped));
        }
        Dropped::Given => copy(rows_of::<T>(x.of(true), rows), all_mut::<T>(&mut dropped)),
    }
    dropped
}
