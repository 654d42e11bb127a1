//! What a model reads.

use std::sync::Arc;

use super::cache::Cache;
use crate::tape::{Layout, Var};
use crate::{Error, Result};

/// A ragged batch as a model reads it.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// What is read.
    pub source: Source<'a>,
    /// What an encoder-decoder has written so far.
    pub target: Option<Tokens<'a>>,
    /// The rows that a head on tokens computes, in this order; absent: all.
    pub rows: Option<&'a [usize]>,
    /// The keys and values of the tokens before these.
    pub cache: Option<&'a Cache>,
}

/// What is read.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// Text.
    Tokens(Tokens<'a>),
    /// Pictures.
    Images(Images<'a>),
    /// Text that an encoder has read already.
    Encoded(&'a Var),
}

/// Token sequences.
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    /// Token ids, sequence after sequence.
    pub ids: &'a [u32],
    /// Each token's segment; empty: 0.
    pub type_ids: &'a [u32],
    /// Each token's position in its sequence, from 0; the model adds where its table begins.
    pub positions: &'a [u32],
    /// Where the sequences lie, and each one's adapter.
    pub layout: Arc<Layout>,
}

/// Pictures of one size.
#[derive(Clone, Debug)]
pub struct Images<'a> {
    /// `[images, channels, height, width]`.
    pub pixels: &'a [f32],
    /// Colours.
    pub channels: usize,
    /// In pixels.
    pub height: usize,
    /// In pixels.
    pub width: usize,
    /// A row for each picture, and each one's adapter.
    pub layout: Arc<Layout>,
}

impl<'a> Inputs<'a> {
    /// A text for a model that reads nothing else.
    pub fn tokens(tokens: Tokens<'a>) -> Self {
        Self { source: Source::Tokens(tokens), target: None, rows: None, cache: None }
    }

    /// The text of a model that reads text.
    ///
    /// # Errors
    /// If there is none.
    pub fn text(&self) -> Result<&Tokens<'a>> {
        match &self.source {
            Source::Tokens(tokens) => Ok(tokens),
            _ => Err(Error::Usage("this model reads token ids".into())),
        }
    }
}
