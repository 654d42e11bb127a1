//! Convolutions with their adapters.

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::unfold::Window;
use lowrank_kernels::{Compute, dropout as kernel};

use super::block::{block_mut, rows_of};
use super::linear::{Branch, linear_beside};
use super::unfold::{unfold_as, unfolding};
use super::with_rows;
use crate::Result;
use crate::tape::{Activations, Backward, DropoutSite, Gradients, Layout, Named, Tape, Var, VarId};
use crate::tensor::Tensor;

/// A convolution over images with zeros around them, and what the attached adapters add to it: `A` is a convolution
/// with the same windows over all channels, `B` one of single elements in the layer's groups.
///
/// # Shapes
/// `x` and `sizes`: as for [`unfold`](super::unfold). `branch.weight`: `[outputs, C·kernel/groups]`, channel after channel,
/// each line after line. The result: `[Σ height'·width', outputs]`.
///
/// # Errors
/// As [`unfold`](super::unfold) and [`linear`](super::linear()).
///
/// # Source
/// PEFT's `lora.Conv1d` and `lora.Conv2d`. Dropout is on elements of the images, as there, and not of each window; pairs of
/// one adapter on one layer share the largest of their probabilities. `A` has the dilation of the layer, and reads what
/// that reads; PEFT's has none, whatever the layer's is.
pub fn convolution(
    tape: &mut Tape,
    x: &Var,
    branch: Branch<'_>,
    windows: [Window; 2],
    sizes: &[[usize; 2]],
) -> Result<Var> {
    let unfolding = unfolding(x.layout(), windows, sizes)?;
    let rows = unfold_as(tape, x, &unfolding)?;
    let dropped = match dropped(tape, x, &branch)? {
        Some(dropped) => Some(unfold_as(tape, &dropped, &unfolding)?),
        None => None,
    };
    linear_beside(tape, &rows, dropped.as_ref(), &[branch])
}

/// The input of adapters with dropout, each with its own probability; none where none drops anything in this pass.
fn dropped(tape: &mut Tape, x: &Var, branch: &Branch<'_>) -> Result<Option<Var>> {
    let largest = |adapter| {
        let own = branch.lora.iter().filter(|lora| Some(lora.adapter) == adapter);
        own.map(|lora| lora.dropout).fold(0.0, f32::max)
    };
    let segments: Vec<(Range<usize>, f32)> =
        x.layout().segments().into_iter().map(|(rows, adapter)| (rows, largest(adapter))).collect();
    let probability = segments.iter().map(|(_, probability)| *probability).fold(0.0, f32::max);
    let Some(site) = tape.dropout_site(probability) else { return Ok(None) };
    let segments: Vec<_> = segments
        .into_iter()
        .map(|(rows, probability)| (rows, (probability > 0.0).then_some(DropoutSite { probability, ..site })))
        .collect();
    let (layout, compute) = (Arc::clone(x.layout()), x.compute());
    let y = apply(x.value(), &segments, &layout, compute);
    let backward = x.id().map(|input| {
        let layout = Arc::clone(&layout);
        Box::new(DroppedBackward { input, segments, layout, compute }) as Box<dyn Backward>
    });
    tape.finish(|| Named::After("the output of dropout".into()), y, &layout, backward).map(Some)
}

fn apply(
    x: &Tensor,
    segments: &[(Range<usize>, Option<DropoutSite>)],
    layout: &Layout,
    compute: Compute,
) -> Tensor {
    let columns = 0..x.shape().width();
    let mut y = x.clone();
    for (rows, site) in segments {
        if let Some(site) = site {
            with_rows!(compute, T => kernel::apply(
                rows_of::<T>(x, rows),
                &site.on(layout, rows.clone()),
                block_mut::<T>(&mut y, rows, &columns),
            ));
        }
    }
    y
}

struct DroppedBackward {
    input: VarId,
    segments: Vec<(Range<usize>, Option<DropoutSite>)>,
    layout: Arc<Layout>,
    compute: Compute,
}

impl Backward for DroppedBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, _: &mut Gradients) {
        activations.add(self.input, apply(&dy, &self.segments, &self.layout, self.compute));
    }
}
