//! Experts of a mixture.

use super::Linear;
use super::linear::{Expert, Role};
use super::module::{Module, Visitor, VisitorMut, join};
use crate::Result;
use crate::tape::{Tape, Var, ops};

/// Linear layers of one shape, of which each row passes a few: the experts of a mixture. To the module tree each is a
/// layer, numbered below the stack; in the reference the stack is one parameter `[experts, outputs, inputs]`.
#[derive(Debug)]
pub struct ExpertStack(Vec<Linear>);

impl ExpertStack {
    /// `experts` layers from `inputs` to `outputs` features, without biases.
    pub fn new(experts: usize, inputs: usize, outputs: usize) -> Self {
        let expert = |number| {
            let role = Role::Expert(Expert { number, of: experts });
            Linear::new(inputs, outputs, false).with_role(role)
        };
        Self((0..experts).map(expert).collect())
    }

    /// What each expert makes of its rows, that of each sequence's adapter included.
    ///
    /// # Shapes
    /// `x`: `[rows, inputs]`, as [`ops::dispatch`] gave them by these routes. The result: `[rows, outputs]`.
    ///
    /// # Errors
    /// As [`ops::linear_of_rows`].
    pub fn forward(&self, tape: &mut Tape, x: &Var, routes: &ops::Routes) -> Result<Var> {
        let branches: Vec<_> = self.0.iter().map(Linear::branch).collect();
        ops::linear_of_rows(tape, x, &branches, routes.experts())
    }
}

impl Module for ExpertStack {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        for (number, expert) in self.0.iter().enumerate() {
            expert.visit(&join(path, &number.to_string()), visitor);
        }
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        for (number, expert) in self.0.iter_mut().enumerate() {
            expert.visit_mut(&join(path, &number.to_string()), visitor);
        }
    }
}
