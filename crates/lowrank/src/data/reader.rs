//! What a model gives for reading examples.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::image::Augmentation;
use super::tokenizer::Tokenizer;
use crate::models::ModelInfo;
use crate::{Error, Result};

/// A model's folder, and how examples are cut for it. The tokeniser is read when a task first asks for it.
#[derive(Debug)]
pub struct Reader {
    /// The model's folder.
    pub folder: PathBuf,
    /// The model's facts.
    pub info: ModelInfo,
    /// The longest example in tokens.
    pub max_length: usize,
    /// By how many tokens the windows of a long text overlap.
    pub stride: usize,
    /// Whether documents follow one another in blocks of one length; else each is an example of its own.
    pub packing: bool,
    /// Whether an example that cannot be used is an error, not skipped and counted.
    pub strict: bool,
    /// How training pictures are changed.
    pub augmentation: Augmentation,
    tokenizer: OnceLock<Tokenizer>,
}

impl Reader {
    /// A reader for a model; no example is longer than the model has positions.
    pub fn new(folder: &Path, info: &ModelInfo, max_length: usize) -> Self {
        let max_length = if info.max_length > 0 { max_length.min(info.max_length) } else { max_length };
        Self {
            folder: folder.to_path_buf(),
            info: info.clone(),
            max_length,
            stride: 0,
            packing: true,
            strict: false,
            augmentation: Augmentation::default(),
            tokenizer: OnceLock::new(),
        }
    }

    /// The model's tokeniser.
    ///
    /// # Errors
    /// If the folder has none, or it is wrong.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let tokenizer = Tokenizer::from_folder(&self.folder)?;
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }

    /// Checks that a tokeniser's largest id has a row in the model's table.
    ///
    /// # Errors
    /// If it has none.
    pub fn check_vocabulary(&self, largest: Option<u32>) -> Result<()> {
        match largest {
            Some(id) if id as usize >= self.info.vocab_size => {
                let reason = format!(
                    "its tokenizer gives the id {id}, but the model's vocabulary has {} entries: they do not belong \
                     together; put the model's own tokenizer there",
                    self.info.vocab_size
                );
                Err(Error::file(&self.folder, reason))
            }
            _ => Ok(()),
        }
    }
}
