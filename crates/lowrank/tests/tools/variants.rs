//! Small adapters of every variant.

use std::path::{Path, PathBuf};

use lowrank::hub::{Tensors, write_tensors};
use lowrank::tensor::Tensor;
use lowrank_kernels::random::Philox;
use serde_json::{Value, json};

/// An adapter on two linear layers `[9, 7]` and an embedding of 11 entries, in a folder of its own.
pub struct Variant {
    pub ranks: [usize; 3],
    pub settings: Value,
    pub lora_bias: bool,
    pub use_dora: bool,
    pub seed: u64,
}

pub const PREFIX: &str = "base_model.model.";

impl Variant {
    pub fn plain(r: usize, seed: u64) -> Self {
        let settings = json!({"r": r, "lora_alpha": 5});
        Self { ranks: [r; 3], settings, lora_bias: false, use_dora: false, seed }
    }

    /// One of each whose products can be added up: scaled by the rank or its root, with ranks and alphas of single layers,
    /// with biases of `B`.
    pub fn all() -> Vec<(&'static str, Self)> {
        let patterned = json!({
            "r": 3, "lora_alpha": 5, "use_rslora": true, "rank_pattern": {"value": 2}, "alpha_pattern": {"words": 7}
        });
        let rslora = json!({"r": 3, "lora_alpha": 5, "use_rslora": true});
        vec![
            ("plain", Self::plain(3, 1)),
            ("rslora", Self { settings: rslora, ..Self::plain(3, 2) }),
            ("patterned", Self { ranks: [3, 2, 3], settings: patterned, ..Self::plain(3, 3) }),
            ("lora_bias", Self { lora_bias: true, ..Self::plain(3, 4) }),
        ]
    }

    /// Writes it, after `change` was made to its tensors.
    pub fn write(&self, folder: &Path, change: impl FnOnce(&mut Tensors)) -> String {
        std::fs::create_dir_all(folder).unwrap();
        let mut random = Philox::new(self.seed, 0);
        let mut tensors = Tensors::new();
        let mut draw = |key: &str, shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal_f32()).collect();
            let tensor = match *shape {
                [rows, columns] => Tensor::from_slice([rows, columns], &values),
                _ => Tensor::from_slice([values.len()], &values),
            };
            tensors.insert(format!("{PREFIX}{key}"), tensor);
        };
        for (name, r) in ["query", "value"].into_iter().zip(self.ranks) {
            draw(&format!("{name}.lora_A.weight"), &[r, 7]);
            draw(&format!("{name}.lora_B.weight"), &[9, r]);
            if self.lora_bias {
                draw(&format!("{name}.lora_B.bias"), &[9]);
            }
            if self.use_dora {
                draw(&format!("{name}.lora_magnitude_vector"), &[9]);
            }
        }
        draw("words.lora_embedding_A", &[self.ranks[2], 11]);
        draw("words.lora_embedding_B", &[7, self.ranks[2]]);
        if self.use_dora {
            draw("words.lora_magnitude_vector", &[7]);
        }
        change(&mut tensors);
        write_tensors(&folder.join("adapter_model.safetensors"), &tensors).unwrap();
        let mut settings = json!({"peft_type": "LORA", "target_modules": ["query", "value", "words"]});
        let map = settings.as_object_mut().unwrap();
        map.extend(self.settings.as_object().unwrap().clone());
        map.insert("lora_bias".into(), self.lora_bias.into());
        map.insert("use_dora".into(), self.use_dora.into());
        std::fs::write(folder.join("adapter_config.json"), settings.to_string()).unwrap();
        folder.to_string_lossy().into_owned()
    }
}

/// The values of a tensor of an adapter.
pub fn tensor(folder: &Path, key: &str) -> Vec<f32> {
    let tensors = crate::common::read_tensors(&folder.join("adapter_model.safetensors"));
    tensors.into_iter().find(|(name, _)| *name == format!("{PREFIX}{key}")).unwrap().1
}

pub fn fixture(name: &str) -> PathBuf {
    crate::common::fixtures().join("combine").join(name)
}
