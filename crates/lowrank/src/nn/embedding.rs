//! The embedding table, with room for adapters.

use super::module::{Module, Visitor, VisitorMut};
use crate::tape::{AdapterId, Lora, Parameter, ops::Lookup};

/// A row for each id, and what the attached adapters add to it.
#[derive(Debug)]
pub struct Embedding {
    /// The table: `[entries, width]`.
    pub weight: Parameter,
    /// The id whose row is never trained, as PyTorch's `padding_idx`.
    pub padding_id: Option<u32>,
    /// The adapters attached to the table.
    pub lora: Vec<Lora>,
    /// Whether the rows are read by [`Embedding::lookup`], which knows of adapters.
    looked_up: bool,
}

impl Embedding {
    /// A table of `entries` rows of `width`.
    pub fn new(entries: usize, width: usize) -> Self {
        Self { weight: Parameter::new([entries, width]), padding_id: None, lora: Vec::new(), looked_up: true }
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

    /// The same table, whose rows are read by something else than a lookup: no adapter can be put on it.
    #[must_use]
    pub fn not_looked_up(self) -> Self {
        Self { looked_up: false, ..self }
    }

    /// Whether an adapter can be put on the table.
    pub fn is_adaptable(&self) -> bool {
        self.looked_up
    }

    /// The number of rows.
    pub fn entries(&self) -> usize {
        self.weight.shape().rows()
    }

    /// The width of a row.
    pub fn width(&self) -> usize {
        self.weight.shape().width()
    }

    /// This table with each token's id, for [`ops::embedding`](crate::tape::ops::embedding).
    pub fn lookup<'a>(&'a self, ids: &'a [u32]) -> Lookup<'a> {
        Lookup { table: &self.weight, tied: None, lora: &self.lora, ids, padding_id: self.padding_id }
    }

    /// As [`Embedding::lookup`], where the table is another name of `tied`'s.
    pub fn lookup_tied<'a>(&'a self, ids: &'a [u32], tied: &'a Parameter) -> Lookup<'a> {
        Lookup { tied: Some(tied), ..self.lookup(ids) }
    }

    /// What `adapter` adds to this table.
    pub fn adapter(&self, adapter: AdapterId) -> Option<&Lora> {
        self.lora.iter().find(|lora| lora.adapter == adapter)
    }
}

impl Module for Embedding {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.embedding(path, self);
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        visitor.embedding(path, self);
    }
}
