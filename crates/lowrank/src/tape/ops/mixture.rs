//! Mixtures of experts: rows that go to a few of many layers each.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::Compute;
pub use lowrank_kernels::mixture::Choice;
use lowrank_kernels::mixture::{choose, weigh, weigh_backward, weights_backward, weights_of};

use super::block::{all, all_mut};
use super::{select_rows, with_rows};
use crate::tape::{Activations, Backward, Gradients, Named, Tape, Var, VarId, offsets_of};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Which experts the rows of a batch go to.
pub struct Routes {
    /// The row of the batch that each row for an expert is: those of the first expert, then of the next.
    sources: Arc<[usize]>,
    /// Where the rows of each row of the batch are among those: `[tokens, chosen]`.
    places: Arc<[usize]>,
    /// The rows of each expert, which may be none.
    experts: Vec<Range<usize>>,
    /// `[tokens, chosen]`, f32.
    weights: Var,
}

impl Routes {
    /// The rows of each expert among those that [`dispatch`] gives: one range for each, empty or not.
    pub fn experts(&self) -> &[Range<usize>] {
        &self.experts
    }
}

/// Chooses the experts of each row by its logits.
///
/// # Shapes
/// `logits`: `[tokens, experts]`.
///
/// # Errors
/// If there are not as many logits as experts, or more are chosen than there are; if the tape repeats the choices of another
/// pass, which were others' rows.
///
/// # Source
/// Shazeer et al., Outrageously Large Neural Networks (arXiv 1701.06538), section 2.1, without its noise; in the order of
/// softmax and choice as Transformers' `MixtralTopKRouter` and `Qwen3MoeTopKRouter`.
pub fn route(tape: &mut Tape, logits: &Var, choice: Choice) -> Result<Routes> {
    let (tokens, width) = logits.value().rows_and_width();
    let Choice { experts, chosen: most, .. } = choice;
    if width != experts || !(1..=experts).contains(&most) {
        return Err(Error::Usage(format!("{most} of {experts} experts are to be chosen by {width} logits")));
    }
    let wide = logits.value().to_dtype(DType::F32);
    let chosen = tape.chosen(tokens * most, experts, || {
        let mut chosen = vec![0; tokens * most];
        choose(choice, wide.as_slice::<f32>(), &mut chosen);
        chosen.into()
    })?;
    let mut weights = Tensor::uninit([tokens, most], DType::F32);
    weights_of(choice, wide.as_slice::<f32>(), &chosen, weights.make_mut::<f32>());

    let mut counts = vec![0; experts];
    chosen.iter().for_each(|expert: &usize| counts[*expert] += 1);
    let offsets = offsets_of(&counts);
    let mut free = offsets.clone();
    let (mut sources, mut places) = (vec![0; chosen.len()], Vec::with_capacity(chosen.len()));
    for (at, expert) in chosen.iter().enumerate() {
        let place = &mut free[*expert];
        sources[*place] = at / most;
        places.push(*place);
        *place += 1;
    }
    let backward = logits.id().map(|input| {
        let weights = weights.clone();
        let dtype = logits.value().dtype();
        Box::new(RouteBackward { input, choice, logits: wide, chosen, weights, dtype }) as Box<dyn Backward>
    });
    let name = || Named::After("the weights of experts".into());
    Ok(Routes {
        sources: sources.into(),
        places: places.into(),
        experts: offsets.windows(2).map(|pair| pair[0]..pair[1]).collect(),
        weights: tape.finish(name, weights, logits.layout(), backward)?,
    })
}

struct RouteBackward {
    input: VarId,
    choice: Choice,
    logits: Tensor,
    chosen: Arc<[usize]>,
    weights: Tensor,
    /// That of the logits.
    dtype: DType,
}

impl Backward for RouteBackward {
    fn backward(self: Box<Self>, dweights: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let mut dlogits = Tensor::uninit(self.logits.shape(), DType::F32);
        weights_backward(
            self.choice,
            self.logits.as_slice::<f32>(),
            &self.chosen,
            self.weights.as_slice::<f32>(),
            dweights.as_slice::<f32>(),
            dlogits.make_mut::<f32>(),
        );
        activations.add(self.input, dlogits.to_dtype(self.dtype));
    }
}

/// Routes by which one layer reads every row, weighted by the logistic function of the row's logit: a shared expert.
///
/// # Shapes
/// `logits`: `[tokens, 1]`.
///
/// # Errors
/// If there are more logits.
///
/// # Source
/// Transformers' `Qwen2MoeSparseMoeBlock`.
pub fn share(tape: &mut Tape, logits: &Var) -> Result<Routes> {
    let (tokens, width) = logits.value().rows_and_width();
    if width != 1 {
        return Err(Error::Usage(format!("a shared expert has one logit a row, not {width}")));
    }
    let logistic = |logit: f32| 1.0 / (1.0 + (-logit).exp());
    let weights: Vec<f32> = logits.value().to_f32_vec().into_iter().map(logistic).collect();
    let backward = logits.id().map(|input| {
        let dtype = logits.value().dtype();
        Box::new(ShareBackward { input, weights: weights.clone(), dtype }) as Box<dyn Backward>
    });
    let name = || Named::After("the weights of the shared expert".into());
    let weights = Tensor::from_slice([tokens, 1], &weights);
    Ok(Routes {
        sources: (0..tokens).collect(),
        places: (0..tokens).collect(),
        experts: iter::once(0..tokens).collect(),
        weights: tape.finish(name, weights, logits.layout(), backward)?,
    })
}

struct ShareBackward {
    input: VarId,
    weights: Vec<f32>,
    /// That of the logits.
    dtype: DType,
}

impl Backward for ShareBackward {
    fn backward(self: Box<Self>, dweights: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let slopes = self.weights.iter().map(|weight| weight * (1.0 - weight));
        let dlogits: Vec<f32> = slopes.zip(dweights.as_slice::<f32>()).map(|(slope, d)| slope * d).collect();
        let dlogits = Tensor::from_slice(dweights.shape(), &dlogits);
        activations.add(self.input, dlogits.to_dtype(self.dtype));
    }
}

/// The rows of each expert, one expert after the other.
///
/// # Shapes
/// `x`: `[tokens, width]`. The result: `[tokens·chosen, width]`.
///
/// # Errors
/// If these are not the routes of as many rows.
pub fn dispatch(tape: &mut Tape, x: &Var, routes: &Routes) -> Result<Var> {
    let layout = x.layout().regrouped(&routes.sources)?;
    select_rows(tape, x, &routes.sources, &layout, false)
}

/// The sum of what each row's experts made of it, by their weights.
///
/// # Shapes
/// `y`: `[tokens·chosen, width]`, as [`dispatch`] gave the rows. The result: `[tokens, width]`.
///
/// # Errors
/// If these are not the routes of as many rows.
pub fn collect(tape: &mut Tape, y: &Var, routes: &Routes) -> Result<Var> {
    let (rows, width) = y.value().rows_and_width();
    let Routes { sources, places, weights, .. } = routes;
    if rows != sources.len() {
        return Err(Error::Usage(format!(
            "{} rows were given to experts, and {rows} come back",
            sources.len()
        )));
    }
    let layout = weights.layout();
    let mut sum = Tensor::uninit([layout.rows(), width], y.value().dtype());
    with_rows!(y.compute(), T => {
        weigh(all::<T>(y.value()), places, weights.value().as_slice::<f32>(), all_mut::<T>(&mut sum));
    });
    let backward = (y.needs_gradient() || weights.needs_gradient()).then(|| {
        Box::new(CollectBackward {
            input: y.id(),
            of_weights: weights.id(),
            y: y.value().clone(),
            weights: weights.value().clone(),
            sources: Arc::clone(sources),
            places: Arc::clone(places),
            compute: y.compute(),
        }) as Box<dyn Backward>
    });
    tape.finish(|| Named::After("the sum over experts".into()), sum, layout, backward)
}

struct CollectBackward {
    input: Option<VarId>,
    of_weights: Option<VarId>,
    y: Tensor,
    weights: Tensor,
    sources: Arc<[usize]>,
    places: Arc<[usize]>,
    compute: Compute,
}

impl Backward for CollectBackward {
    fn backward(self: Box<Self>, dsum: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let mut of_rows = vec![0.0; self.places.len()];
        for (place, weight) in self.places.iter().zip(self.weights.as_slice::<f32>()) {
            of_rows[*place] = *weight;
        }
        let mut dy = Tensor::uninit(self.y.shape(), self.y.dtype());
        let mut products = vec![0.0; self.places.len()];
        with_rows!(self.compute, T => weigh_backward(
            all::<T>(&dsum),
            all::<T>(&self.y),
            &self.sources,
            &of_rows,
            all_mut::<T>(&mut dy),
            &mut products,
        ));
        if let Some(input) = self.input {
            activations.add(input, dy);
        }
        if let Some(of_weights) = self.of_weights {
            let dweights: Vec<f32> = self.places.iter().map(|place| products[*place]).collect();
            activations.add(of_weights, Tensor::from_slice(self.weights.shape(), &dweights));
        }
    }
}
