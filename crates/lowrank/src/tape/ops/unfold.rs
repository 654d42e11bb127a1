//! The windows of a convolution as rows.

use std::sync::Arc;

use lowrank_kernels::Compute;
use lowrank_kernels::unfold::{self as kernel, Unfolding, Window};

use super::block::{all, all_mut};
use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Layout, Named, Tape, Var, VarId};
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};

/// A row for each place of a convolution's window: what it reads there, channel after channel, each line after line, and
/// zeros for padding. A convolution is then a product with its weight.
///
/// # Shapes
/// `x`: `[Σ height·width, C]`, a sequence for each image, line after line; `windows`: along the height and the width;
/// `sizes`: the height and width of each image. The result: `[Σ height'·width', C·kernel]`, where the sizes are those of
/// [`Window::outputs`].
///
/// # Errors
/// If a sequence is not as long as its image, or an image has not room for one window.
///
/// # Source
/// PyTorch's `unfold` (im2col), with rows and columns exchanged.
pub fn unfold(tape: &mut Tape, x: &Var, windows: [Window; 2], sizes: &[[usize; 2]]) -> Result<Var> {
    let unfolding = unfolding(x.layout(), windows, sizes)?;
    unfold_as(tape, x, &unfolding)
}

/// The windows over the sequences of a layout.
pub(super) fn unfolding(
    layout: &Layout,
    windows: [Window; 2],
    sizes: &[[usize; 2]],
) -> Result<Arc<Unfolding>> {
    let lengths = layout.offsets().windows(2).map(|pair| Some(pair[1] - pair[0]));
    if !lengths.eq(sizes.iter().map(|[height, width]| height.checked_mul(*width))) {
        return Err(Error::Usage(format!("the sequences are not as long as images of {sizes:?}")));
    }
    Unfolding::new(windows, sizes).map(Arc::new).ok_or_else(|| {
        let [height, width] = windows;
        Error::Usage(format!("not every image of {sizes:?} has room for a window of {height:?} by {width:?}"))
    })
}

/// As [`unfold`], where the windows are worked out.
pub(super) fn unfold_as(tape: &mut Tape, x: &Var, unfolding: &Arc<Unfolding>) -> Result<Var> {
    let compute = x.compute();
    let lengths: Vec<usize> = unfolding.outputs().collect();
    let layout = Layout::like(x.layout(), &lengths)?;
    let width = x.value().shape().width() * unfolding.places();
    let mut y = Tensor::uninit([layout.rows(), width], x.value().dtype());
    with_rows!(compute, T => kernel::unfold(unfolding, all::<T>(x.value()), all_mut::<T>(&mut y)));
    let backward = x.id().map(|input| {
        let (unfolding, shape) = (Arc::clone(unfolding), x.value().shape());
        Box::new(UnfoldBackward { input, unfolding, shape, compute }) as Box<dyn Backward>
    });
    tape.finish(|| Named::After("the windows of a convolution".into()), y, &layout, backward)
}

struct UnfoldBackward {
    input: VarId,
    unfolding: Arc<Unfolding>,
    shape: Shape,
    compute: Compute,
}

impl Backward for UnfoldBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, _: &mut Gradients) {
        let mut dx = Tensor::uninit(self.shape, dy.dtype());
        with_rows!(self.compute, T => kernel::fold(&self.unfolding, all::<T>(&dy), all_mut::<T>(&mut dx)));
        activations.add(self.input, dx);
    }
}
