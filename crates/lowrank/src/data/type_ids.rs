//! Token types, kept only where there are others than 0.

use std::ops::Range;

/// The types of tokens that are packed one after the other; empty as long as all are 0.
#[derive(Debug, Clone, Default)]
pub(super) struct TypeIds(Vec<u8>);

impl TypeIds {
    /// Adds the types of `tokens` tokens after `before` others; an empty list is all 0.
    pub fn push(&mut self, before: usize, type_ids: &[u32], tokens: usize) {
        if type_ids.iter().any(|&id| id != 0) {
            self.0.resize(before, 0);
            self.0.extend(type_ids.iter().map(|&id| u8::try_from(id).unwrap_or(u8::MAX)));
        } else if !self.0.is_empty() {
            self.0.resize(before + tokens, 0);
        }
    }

    /// Adds those of another file, which has `tokens` tokens, after `before` others.
    pub fn append(&mut self, before: usize, other: Self, tokens: usize) {
        if self.0.is_empty() && other.0.is_empty() {
            return;
        }
        self.0.resize(before, 0);
        self.0.extend(other.0);
        self.0.resize(before + tokens, 0);
    }

    /// The types of some tokens; empty if all are 0.
    pub fn get(&self, tokens: Range<usize>) -> &[u8] {
        self.0.get(tokens).unwrap_or(&[])
    }

    /// All of them as numbers, for a fingerprint.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|&id| u64::from(id))
    }

    /// Gives back memory that growing took.
    pub fn shrink_to_fit(&mut self) {
        self.0.shrink_to_fit();
    }
}
