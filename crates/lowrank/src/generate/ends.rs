//! What a model folder says of writing: the tokens that end a text, and how it is to be sampled.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::models::ModelInfo;
use crate::{Error, Result};

/// The file that says how a model is to write.
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// Every token that ends a text: those of `generation_config.json`, of the model's own configuration, and of its tokeniser,
/// as far as there are such files.
///
/// # Errors
/// If a file cannot be read, or is not what its name says.
pub fn end_tokens(folder: &Path, info: &ModelInfo) -> Result<Vec<u32>> {
    let mut ends = of_generation(&folder.join(GENERATION_CONFIG))?;
    ends.extend(&info.eos_token_ids);
    if folder.join("tokenizer.json").is_file() || folder.join("vocab.json").is_file() {
        ends.extend(crate::data::Tokenizer::from_folder(folder)?.eos_id());
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

/// The sentence on the sampling that `generation_config.json` asks for, if it does: texts are written as their settings
/// say, which are not taken from there.
///
/// # Errors
/// If the file cannot be read, or is not JSON.
pub fn sampling_note(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(GENERATION_CONFIG);
    let config = read(&path)?.filter(|config| config.get("do_sample") == Some(&Value::Bool(true)));
    let Some(config) = config else { return Ok(None) };
    let given = ["temperature", "top_k", "top_p"].into_iter().filter_map(|key| {
        let value = config.get(key).filter(|value| value.is_number())?;
        Some(format!(" --{} {value}", key.replace('_', "-")))
    });
    // Transformers samples at temperature 1 where the file names none.
    let usual = config.get("temperature").is_none().then(|| " --temperature 1.0".to_owned());
    let options: String = usual.into_iter().chain(given).collect();
    Ok(Some(format!("{}: the model is meant to be sampled from; for that add{options}", path.display())))
}

/// The file, if there is one.
fn read(path: &Path) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let config = serde_json::from_slice(&bytes);
    config.map(Some).map_err(|error| Error::file(path, format!("not JSON: {error}")))
}

/// `eos_token_id` of a file: an id, a list of them, or nothing.
fn of_generation(path: &Path) -> Result<Vec<u32>> {
    let Some(config) = read(path)? else { return Ok(Vec::new()) };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match config.get("eos_token_id") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(id).collect(),
        Some(one) => id(one).map(|id| vec![id]),
    };
    ids.ok_or_else(|| Error::file(path, "eos_token_id is neither a token's id nor a list of such"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_asks_for_sampling_is_answered_with_the_options_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let note = |json: &str| {
            fs::write(folder.path().join(GENERATION_CONFIG), json).unwrap();
            sampling_note(folder.path()).unwrap()
        };
        let asked =
            note("{\"do_sample\": true, \"temperature\": 0.6, \"top_k\": 20, \"top_p\": 0.95}").unwrap();
        assert!(asked.ends_with("for that add --temperature 0.6 --top-k 20 --top-p 0.95"), "{asked}");
        assert!(note("{\"do_sample\": true}").unwrap().ends_with("add --temperature 1.0"));
        assert_eq!(note("{\"temperature\": 0.6}"), None, "not without do_sample");
    }

    #[test]
    fn the_ends_of_all_files_end_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let info = ModelInfo { eos_token_ids: vec![7, 2], ..ModelInfo::without_head() };
        let ends = |json: &str| {
            fs::write(folder.path().join(GENERATION_CONFIG), json).unwrap();
            end_tokens(folder.path(), &info)
        };
        assert_eq!(ends("{\"eos_token_id\": [9, 7]}").unwrap(), [2, 7, 9]);
        assert_eq!(ends("{\"eos_token_id\": 1}").unwrap(), [1, 2, 7]);
        assert_eq!(ends("{\"eos_token_id\": null}").unwrap(), [2, 7]);
        for wrong in
            ["{\"eos_token_id\": \"</s>\"}", "{\"eos_token_id\": [-1]}", "[", "{\"eos_token_id\": 1.5}"]
        {
            assert!(ends(wrong).unwrap_err().to_string().contains(GENERATION_CONFIG), "{wrong}");
        }
    }
}
