//! Layer norm.

use super::module::{Module, Visitor, VisitorMut, join};
use crate::Result;
use crate::tape::{Parameter, Tape, Var, ops};

/// Normalises each row, then scales and shifts it.
#[derive(Debug)]
pub struct LayerNorm {
    /// The scale: `[width]`.
    pub weight: Parameter,
    /// The shift: `[width]`.
    pub bias: Parameter,
    /// What is added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    /// A norm of rows of `width`.
    pub fn new(width: usize, eps: f32) -> Self {
        Self { weight: Parameter::new([width]), bias: Parameter::new([width]), eps }
    }

    /// `layer_norm(x)`.
    ///
    /// # Shapes
    /// `x` and the result: `[tokens, width]`.
    ///
    /// # Errors
    /// As [`ops::layer_norm`].
    pub fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        ops::layer_norm(tape, x, 0.0, None, &self.parameters())
    }

    /// `layer_norm(dropout(x) + residual)`, in one pass.
    ///
    /// # Shapes
    /// `x`, `residual` and the result: `[tokens, width]`.
    ///
    /// # Errors
    /// As [`ops::layer_norm`].
    pub fn forward_residual(&self, tape: &mut Tape, x: &Var, dropout: f32, residual: &Var) -> Result<Var> {
        ops::layer_norm(tape, x, dropout, Some(residual), &self.parameters())
    }

    fn parameters(&self) -> ops::LayerNorm<'_> {
        ops::LayerNorm { weight: &self.weight, bias: &self.bias, eps: self.eps }
    }
}

impl Module for LayerNorm {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.layer_norm(path, self);
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        visitor.parameter(&join(path, "weight"), &mut self.weight);
        visitor.parameter(&join(path, "bias"), &mut self.bias);
    }
}
