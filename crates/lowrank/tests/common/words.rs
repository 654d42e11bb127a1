//! Model folders of the golden fixtures with a tokeniser of their own: each word a token.
#![allow(dead_code)]

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// A template whose turns end with the end token.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message['role'] + ' ' + message['content'] }} \
                                 </s> {% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}";

/// Words that the tokenisers know, beside `w0`, `w1` and so on.
const WORDS: [&str; 9] = ["user", "assistant", "system", ":", "?", "red", "green", "blue", "sky"];

/// Copies a golden model into a folder and gives it a tokeniser and a chat template. Of encoder-decoders a text ends with
/// the end token; of decoders it begins with no token.
pub fn write_language_model(golden: &Path, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for entry in fs::read_dir(golden).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let config: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let size = config["vocab_size"].as_u64().unwrap() as usize;
    let id = |key: &str| match config[key].as_u64() {
        None if key == "eos_token_id" => Some(2),
        id => id.map(|id| id as usize),
    };
    let mut tokens = vec![String::new(); size];
    for (key, token) in [("pad_token_id", "<pad>"), ("bos_token_id", "<s>"), ("eos_token_id", "</s>")] {
        if let Some(id) = id(key) {
            tokens[id] = token.to_owned();
        }
    }
    let special: Vec<Value> = (tokens.iter().enumerate())
        .filter(|(_, token)| !token.is_empty())
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let numbered = (0..).map(|number| format!("w{number}"));
    let mut words = std::iter::once("<unk>".to_owned()).chain(WORDS.map(str::to_owned)).chain(numbered);
    tokens.iter_mut().filter(|token| token.is_empty()).for_each(|token| *token = words.next().unwrap());
    let end = id("eos_token_id").unwrap();
    let ended = json!({
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [end], "tokens": ["</s>"]}},
    });
    let vocabulary: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special, "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": if config["model_type"] == "t5" { ended } else { Value::Null },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
    fs::write(folder.join("chat_template.jinja"), CHAT_TEMPLATE).unwrap();
}

/// Rows of a task: what follows is told by the first word, and both parts have many lengths.
pub fn language_rows(task: &str, rows: usize) -> String {
    let row = |row: usize| {
        let colour = ["red", "green", "blue"][row % 3];
        let (long, other) = (format!("w{}", row % 5), format!("w{}", 5 + row % 4));
        let given = format!("{colour} {}?", vec![long; 1 + row % 4].join(" "));
        let wanted = format!("{}{colour}", format!("{other} ").repeat(row % 5));
        match task {
            "text" => json!({"text": format!("{given} {wanted}")}),
            "prompt-completion" => json!({"prompt": format!("{given} "), "completion": wanted}),
            "messages" => json!({"messages": [{"role": "user", "content": given},
                                              {"role": "assistant", "content": wanted}]}),
            _ => json!({"source": given, "target": wanted}),
        }
    };
    (0..rows).map(|number| format!("{}\n", row(number))).collect()
}
