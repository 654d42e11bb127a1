//! What the integration tests share: the golden fixtures, and random models.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use std::ops::Range;
use std::path::{Path, PathBuf};

use lowrank::adapter::{self, LoraConfig, Plan};
use lowrank::data::{Batch, BatchSource, Labels, TokenRows};
use lowrank::hub::{Checkpoint, Tensors, to_tensor, write_tensors};
use lowrank::models::{self, Head, HeadSpec, ModelConfig};
use lowrank::nn::for_each_parameter;
use lowrank::tape::AdapterId;
use lowrank::tensor::DType;
use lowrank::train::{AdaptedModel, LoadOptions, read_batch};
use lowrank_kernels::Compute;
use lowrank_kernels::random::Philox;
use serde_json::{Value, json};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fixtures")
}

/// A case of `tests/golden`: a model, perhaps an adapter, inputs, and what PyTorch + PEFT made of them.
pub struct Case {
    pub name: String,
    pub folder: PathBuf,
    pub facts: Value,
}

impl Case {
    pub fn all() -> Vec<Self> {
        let mut cases: Vec<Self> = std::fs::read_dir(fixtures().join("cases"))
            .unwrap()
            .map(|entry| Self::open(&entry.unwrap().path()))
            .collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(cases.len() > 20, "the golden cases are there");
        cases
    }

    pub fn named(name: &str) -> Self {
        Self::open(&fixtures().join("cases").join(name))
    }

    fn open(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("case.json")).unwrap();
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            folder: folder.to_path_buf(),
            facts: serde_json::from_str(&text).unwrap(),
        }
    }

    pub fn model(&self) -> String {
        let name = self.facts["model"].as_str().unwrap();
        fixtures().join("models").join(name).to_string_lossy().into_owned()
    }

    pub fn adapter(&self) -> Option<String> {
        let folder = self.folder.join("adapter");
        folder.is_dir().then(|| folder.to_string_lossy().into_owned())
    }

    pub fn inputs(&self) -> PathBuf {
        self.folder.join("inputs.safetensors")
    }

    /// What the model is for: sequence classification where the case says nothing.
    pub fn head(&self) -> Head {
        head_of(self.facts["task"].as_str().unwrap_or("sequence-classification"))
    }

    /// The width of a classifier; absent for heads that have their own.
    pub fn num_labels(&self) -> Option<usize> {
        self.facts["num_labels"].as_u64().map(|labels| labels as usize)
    }

    pub fn spec(&self) -> HeadSpec {
        HeadSpec::new(self.head(), self.num_labels().unwrap_or(2))
    }

    pub fn options(&self, compute: Compute) -> LoadOptions {
        LoadOptions {
            compute: Some(compute),
            num_labels: self.num_labels(),
            head: Some(self.head()),
            ..LoadOptions::default()
        }
    }

    /// Every expected tensor as f32 values.
    pub fn expected(&self) -> Vec<(String, Vec<f32>)> {
        read_tensors(&self.folder.join("expected.safetensors"))
    }
}

/// The head of a task of the fixtures.
pub fn head_of(task: &str) -> Head {
    match task {
        "sequence-classification" => Head::SequenceClassification,
        "token-classification" => Head::TokenClassification,
        "question-answering" => Head::QuestionAnswering,
        "image-classification" => Head::ImageClassification,
        "causal-lm" => Head::CausalLm,
        "seq2seq-lm" => Head::Seq2SeqLm,
        other => panic!("{other} is no task of the fixtures"),
    }
}

pub fn read_tensors(path: &Path) -> Vec<(String, Vec<f32>)> {
    let file = Checkpoint::open_file(path).unwrap();
    file.names()
        .map(|name| (name.to_owned(), to_tensor(name, &file.get(name).unwrap()).unwrap().to_f32_vec()))
        .collect()
}

/// The largest difference, and the largest expected magnitude.
pub fn difference(actual: &[f32], expected: &[f32]) -> (f32, f32) {
    assert_eq!(actual.len(), expected.len());
    let difference = actual.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let largest = |values: &mut dyn Iterator<Item = f32>| {
        values.fold(0.0, |max: f32, x| if x.is_nan() { f32::INFINITY } else { max.max(x) })
    };
    (largest(&mut difference.into_iter()), largest(&mut expected.iter().map(|x| x.abs())))
}

/// A case's model with its adapter, and its batch.
pub fn load(case: &Case, compute: Compute) -> (AdaptedModel, Batch) {
    let adapted =
        AdaptedModel::load(&case.model(), case.adapter().as_deref(), case.options(compute)).unwrap();
    let batch = read_batch(&case.inputs(), adapted.model().info()).unwrap();
    (adapted, batch)
}

/// One sequence of a batch as a batch of its own; it keeps its number in the whole.
pub fn alone(batch: &Batch, sequence: usize) -> Batch {
    part(batch, sequence..sequence + 1)
}

/// Some sequences of a batch as a batch of their own; they keep their numbers in the whole.
pub fn part(batch: &Batch, sequences: Range<usize>) -> Batch {
    let text = batch.text().unwrap();
    let (start, end) = (text.offsets[sequences.start], text.offsets[sequences.end]);
    Batch {
        source: BatchSource::Tokens(TokenRows {
            ids: text.ids[start..end].to_vec(),
            type_ids: text.type_ids[start..end].to_vec(),
            position_ids: text.position_ids[start..end].to_vec(),
            offsets: text.offsets[sequences.start..=sequences.end].iter().map(|at| at - start).collect(),
        }),
        target: None,
        labels: match &batch.labels {
            Labels::Classes(classes) => Labels::Classes(classes[sequences.clone()].to_vec()),
            Labels::Scores(scores) => Labels::Scores(scores[sequences.clone()].to_vec()),
            Labels::None => Labels::None,
            other => panic!("these labels are cut nowhere yet: {other:?}"),
        },
        examples: batch.examples[sequences].to_vec(),
    }
}

/// The configuration of a BERT whose sizes are multiples of nothing but its heads.
pub fn bert_config(layers: usize) -> Value {
    json!({
        "model_type": "bert", "vocab_size": 84, "hidden_size": 33, "num_hidden_layers": layers,
        "num_attention_heads": 3, "intermediate_size": 57, "hidden_act": "gelu", "max_position_embeddings": 70,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0, "initializer_range": 0.2,
    })
}

/// A randomly initialised model of a configuration.
pub fn random_model(config: &Value, num_labels: usize, compute: Compute) -> AdaptedModel {
    let config = ModelConfig::from_json(config).unwrap();
    let mut model = models::from_config(&config, HeadSpec::classes(num_labels)).unwrap();
    models::initialise(&mut *model, 5, DType::F32).unwrap();
    AdaptedModel::from_model(model, config, compute)
}

/// Ragged sequences of random words with random classes.
pub fn random_batch(lengths: &[usize], vocabulary: u64, classes: u64) -> Batch {
    let random = &mut Philox::new(31, 0);
    let mut offsets = vec![0];
    offsets.extend(lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    }));
    let tokens = *offsets.last().unwrap();
    let text = TokenRows {
        ids: (0..tokens).map(|_| 5 + random.below(vocabulary - 5) as u32).collect(),
        type_ids: (0..tokens).map(|_| random.below(2) as u32).collect(),
        position_ids: lengths.iter().flat_map(|length| 0..*length as u32).collect(),
        offsets,
    };
    let labels = Labels::Classes(lengths.iter().map(|_| random.below(classes) as i64).collect());
    Batch::of_tokens(text, labels, 0).unwrap()
}

/// Puts a fresh adapter on a model and moves all of it off its start, `B` too.
pub fn attach_perturbed(adapted: &mut AdaptedModel, config: &LoraConfig) -> Plan {
    let info = adapted.model().info().clone();
    let plan = adapter::attach(adapted.model_mut(), &info, config, AdapterId(0), 9).unwrap();
    let random = &mut Philox::new(32, 0);
    adapter::for_each_leaf_mut(adapted.model_mut(), AdapterId(0), |_, leaf| {
        leaf.value_mut().iter_mut().for_each(|value| *value += 0.1 * random.normal_f32());
    });
    plan
}

/// Writes a model folder with a word list of its own: `config.json`, `model.safetensors`, `vocab.txt`.
pub fn write_model(folder: &Path, config: &Value, num_labels: usize) {
    let adapted = random_model(config, num_labels, Compute::F32);
    let mut tensors = Tensors::new();
    for_each_parameter(adapted.model(), |path, parameter| {
        tensors.insert(path.to_owned(), parameter.base().unwrap().value().clone());
    });
    std::fs::create_dir_all(folder).unwrap();
    write_tensors(&folder.join("model.safetensors"), &tensors).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let vocabulary = fixtures().join("tokenizers/wordpiece-uncased/vocab.txt");
    std::fs::copy(vocabulary, folder.join("vocab.txt")).unwrap();
}
