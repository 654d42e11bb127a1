//! The keys of a model's parameters in a checkpoint.

use super::ModelInfo;
use crate::hub::{Checkpoint, TensorView};

/// Finds parameters in a checkpoint: of the whole model or of the bare one, under their names of today or of old.
pub(crate) struct Keys<'a> {
    checkpoint: &'a Checkpoint,
    older_name: Option<fn(&str) -> String>,
    prefix: String,
    bare: bool,
}

impl<'a> Keys<'a> {
    pub fn new(info: &ModelInfo, checkpoint: &'a Checkpoint) -> Self {
        let prefix = format!("{}.", info.base_prefix);
        let bare = prefix.len() > 1 && !checkpoint.names().any(|key| key.starts_with(&prefix));
        Self { checkpoint, older_name: info.older_name, prefix, bare }
    }

    /// The key of the parameter, or the prefix of a module's keys, in this checkpoint.
    pub fn key<'p>(&self, path: &'p str) -> &'p str {
        if self.bare { path.strip_prefix(&self.prefix).unwrap_or(path) } else { path }
    }

    /// The key, the one before Transformers 5 renamed it, and what TensorFlow's checkpoints called a norm's parameters.
    pub fn spellings(&self, path: &str) -> Vec<String> {
        let key = self.key(path);
        let mut spellings = vec![key.to_owned()];
        spellings.extend(self.older_name.map(|older| older(key)));
        for (new, old) in [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")] {
            spellings.extend(key.strip_suffix(new).map(|stem| format!("{stem}{old}")));
        }
        spellings
    }

    /// The parameter's key and tensor, if they are there.
    pub fn find(&self, path: &str) -> Option<(String, TensorView<'a>)> {
        self.spellings(path).into_iter().find_map(|key| self.checkpoint.get(&key).map(|view| (key, view)))
    }
}
