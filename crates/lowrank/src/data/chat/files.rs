//! The files of a model folder that hold chat templates and the tokens that they name.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::hub::CHAT_TEMPLATES;
use crate::text::read_text;
use crate::{Error, Result};

pub(super) struct Files {
    pub templates: Vec<Template>,
    pub tokens: Map<String, Value>,
}

pub(super) struct Template {
    pub name: String,
    pub path: PathBuf,
    pub own_file: bool,
    pub text: String,
}

/// The special tokens that Transformers hands to templates.
const TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

pub(super) fn read(folder: &Path) -> Result<Files> {
    let config_path = folder.join("tokenizer_config.json");
    let config = object(&config_path)?;
    let map = object(&folder.join("special_tokens_map.json"))?;
    let token = |name: &str| config.get(name).and_then(content).or_else(|| map.get(name).and_then(content));
    let mut tokens: Map<String, Value> =
        TOKENS.iter().filter_map(|&name| Some((name.to_owned(), token(name)?.into()))).collect();
    for (name, value) in config.iter().filter(|(name, _)| name.ends_with("_token")) {
        if let Some(text) = content(value) {
            tokens.entry(name.as_str()).or_insert_with(|| text.into());
        }
    }
    let mut templates = own_files(folder)?;
    if templates.is_empty()
        && let Some(value) = config.get("chat_template")
    {
        let of = |(name, text): (String, String)| Template {
            name,
            path: config_path.clone(),
            own_file: false,
            text,
        };
        templates.extend(named(&config_path, value)?.into_iter().map(of));
    }
    Ok(Files { templates, tokens })
}

/// `chat_template.jinja` and the files of `additional_chat_templates`.
fn own_files(folder: &Path) -> Result<Vec<Template>> {
    let mut paths = vec![("default".to_owned(), folder.join("chat_template.jinja"))];
    let more = folder.join(CHAT_TEMPLATES);
    if more.is_dir() {
        for entry in fs::read_dir(&more).map_err(Error::io(&more))? {
            let path = entry.map_err(Error::io(&more))?.path();
            if let (Some(name), Some("jinja")) =
                (path.file_stem().and_then(|name| name.to_str()), path.extension().and_then(|e| e.to_str()))
            {
                paths.push((name.to_owned(), path));
            }
        }
    }
    let mut templates = Vec::new();
    for (name, path) in paths.into_iter().filter(|(_, path)| path.is_file()) {
        let text = read_text(&path)?;
        templates.push(Template { name, path, own_file: true, text });
    }
    Ok(templates)
}

/// A text, or a list of objects with a `name` and a `template`.
fn named(path: &Path, value: &Value) -> Result<Vec<(String, String)>> {
    let wrong =
        || Error::file(path, "chat_template must be a text, or a list of objects with a name and a template");
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(vec![("default".to_owned(), text.clone())]),
        Value::Array(list) => {
            let text = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
            list.iter().map(|item| text(item, "name").zip(text(item, "template")).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

/// The object in a file; an empty one if there is no such file.
fn object(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    let bytes = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::file(path, format!("not a JSON object: {error}")))
}

/// A token's text: plain, or the `content` of an object.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
