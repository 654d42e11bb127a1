//! Tokenisers from the files of a model folder.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer, decoders};

use crate::text::read_text;
use crate::{Error, Result, foreign};

/// What `tokenizer_config.json` says, as far as it decides here; every key may be absent.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub do_lower_case: Option<bool>,
    pub strip_accents: Option<bool>,
    pub tokenize_chinese_chars: Option<bool>,
    pub pad_token: Option<String>,
    pub truncation_side: Option<String>,
}

/// A token as `tokenizer_config.json` writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Plain(String),
    Described { content: String },
}

impl Settings {
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer_config.json");
        if !path.is_file() {
            return Ok(Self::default());
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::file(&path, format!("not a JSON object: {error}")))?;
        let flag = |key: &str| json.get(key).and_then(serde_json::Value::as_bool);
        let token = |key: &str| match Token::deserialize(json.get(key)?) {
            Ok(Token::Plain(content) | Token::Described { content }) => Some(content),
            Err(_) => None,
        };
        Ok(Self {
            do_lower_case: flag("do_lower_case"),
            strip_accents: flag("strip_accents"),
            tokenize_chinese_chars: flag("tokenize_chinese_chars"),
            pad_token: token("pad_token"),
            truncation_side: json.get("truncation_side").and_then(|side| side.as_str()).map(str::to_owned),
        })
    }
}

pub(super) fn read(folder: &Path, settings: &Settings) -> Result<Tokenizer> {
    let path = |name: &str| folder.join(name);
    let has = |name: &str| path(name).is_file();
    if has("tokenizer.json") {
        let path = path("tokenizer.json");
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let read = foreign::guarded(|| Tokenizer::from_bytes(bytes))
            .unwrap_or_else(|| Err("it holds what its parts cannot be made of".into()));
        read.map_err(|error| Error::file(&path, format!("not a tokeniser: {error}")))
    } else if has("vocab.json") && has("merges.txt") {
        byte_level_bpe(&path("vocab.json"), &path("merges.txt"))
    } else if has("vocab.txt") {
        wordpiece(&path("vocab.txt"), settings)
    } else {
        Err(Error::file(
            folder,
            "no tokeniser in this folder: tokenizer.json, or vocab.json and merges.txt, or vocab.txt is needed",
        ))
    }
}

/// RoBERTa's tokeniser.
fn byte_level_bpe(vocab_path: &Path, merges_path: &Path) -> Result<Tokenizer> {
    let bytes = fs::read(vocab_path).map_err(Error::io(vocab_path))?;
    let vocab: std::collections::HashMap<String, u32> = serde_json::from_slice(&bytes).map_err(|error| {
        Error::file(vocab_path, format!("not an object of tokens and their ids: {error}"))
    })?;
    let mut merges = Vec::new();
    for (number, line) in read_text(merges_path)?.lines().enumerate() {
        if line.is_empty() || (number == 0 && line.starts_with("#version")) {
            continue;
        }
        let Some((left, right)) = line.split_once(' ').filter(|(_, right)| !right.contains(' ')) else {
            return Err(Error::row(merges_path, number + 1, "a merge is two tokens with a space between"));
        };
        merges.push((left.to_owned(), right.to_owned()));
    }
    let id = |token: &str| special(vocab_path, token, |token| vocab.get(token).copied());
    let processing = RobertaProcessing::new(("</s>".to_owned(), id("</s>")?), ("<s>".to_owned(), id("<s>")?))
        .trim_offsets(true)
        .add_prefix_space(false);
    for token in ["<pad>", "<unk>", "<mask>"] {
        id(token)?;
    }
    let model =
        BPE::builder().vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges).build().map_err(
            |error| Error::file(merges_path, format!("a merge makes no token of vocab.json: {error}")),
        )?;
    let mut tokenizer = Tokenizer::new(ModelWrapper::BPE(model));
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_post_processor(Some(processing));
    tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
    let specials = ["<s>", "<pad>", "</s>", "<unk>"].map(|token| AddedToken::from(token, true));
    let mask = AddedToken::from("<mask>", true).lstrip(true);
    add_specials(&mut tokenizer, vocab_path, specials.into_iter().chain([mask]))?;
    Ok(tokenizer)
}

/// BERT's tokeniser.
fn wordpiece(path: &Path, settings: &Settings) -> Result<Tokenizer> {
    let text = read_text(path)?;
    let tokens = text.strip_suffix('\n').unwrap_or(&text).split('\n');
    let vocab: Vocab = (0..)
        .zip(tokens)
        .map(|(id, token)| (token.strip_suffix('\r').unwrap_or(token).to_owned(), id))
        .collect();
    let id = |token: &str| special(path, token, |token| vocab.get(token).copied());
    let processing =
        BertProcessing::new(("[SEP]".to_owned(), id("[SEP]")?), ("[CLS]".to_owned(), id("[CLS]")?));
    for token in ["[PAD]", "[UNK]"] {
        id(token)?;
    }
    let has_mask = vocab.contains_key("[MASK]");
    let model = WordPiece::builder()
        .vocab(vocab)
        .unk_token("[UNK]".to_owned())
        .build()
        .map_err(|error| Error::file(path, format!("not a WordPiece vocabulary: {error}")))?;
    let mut tokenizer = Tokenizer::new(ModelWrapper::WordPiece(model));
    let normalizer = BertNormalizer::new(
        true,
        settings.tokenize_chinese_chars.unwrap_or(true),
        settings.strip_accents,
        settings.do_lower_case.unwrap_or(true),
    );
    tokenizer
        .with_normalizer(Some(normalizer))
        .map_err(|error| Error::file(path, format!("not a WordPiece vocabulary: {error}")))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(processing));
    tokenizer.with_decoder(Some(decoders::wordpiece::WordPiece::default()));
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].into_iter().chain(has_mask.then_some("[MASK]"));
    add_specials(&mut tokenizer, path, specials.map(|token| AddedToken::from(token, true)))?;
    Ok(tokenizer)
}

fn add_specials(
    tokenizer: &mut Tokenizer,
    path: &Path,
    tokens: impl Iterator<Item = AddedToken>,
) -> Result<()> {
    tokenizer
        .add_special_tokens(tokens)
        .map(|_| ())
        .map_err(|error| Error::file(path, format!("its special tokens cannot be added: {error}")))
}

fn special(path: &Path, token: &str, id: impl Fn(&str) -> Option<u32>) -> Result<u32> {
    id(token)
        .ok_or_else(|| Error::file(path, format!("the special token {token} is missing from the vocabulary")))
}
