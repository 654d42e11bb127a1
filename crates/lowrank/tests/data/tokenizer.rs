use std::fs;
use std::path::Path;

use lowrank::data::Tokenizer;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    name: String,
    #[serde(rename = "where")]
    place: String,
    folder: String,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    text: String,
    pair: Option<String>,
    max_length: Option<usize>,
    input_ids: Vec<u32>,
    token_type_ids: Vec<u32>,
}

#[test]
fn ids_are_those_of_transformers() {
    let Some(path) = crate::fixtures("tokenizers.json") else { return };
    let golden: Vec<Golden> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert!(golden.len() > 3);
    for Golden { name, place, folder, cases } in golden {
        let folder = if place == "shared" { crate::shared(&folder) } else { crate::fixtures(&folder) };
        let Some(folder) = folder else { continue };
        let tokenizer = Tokenizer::from_folder(folder).unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let length = case.max_length.unwrap_or(usize::MAX);
            let encoding = tokenizer.encode(&case.text, case.pair.as_deref(), length).unwrap();
            assert_eq!(encoding.ids, case.input_ids, "{name}: {:?} {:?} {length}", case.text, case.pair);
            assert_eq!(encoding.type_ids, case.token_type_ids, "{name}: {:?} {:?}", case.text, case.pair);
            assert!(encoding.truncated <= (encoding.ids.len() == length));
        }
    }
}

#[test]
fn the_published_tokenizer_json_and_its_parts_agree() {
    let Some(published) = crate::shared("data/tokenizers/roberta-base") else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(published.join(name), folder.path().join(name)).unwrap();
    }
    let (whole, parts) =
        (Tokenizer::from_folder(published).unwrap(), Tokenizer::from_folder(folder.path()).unwrap());
    assert_eq!(whole.encode("Hello world!", None, 128).unwrap().ids, [0, 31414, 232, 328, 2]);
    assert_eq!((whole.vocab_size(), whole.pad_id()), (50265, Some(1)));
    assert_eq!((parts.vocab_size(), parts.pad_id()), (50265, Some(1)));
    for text in ["", "I'll do 12,5%", "Ünïcödé 日本 😀\u{200d}", "  <mask> and<mask> it"] {
        let ids = whole.encode(text, Some("b"), 128).unwrap();
        assert_eq!(parts.encode(text, Some("b"), 128).unwrap(), ids, "{text}");
    }
    let ids = parts.encode("Hello world!", None, 128).unwrap().ids;
    assert_eq!(parts.decode(&ids, true).unwrap(), "Hello world!");
    assert_eq!(parts.tokens(&[0, 31414, 9_999_999]), ["<s>", "Hello", "<unknown 9999999>"]);
}

fn refuse(folder: &Path) -> String {
    Tokenizer::from_folder(folder).unwrap_err().to_string()
}

#[test]
fn a_folder_without_a_tokeniser_or_with_a_wrong_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| fs::write(folder.path().join(name), text).unwrap();
    assert!(refuse(folder.path()).contains("tokenizer.json, or vocab.json and merges.txt, or vocab.txt"));

    write("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\nhello\n");
    assert!(refuse(folder.path()).contains("[SEP] is missing"));
    write("vocab.txt", b"[PAD]\n[UNK]\n\xff\n");
    assert!(refuse(folder.path()).contains("vocab.txt:3: it is not UTF-8"), "{}", refuse(folder.path()));

    write("vocab.json", br#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3,"<mask>":4,"a":5,"b":6,"ab":7}"#);
    write("merges.txt", b"#version: 0.2\na b\na c\n");
    assert!(refuse(folder.path()).contains("merges.txt"), "{}", refuse(folder.path()));
    write("merges.txt", b"#version: 0.2\nab\n");
    assert!(refuse(folder.path()).contains("merges.txt:2"), "{}", refuse(folder.path()));
    write("vocab.json", b"[1]");
    assert!(refuse(folder.path()).contains("vocab.json"));

    write("tokenizer.json", b"{}");
    assert!(refuse(folder.path()).contains("tokenizer.json"));
    write("tokenizer.json", b"{\"model\":{\"type\":\"BPE\",\"vocab\":3}}");
    assert!(refuse(folder.path()).contains("tokenizer.json"));
    write("tokenizer_config.json", b"3");
    assert!(refuse(folder.path()).contains("tokenizer_config.json"));
}

#[test]
fn a_length_below_the_special_tokens_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n").unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("Hello hello", Some("x"), 4).unwrap().ids, [2, 5, 3, 3]);
    assert_eq!(tokenizer.encode("Hello hello", None, 2).unwrap().ids, [2, 3]);
    let text = tokenizer.encode("hello", None, 1).unwrap_err().to_string();
    assert!(text.contains("data.max_length") && text.contains("2 special tokens"), "{text}");
}
