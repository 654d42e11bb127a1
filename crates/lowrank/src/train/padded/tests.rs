//! Masks that hide tokens between others.

use super::*;
use crate::hub::{Tensors, write_tensors};
use crate::models::{self, HeadSpec};

/// What reading says of 5 columns, of which the mask shows some.
fn read(info: &ModelInfo, mask: [f32; 5]) -> Result<Padded> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inputs.safetensors");
    let tensor = |values: [f32; 5]| Tensor::from_slice([1, 5], &values);
    let tensors = [("input_ids", tensor([3.0, 4.0, 5.0, 6.0, 7.0])), ("attention_mask", tensor(mask))];
    write_tensors(&path, &Tensors::from(tensors.map(|(name, tensor)| (name.to_owned(), tensor)))).unwrap();
    read_padded(&path, info)
}

fn info(changes: serde_json::Value) -> ModelInfo {
    let mut config = serde_json::json!({
        "model_type": "mistral", "vocab_size": 50, "hidden_size": 24, "intermediate_size": 34,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    let config = models::ModelConfig::from_json(&config).unwrap();
    let head = HeadSpec::new(config.usual_head(), 2);
    models::from_config(&config, head).unwrap().info().clone()
}

#[test]
fn a_hole_in_a_mask_is_refused_where_attention_counts_rows() {
    let hole = [1.0, 1.0, 0.0, 1.0, 1.0];
    for window in [3, 4] {
        let error = read(&info(serde_json::json!({"sliding_window": window})), hole).unwrap_err().to_string();
        assert!(error.contains("attention_mask: it hides tokens between others of row 0"), "{error}");
    }
    let relative = ModelInfo { counts_rows_beyond: Some(1), ..info(serde_json::json!({})) };
    assert!(read(&relative, hole).is_err());
    let t5 = info(serde_json::json!({"model_type": "t5"}));
    assert_eq!(t5.counts_rows_beyond, Some(1));
    // All within one window, and no window: nothing is counted.
    for window in [serde_json::json!(5), serde_json::Value::Null] {
        assert!(read(&info(serde_json::json!({"sliding_window": window})), hole).is_ok(), "{window}");
    }
    for ends in [[0.0, 1.0, 1.0, 1.0, 0.0], [1.0; 5], [0.0, 0.0, 1.0, 0.0, 0.0]] {
        assert!(read(&relative, ends).is_ok(), "{ends:?}");
    }
}
