//! What the integration tests share: the golden fixtures.
#![allow(dead_code, missing_docs)]

use std::path::{Path, PathBuf};

use lowrank::hub::Checkpoint;
use lowrank::hub::to_tensor;
use serde_json::Value;

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

    pub fn num_labels(&self) -> usize {
        self.facts["num_labels"].as_u64().unwrap() as usize
    }

    /// Every expected tensor as f32 values.
    pub fn expected(&self) -> Vec<(String, Vec<f32>)> {
        read_tensors(&self.folder.join("expected.safetensors"))
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
