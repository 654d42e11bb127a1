//! The embeddings of images.

use std::ops::Range;
use std::sync::Arc;

use lowrank_kernels::elementwise::add_assign;
use lowrank_kernels::patches::{self as kernel, Bicubic};
use lowrank_kernels::row_ops::gather_rows;
use lowrank_kernels::{Compute, Rows, RowsMut};

use super::with_rows;
use crate::tape::{Activations, Backward, Gradients, Layout, Leaf, Named, Parameter, Tape, Var, VarId};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// For each image a class token and its patches, each plus its position.
///
/// Positions are for a square of patches; where the images' `grid` (rows, columns) is another, they are interpolated. As
/// many of them as the grid has, but no square, are taken for its own.
///
/// # Shapes
/// `patches`: `[images·P, D]`, a sequence for each image, `P` the patches of the grid, row by row; `class_token`:
/// `[1, 1, D]`; `positions`: `[1, 1 + N, D]`. The result: `[images·(1 + P), D]`.
///
/// # Errors
/// If a size is another, `N` is neither a square nor `P`, or a parameter has no value.
///
/// # Source
/// Transformers' `ViTEmbeddings` with `interpolate_pos_encoding=True`.
pub fn patch_embeddings(
    tape: &mut Tape,
    patches: &Var,
    class_token: &Parameter,
    positions: &Parameter,
    grid: (usize, usize),
) -> Result<Var> {
    let (rows, width) = patches.value().rows_and_width();
    let (old, compute) = (patches.layout(), patches.compute());
    let of_an_image = grid.0.saturating_mul(grid.1);
    check(old, class_token, positions, of_an_image, width)?;
    let bicubic = interpolation(positions, grid)?;
    let layout = with_class_tokens(old)?;
    let mut y = Tensor::uninit([layout.rows(), width], patches.value().dtype());
    let mut parts = Vec::new();
    for ((old, new), adapter) in segments(old, &layout) {
        let (token, positions) = (class_token.active(adapter)?.clone(), positions.active(adapter)?.clone());
        let table = table(&token, &positions, bicubic.as_ref(), 1 + of_an_image);
        with_rows!(compute, T => kernel::forward(
            Rows::dense(patches.value().as_slice::<T>(), rows, width).slice(old.start, old.end),
            &table,
            RowsMut::dense(&mut y.make_mut::<T>()[new.start * width..new.end * width], new.len(), width),
        ));
        parts.push(Part { rows: new, token, positions });
    }
    let trained = tape.is_recording() && parts.iter().any(Part::is_trained);
    let backward = (trained || patches.needs_gradient()).then(|| {
        Box::new(PatchEmbeddingsBackward { input: patches.id(), parts, bicubic, of_an_image, compute })
            as Box<dyn Backward>
    });
    tape.finish(|| Named::Module(class_token.name().to_owned()), y, &layout, backward)
}

fn check(
    layout: &Layout,
    class_token: &Parameter,
    positions: &Parameter,
    of_an_image: usize,
    width: usize,
) -> Result<()> {
    for parameter in [class_token, positions] {
        if parameter.shape().width() != width || width == 0 {
            let (name, shape) = (parameter.name(), parameter.shape());
            return Err(Error::Usage(format!("{name} is {shape} for patches of {width}")));
        }
    }
    if class_token.shape().rows() != 1 {
        return Err(Error::Usage(format!("{} is more than one token", class_token.name())));
    }
    if of_an_image == 0 || layout.offsets().windows(2).any(|pair| pair[1] - pair[0] != of_an_image) {
        return Err(Error::Usage(format!("an image does not have the {of_an_image} patches of its grid")));
    }
    Ok(())
}

/// From the square that the positions are for to `grid`, where that is another.
fn interpolation(positions: &Parameter, grid: (usize, usize)) -> Result<Option<Bicubic>> {
    let places = positions.shape().rows().saturating_sub(1);
    let side = places.isqrt();
    match (side * side == places && places > 0, places == grid.0 * grid.1) {
        (true, _) if (side, side) != grid => Ok(Some(Bicubic::new((side, side), grid))),
        (true, _) | (false, true) => Ok(None),
        (false, false) => Err(Error::Usage(format!(
            "{} has {places} places for patches, which is no square to interpolate from, nor the {} x {} of the images",
            positions.name(),
            grid.0,
            grid.1
        ))),
    }
}

/// The layout of one row more for each sequence.
fn with_class_tokens(layout: &Layout) -> Result<Arc<Layout>> {
    let offsets = layout.offsets().iter().enumerate().map(|(images, offset)| offset + images).collect();
    Layout::new(offsets, layout.examples().to_vec(), layout.adapters().to_vec())
}

type Segment = ((Range<usize>, Range<usize>), Option<crate::tape::AdapterId>);

/// The rows of each run of images with the same adapter, without and with class tokens.
fn segments(old: &Layout, new: &Layout) -> Vec<Segment> {
    let both = old.segments().into_iter().zip(new.segments());
    both.map(|((old, adapter), (new, _))| ((old, new), adapter)).collect()
}

/// What is added to an image's rows, the first of which is nothing else: `[1 + P, D]`.
fn table(token: &Leaf, positions: &Leaf, bicubic: Option<&Bicubic>, rows: usize) -> Vec<f32> {
    let (token, positions) = (token.vector(), positions.vector());
    let (token, positions) = (token.as_slice::<f32>(), positions.as_slice::<f32>());
    let width = token.len();
    let mut table = match bicubic {
        None => positions.to_vec(),
        Some(bicubic) => {
            let mut table = vec![0.0; rows * width];
            table[..width].copy_from_slice(&positions[..width]);
            bicubic.forward(&positions[width..], width, &mut table[width..]);
            table
        }
    };
    add_assign(&mut table[..width], token);
    table
}

/// A run of images with the same parameters.
struct Part {
    rows: Range<usize>,
    token: Leaf,
    positions: Leaf,
}

impl Part {
    fn is_trained(&self) -> bool {
        self.token.is_trainable() || self.positions.is_trainable()
    }
}

struct PatchEmbeddingsBackward {
    input: Option<VarId>,
    parts: Vec<Part>,
    bicubic: Option<Bicubic>,
    of_an_image: usize,
    compute: Compute,
}

impl PatchEmbeddingsBackward {
    fn parameters(&self, part: &Part, dy: &Tensor, gradients: &mut Gradients) {
        let (rows, width) = dy.rows_and_width();
        let mut dtable = vec![0.0; (1 + self.of_an_image) * width];
        with_rows!(self.compute, T => kernel::backward(
            Rows::dense(dy.as_slice::<T>(), rows, width).slice(part.rows.start, part.rows.end),
            &mut dtable,
        ));
        let (first, others) = dtable.split_at(width);
        if part.token.is_trainable() {
            add_assign(gradients.accumulator(&part.token), first);
        }
        if part.positions.is_trainable() {
            let (own, places) = gradients.accumulator(&part.positions).split_at_mut(width);
            add_assign(own, first);
            match &self.bicubic {
                None => add_assign(places, others),
                Some(bicubic) => bicubic.backward(others, width, places),
            }
        }
    }
}

impl Backward for PatchEmbeddingsBackward {
    fn backward(self: Box<Self>, dy: Tensor, activations: &mut Activations, gradients: &mut Gradients) {
        for part in self.parts.iter().filter(|part| part.is_trained()) {
            self.parameters(part, &dy, gradients);
        }
        if let Some(input) = self.input {
            let (rows, width) = dy.rows_and_width();
            let of_patches: Vec<usize> = (0..rows).filter(|row| row % (1 + self.of_an_image) != 0).collect();
            let mut dx = Tensor::uninit([of_patches.len(), width], dy.dtype());
            with_rows!(self.compute, T => gather_rows(
                Rows::dense(dy.as_slice::<T>(), rows, width),
                &of_patches,
                RowsMut::dense(dx.make_mut::<T>(), of_patches.len(), width),
            ));
            activations.add(input, dx);
        }
    }
}
