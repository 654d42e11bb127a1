//! The linear layer, with room for adapters.

use super::module::{Module, Visitor, VisitorMut};
use crate::Result;
use crate::tape::{AdapterId, Form, Lora, Parameter, Tape, Var, ops};
use crate::tensor::Shape;

/// `y = x·Wᵀ + b`, and what the attached adapters add to it.
#[derive(Debug)]
pub struct Linear {
    /// `W`: `[outputs, inputs]`.
    pub weight: Parameter,
    /// `b`: `[outputs]`.
    pub bias: Option<Parameter>,
    /// The adapters attached to this layer.
    pub lora: Vec<Lora>,
    /// How many blocks of the weight's rows there are, each of which reads its own part of the inputs.
    groups: usize,
    role: Role,
}

/// What a linear layer is in the reference, where an adapter for it has files of their own kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// A module.
    #[default]
    Layer,
    /// A module that is no linear layer, with a matrix as its parameter: the router of a mixture.
    Matrix,
    /// Part of a parameter of three dimensions: an expert of a mixture.
    Expert(Expert),
}

/// A place in a stack of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expert {
    /// The number of this one.
    pub number: usize,
    /// How many there are.
    pub of: usize,
}

impl Linear {
    /// A layer from `inputs` to `outputs` features; its values are loaded or initialised later.
    pub fn new(inputs: usize, outputs: usize, bias: bool) -> Self {
        let bias = bias.then(|| Parameter::new([outputs]));
        Self {
            weight: Parameter::new([outputs, inputs]),
            bias,
            lora: Vec::new(),
            groups: 1,
            role: Role::Layer,
        }
    }

    /// A layer whose weight checkpoints hold as `[inputs, outputs]`: GPT-2's `Conv1D`.
    pub fn transposed(inputs: usize, outputs: usize) -> Self {
        let layer = Self::new(inputs, outputs, true);
        Self { weight: layer.weight.with_form(Form::Transposed), ..layer }
    }

    /// A convolution over patches of `channels` by `patch` by `patch` that do not overlap.
    pub fn patches(channels: usize, patch: usize, outputs: usize) -> Self {
        Self::convolution([outputs, channels, patch, patch], 1, true)
    }

    /// The product of a convolution with its windows, whose weight checkpoints hold as `[outputs, channels/groups, ...]`:
    /// `[outputs, channels/groups·kernel]` here.
    pub(super) fn convolution(in_file: impl Into<Shape>, groups: usize, bias: bool) -> Self {
        let shape = in_file.into();
        let outputs = shape.dims().first().copied().unwrap_or(1);
        let layer = Self::new(shape.dims().iter().skip(1).product(), outputs, bias);
        Self { weight: layer.weight.with_form(Form::Reshaped(shape)), groups, ..layer }
    }

    /// The same layer, whose weight is another name of a parameter.
    #[must_use]
    pub fn tied_to(self, name: &'static str) -> Self {
        Self { weight: self.weight.tied_to(name), ..self }
    }

    /// The same layer, which is something else than a module of its own in the reference.
    #[must_use]
    pub fn with_role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// What it is in the reference.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The width of the input.
    pub fn inputs(&self) -> usize {
        self.groups * self.weight.shape().width()
    }

    /// How many blocks the weight consists of, each of which reads its own part of the inputs: one, but for convolutions.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Whether it is the product of a convolution.
    pub fn is_convolution(&self) -> bool {
        self.weight.file_shape().rank() > 2
    }

    /// The shape that a tensor of a pair on this layer has in a file, by its name below the layer and its shape here: that
    /// of a convolution's tensor if this is one.
    ///
    /// # Source
    /// PEFT's `lora.Conv1d` and `lora.Conv2d`.
    pub fn shape_in_file(&self, part: &str, here: Shape) -> Shape {
        let weight = self.weight.file_shape();
        let [outputs, channels, kernel @ ..] = weight.dims() else { return here };
        let ones = kernel.iter().map(|_| 1);
        let dims: Vec<usize> = match part {
            _ if kernel.is_empty() => return here,
            "lora_A.weight" => {
                [here.rows(), channels * self.groups].into_iter().chain(kernel.iter().copied()).collect()
            }
            "lora_B.weight" => [*outputs, here.width()].into_iter().chain(ones).collect(),
            "lora_magnitude_vector" => [1, *outputs].into_iter().chain(ones).collect(),
            _ => return here,
        };
        Shape::from_slice(&dims).unwrap_or(here)
    }

    /// The width of the output.
    pub fn outputs(&self) -> usize {
        self.weight.shape().rows()
    }

    /// What `adapter` adds to this layer.
    pub fn adapter(&self, adapter: AdapterId) -> Option<&Lora> {
        self.lora.iter().find(|lora| lora.adapter == adapter)
    }

    /// The layer's own parameters by their names.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, &Parameter)> {
        [("weight", &self.weight)].into_iter().chain(self.bias.as_ref().map(|bias| ("bias", bias)))
    }

    /// As [`Linear::parameters`], for changes.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Parameter)> {
        [("weight", &mut self.weight)].into_iter().chain(self.bias.as_mut().map(|bias| ("bias", bias)))
    }

    /// The layer's output, that of each sequence's adapter included.
    ///
    /// # Shapes
    /// `x`: `[tokens, inputs]`. The result: `[tokens, outputs]`.
    ///
    /// # Errors
    /// As [`ops::linear`].
    pub fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        ops::linear(tape, x, &[self.branch()])
    }

    /// As [`Linear::forward`], where the weight is another name of `tied`'s.
    ///
    /// # Errors
    /// As [`ops::linear`].
    pub fn forward_tied(&self, tape: &mut Tape, x: &Var, tied: &Parameter) -> Result<Var> {
        ops::linear(tape, x, &[ops::Branch { tied: Some(tied), ..self.branch() }])
    }

    /// The outputs of several layers that read the same input, side by side.
    ///
    /// # Errors
    /// As [`ops::linear`].
    pub fn forward_together(layers: &[&Self], tape: &mut Tape, x: &Var) -> Result<Var> {
        let branches: Vec<_> = layers.iter().map(|layer| layer.branch()).collect();
        ops::linear(tape, x, &branches)
    }

    pub(super) fn branch(&self) -> ops::Branch<'_> {
        let Self { weight, bias, lora, groups, .. } = self;
        ops::Branch { weight, groups: *groups, tied: None, bias: bias.as_ref(), lora }
    }
}

impl Module for Linear {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.linear(path, self);
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        visitor.linear(path, self);
    }
}
