//! Single rows of a table.

use std::sync::Arc;

use super::leaf::Leaf;

/// Rows of a table that an adapter has values of its own for, in the place of the base model's: a few tokens that are
/// trained, where the table is not. What is tied to the table has them, too.
///
/// # Source
/// PEFT's trainable tokens.
#[derive(Clone, Debug)]
pub struct TokenRows {
    /// The entries of the table, each once.
    pub ids: Arc<[u32]>,
    /// Their rows: `[ids, width]`.
    pub values: Leaf,
}

impl TokenRows {
    /// The place of an entry among these rows.
    pub(crate) fn place(&self, id: u32) -> Option<u32> {
        self.ids.iter().position(|own| *own == id).map(|place| place as u32)
    }
}
