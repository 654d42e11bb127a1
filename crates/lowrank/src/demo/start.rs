//! The files that the demonstration starts from.

use std::fs;
use std::path::Path;

use lowrank_kernels::random::Philox;
use serde_json::json;

use super::language::{Question, Sentence, vocabulary};
use crate::hub::{MODEL_CONFIG, MODEL_FILE, Tensors, write_atomically, write_tensors};
use crate::models::{self, HeadSpec, ModelConfig};
use crate::nn::for_each_parameter;
use crate::tensor::DType;
use crate::{Error, Result};

/// What every random number of the demonstration comes from.
const SEED: u64 = 7;

/// Writes an untrained model with its tokeniser, as a folder in Hugging Face layout.
pub(super) fn write_model(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let words = vocabulary();
    let config = json!({
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": words.len(),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.1,
    });
    let path = folder.join(MODEL_CONFIG);
    let parsed = ModelConfig::from_json(&config).map_err(|reason| Error::file(&path, reason))?;
    write_text(&path, &format!("{config:#}\n"))?;
    write_text(&folder.join("vocab.txt"), &format!("{}\n", words.join("\n")))?;
    let mut model = models::from_config(&parsed, HeadSpec::classes(parsed.labels.len()))?;
    models::initialise(&mut *model, SEED, DType::F32)?;
    let mut tensors = Tensors::new();
    for_each_parameter(&*model, |path, parameter| {
        tensors.extend(parameter.base().map(|leaf| (path.to_owned(), leaf.float())));
    });
    write_tensors(&folder.join(MODEL_FILE), &tensors)
}

/// Writes sentences with the answers to one question, as a table with a header. Each stream has sentences of its own.
pub(super) fn write_examples(path: &Path, question: Question, stream: u64, count: usize) -> Result<()> {
    let mut text = "text\tlabel\n".to_owned();
    for sentence in sentences(question, stream, count) {
        text += &format!("{}\t{}\n", sentence.text(), sentence.answer(question));
    }
    write_text(path, &text)
}

/// The sentences of a stream; half of them disordered where that is the question.
pub(super) fn sentences(question: Question, stream: u64, count: usize) -> Vec<Sentence> {
    let mut generator = Philox::new(SEED, stream);
    let mut draw = |_| {
        let sentence = Sentence::draw(&mut generator);
        let disordered = question == Question::Order && generator.below(2) == 1;
        if disordered { sentence.disordered(&mut generator) } else { sentence }
    };
    (0..count).map(&mut draw).collect()
}

pub(super) fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, |file| file.write_all(text.as_bytes()))
}
