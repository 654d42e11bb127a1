//! The linear layer, with room for adapters.

use super::module::{Module, Visitor, VisitorMut};
use crate::Result;
use crate::tape::{AdapterId, Form, Lora, Parameter, Tape, Var, ops};

/// `y = x·Wᵀ + b`, and what the attached adapters add to it.
#[derive(Debug)]
pub struct Linear {
    /// `W`: `[outputs, inputs]`.
    pub weight: Parameter,
    /// `b`: `[outputs]`.
    pub bias: Option<Parameter>,
    /// The adapters attached to this layer.
    pub lora: Vec<Lora>,
}

impl Linear {
    /// A layer from `inputs` to `outputs` features; its values are loaded or initialised later.
    pub fn new(inputs: usize, outputs: usize, bias: bool) -> Self {
        let bias = bias.then(|| Parameter::new([outputs]));
        Self { weight: Parameter::new([outputs, inputs]), bias, lora: Vec::new() }
    }

    /// A layer whose weight checkpoints hold as `[inputs, outputs]`: GPT-2's `Conv1D`.
    pub fn conv1d(inputs: usize, outputs: usize) -> Self {
        let layer = Self::new(inputs, outputs, true);
        Self { weight: layer.weight.with_form(Form::Transposed), ..layer }
    }

    /// A convolution over patches of `channels` by `patch` by `patch` that do not overlap.
    pub fn patches(channels: usize, patch: usize, outputs: usize) -> Self {
        let layer = Self::new(channels * patch * patch, outputs, true);
        let form = Form::Reshaped([outputs, channels, patch, patch].into());
        Self { weight: layer.weight.with_form(form), ..layer }
    }

    /// The same layer, whose weight is another name of a parameter.
    #[must_use]
    pub fn tied_to(self, name: &'static str) -> Self {
        Self { weight: self.weight.tied_to(name), ..self }
    }

    /// The width of the input.
    pub fn inputs(&self) -> usize {
        self.weight.shape().width()
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

    fn branch(&self) -> ops::Branch<'_> {
        ops::Branch { weight: &self.weight, tied: None, bias: self.bias.as_ref(), lora: &self.lora }
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
