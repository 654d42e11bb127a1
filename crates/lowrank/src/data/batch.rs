//! Some examples side by side, without padding.

use super::batches::to_u32;
use super::example::Labels;
use crate::Result;

/// Examples as a model reads them, in its terms.
///
/// # Shapes
/// `B` sequences or images.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// What is read.
    pub source: BatchSource,
    /// What an encoder-decoder is to write, each sequence begun with the token that starts an answer.
    pub target: Option<TokenRows>,
    /// The labels: `[B]`, or one for each token of what is written.
    pub labels: Labels,
    /// The place of each sequence in the whole batch of its step `[B]`: the same however the step is divided, so
    /// that dropout is.
    pub examples: Vec<u32>,
}

/// What a batch's model reads.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchSource {
    /// Text.
    Tokens(TokenRows),
    /// Pictures.
    Images(Pixels),
}

/// Token sequences.
///
/// # Shapes
/// `B` sequences of `T` tokens together.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRows {
    /// Token ids `[T]`.
    pub ids: Vec<u32>,
    /// Token types `[T]`.
    pub type_ids: Vec<u32>,
    /// The place of each token in its sequence `[T]`, from 0; the model adds its own start.
    pub position_ids: Vec<u32>,
    /// Where each sequence begins, and where the last one ends `[B + 1]`.
    pub offsets: Vec<usize>,
}

/// Pictures of one size.
///
/// # Shapes
/// `values`: `[images, channels, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// The normalised colours.
    pub values: Vec<f32>,
    /// Colours.
    pub channels: usize,
    /// In pixels.
    pub height: usize,
    /// In pixels.
    pub width: usize,
}

impl Default for TokenRows {
    fn default() -> Self {
        Self { ids: Vec::new(), type_ids: Vec::new(), position_ids: Vec::new(), offsets: vec![0] }
    }
}

impl TokenRows {
    /// Adds a sequence. `type_ids` may be empty where all are 0.
    pub fn push(&mut self, ids: &[u32], type_ids: &[u8]) {
        self.ids.extend_from_slice(ids);
        self.type_ids.extend(type_ids.iter().map(|&id| u32::from(id)));
        self.type_ids.resize(self.ids.len(), 0);
        self.position_ids.extend((0u32..).take(ids.len()));
        self.offsets.push(self.ids.len());
    }

    /// How many sequences there are.
    pub fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The length of the longest sequence.
    pub fn longest(&self) -> usize {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }
}

impl Batch {
    /// Texts with labels; the first is number `first` of its step.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for 2³² sequences or more.
    pub fn of_tokens(tokens: TokenRows, labels: Labels, first: usize) -> Result<Self> {
        let examples = numbers(first, tokens.sequences())?;
        Ok(Self { source: BatchSource::Tokens(tokens), target: None, labels, examples })
    }

    /// Pictures with labels; the first is number `first` of its step.
    ///
    /// # Errors
    /// As [`Batch::of_tokens`].
    pub fn of_images(pixels: Pixels, count: usize, labels: Labels, first: usize) -> Result<Self> {
        let examples = numbers(first, count)?;
        Ok(Self { source: BatchSource::Images(pixels), target: None, labels, examples })
    }

    /// The same batch for an encoder-decoder that is to write `target`.
    #[must_use]
    pub fn with_target(self, target: TokenRows) -> Self {
        Self { target: Some(target), ..self }
    }

    /// How many sequences or images it has.
    pub fn sequences(&self) -> usize {
        self.examples.len()
    }

    /// The text that is read, if it is text.
    pub fn text(&self) -> Option<&TokenRows> {
        match &self.source {
            BatchSource::Tokens(tokens) => Some(tokens),
            BatchSource::Images(_) => None,
        }
    }

    /// How many tokens all its sequences have together, read and written; a picture counts as one.
    pub fn tokens(&self) -> usize {
        let read = self.text().map_or(self.examples.len(), |tokens| tokens.ids.len());
        read + self.target.as_ref().map_or(0, |target| target.ids.len())
    }

    /// The length of its longest sequence.
    pub fn longest(&self) -> usize {
        self.text().map_or(0, TokenRows::longest)
    }
}

fn numbers(first: usize, count: usize) -> Result<Vec<u32>> {
    Ok((to_u32(first)?..to_u32(first + count)?).collect())
}
