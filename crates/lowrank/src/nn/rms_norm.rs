//! RMS norm.

use super::module::{Module, Visitor, VisitorMut, join};
use crate::Result;
use crate::tape::{Parameter, Tape, Var, ops};

/// Divides each row by the root of its mean square, then scales it.
#[derive(Debug)]
pub struct RmsNorm {
    /// The scale: `[width]`.
    pub weight: Parameter,
    /// What is added to the mean square.
    pub eps: f32,
}

impl RmsNorm {
    /// A norm of rows of `width`.
    pub fn new(width: usize, eps: f32) -> Self {
        Self { weight: Parameter::new([width]), eps }
    }

    /// `weight · x / √(mean(x²) + eps)`, row by row.
    ///
    /// # Shapes
    /// `x` and the result: `[tokens, width]`.
    ///
    /// # Errors
    /// As [`ops::rms_norm`].
    pub fn forward(&self, tape: &mut Tape, x: &Var) -> Result<Var> {
        ops::rms_norm(tape, x, &self.weight, self.eps)
    }
}

impl Module for RmsNorm {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.rms_norm(path, self);
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        visitor.parameter(&join(path, "weight"), &mut self.weight);
    }
}
