//! The embedding table.

use super::module::{Module, Visitor, VisitorMut, join};
use crate::tape::{Parameter, ops::Lookup};

/// A row for each id.
#[derive(Debug)]
pub struct Embedding {
    /// The table: `[entries, width]`.
    pub weight: Parameter,
    /// The id whose row is never trained, as PyTorch's `padding_idx`.
    pub padding_id: Option<u32>,
}

impl Embedding {
    /// A table of `entries` rows of `width`.
    pub fn new(entries: usize, width: usize) -> Self {
        Self { weight: Parameter::new([entries, width]), padding_id: None }
    }

    /// The same table, of which one row is never trained.
    #[must_use]
    pub fn with_padding_id(mut self, id: u32) -> Self {
        self.padding_id = Some(id);
        self
    }

    /// The same table, which is another name of a parameter.
    #[must_use]
    pub fn tied_to(mut self, name: &'static str) -> Self {
        self.weight = self.weight.tied_to(name);
        self
    }

    /// The number of rows.
    pub fn entries(&self) -> usize {
        self.weight.shape().rows()
    }

    /// This table with each token's id, for [`ops::embedding`](crate::tape::ops::embedding).
    pub fn lookup<'a>(&'a self, ids: &'a [u32]) -> Lookup<'a> {
        Lookup { table: &self.weight, ids, padding_id: self.padding_id }
    }
}

impl Module for Embedding {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.embedding(path, self);
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        visitor.parameter(&join(path, "weight"), &mut self.weight);
    }
}
