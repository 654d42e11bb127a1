//! The tokens that begin and end a text, as a model folder names them.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::{Error, Result};

pub(super) struct Ends {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

impl Ends {
    /// From `tokenizer_config.json`, else `special_tokens_map.json`, else the ids of `config.json`, else by usual names.
    pub fn read(folder: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let files = ["tokenizer_config.json", "special_tokens_map.json", "config.json"];
        let mut values = Vec::with_capacity(files.len());
        for name in files {
            values.push(read(&folder.join(name))?);
        }
        let find = |key: &str, usual: &[&str]| {
            let named = |value: &Value| {
                let token = value.get(format!("{key}_token"))?;
                let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
                tokenizer.token_to_id(text)
            };
            let numbered = |value: &Value| {
                let id = value.get(format!("{key}_token_id"))?;
                let id = u32::try_from(id.as_u64().or_else(|| id.get(0)?.as_u64())?).ok()?;
                tokenizer.id_to_token(id).map(|_| id)
            };
            let usual = || usual.iter().find_map(|token| tokenizer.token_to_id(token));
            values.iter().find_map(|value| named(value).or_else(|| numbered(value))).or_else(usual)
        };
        Ok(Self { bos: find("bos", &["<s>"]), eos: find("eos", &["</s>", "<|endoftext|>"]) })
    }
}

/// What a JSON file holds; null if there is none.
fn read(path: &Path) -> Result<Value> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    let bytes = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::file(path, format!("not a JSON object: {error}")))
}
