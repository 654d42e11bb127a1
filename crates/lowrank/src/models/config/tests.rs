//! Configurations, as Transformers reads them.

use serde_json::{Value, json};

use super::*;

fn with(mut config: Value, changes: Value) -> Result<Architecture, String> {
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    ModelConfig::from_json(&config).map(|config| config.architecture)
}

fn decoder(model_type: &str, changes: Value) -> Result<DecoderConfig, String> {
    let config = json!({
        "model_type": model_type, "vocab_size": 50, "hidden_size": 24, "intermediate_size": 34,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    });
    match with(config, changes)? {
        Architecture::Decoder(config) => Ok(config),
        other => panic!("{other:?}"),
    }
}

fn rope(changes: Value) -> Result<Rope, String> {
    decoder("llama", changes).map(|config| config.rope)
}

#[test]
fn a_part_of_a_head_is_turned_by_no_architecture_here() {
    for place in
        [json!({"partial_rotary_factor": 0.5}), json!({"rope_parameters": {"partial_rotary_factor": 0.5}})]
    {
        assert_eq!(rope(place).unwrap(), rope(json!({})).unwrap(), "the plain rotation ignores it");
    }
    let linear = json!({"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}});
    assert!(rope(linear).unwrap_err().contains("partial_rotary_factor is 0.5"));
}

#[test]
fn of_two_original_lengths_the_outer_counts_and_of_two_rotations_the_older_key() {
    let original = |changes: Value| match rope(changes).unwrap().kind {
        RopeKind::Llama3 { original, .. } | RopeKind::Yarn { original, .. } => original,
        other => panic!("{other:?}"),
    };
    for kind in ["llama3", "yarn"] {
        let inner = json!({"rope_type": kind, "factor": 2.0, "original_max_position_embeddings": 16});
        assert_eq!(original(json!({"rope_parameters": inner})), 16.0);
        assert_eq!(original(json!({"rope_parameters": inner, "original_max_position_embeddings": 8})), 8.0);
        assert_eq!(original(json!({"rope_parameters": {"rope_type": kind, "factor": 2.0}})), 64.0);
    }
    let plain = json!({"rope_type": "default", "rope_theta": 5.0});
    let both = json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": plain});
    assert_eq!(rope(both).unwrap(), Rope { theta: 10_000.0, kind: RopeKind::Linear { factor: 2.0 } });
    let empty = json!({"rope_scaling": {}, "rope_parameters": plain});
    assert_eq!(rope(empty).unwrap(), Rope { theta: 5.0, kind: RopeKind::Default });
}

#[test]
fn a_text_ends_at_the_token_that_transformers_takes_where_nothing_is_said() {
    let ends = |kind: &str, changes: Value| decoder(kind, changes).unwrap().eos_token_ids;
    for (kind, usual) in [("llama", vec![2]), ("mistral", vec![2]), ("qwen2", vec![]), ("qwen3", vec![])] {
        assert_eq!(ends(kind, json!({})), usual, "{kind}");
        assert_eq!(ends(kind, json!({"eos_token_id": null})), Vec::<u32>::new(), "{kind}");
        assert_eq!(ends(kind, json!({"eos_token_id": [7, 9]})), [7, 9], "{kind}");
    }
}

#[test]
fn a_switch_of_windows_that_is_no_switch_is_refused() {
    for wrong in [json!("true"), json!(1)] {
        for window in [json!(8), Value::Null] {
            let error = decoder("qwen2", json!({"use_sliding_window": wrong, "sliding_window": window}));
            assert!(error.unwrap_err().contains("use_sliding_window is"), "{wrong} {window}");
        }
    }
    let switched = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1});
    assert_eq!(decoder("qwen2", switched).unwrap().windows, [None, Some(8)]);
}

#[test]
fn general_names_stand_for_an_architectures_own_and_may_not_contradict_them() {
    let Architecture::Gpt2(gpt2) = with(
        json!({"model_type": "gpt2"}),
        json!({"hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 2, "max_position_embeddings": 48}),
    )
    .unwrap() else {
        panic!()
    };
    assert_eq!((gpt2.n_embd, gpt2.n_head, gpt2.n_layer, gpt2.n_positions, gpt2.n_inner), (30, 3, 2, 48, 120));
    let Architecture::DistilBert(distilbert) = with(
        json!({"model_type": "distilbert"}),
        json!({"hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 2}),
    )
    .unwrap() else {
        panic!()
    };
    assert_eq!((distilbert.dim, distilbert.n_heads, distilbert.n_layers), (30, 3, 2));
    let Architecture::T5(t5) = with(
        json!({"model_type": "t5"}),
        json!({"hidden_size": 30, "num_attention_heads": 3, "num_hidden_layers": 2, "head_dim": 7}),
    )
    .unwrap() else {
        panic!()
    };
    assert_eq!((t5.d_model, t5.num_heads, t5.num_layers, t5.d_kv), (30, 3, 2, 7));
    let same = with(json!({"model_type": "t5"}), json!({"hidden_size": 30, "d_model": 30}));
    assert!(same.is_ok(), "{same:?}");
    let error = with(json!({"model_type": "t5"}), json!({"hidden_size": 30, "d_model": 32})).unwrap_err();
    assert_eq!(error, "hidden_size is 30 and d_model is 32, which mean the same: remove one");
}

#[test]
fn sizes_whose_products_are_beyond_any_machine_are_refused() {
    let huge = 1 << 24;
    let vit = json!({"num_channels": huge, "patch_size": huge, "image_size": huge});
    let error = with(json!({"model_type": "vit"}), vit).unwrap_err();
    assert!(error.contains("num_channels and patch_size"), "{error}");
    let error = with(json!({"model_type": "vit"}), json!({"num_labels": 65_537})).unwrap_err();
    assert!(error.contains("num_labels is 65537; it must be at most 65536"), "{error}");
    let llama = json!({
        "model_type": "llama", "vocab_size": huge, "hidden_size": huge, "intermediate_size": huge,
        "num_hidden_layers": 4096, "num_attention_heads": 4095, "num_key_value_heads": 4095, "head_dim": huge,
    });
    let config = ModelConfig::from_json(&llama).unwrap();
    let head = crate::models::HeadSpec::new(Head::CausalLm, 2);
    let error = crate::models::from_config(&config, head).err().unwrap().to_string();
    assert!(error.contains("config.json: its sizes make a model of more than"), "{error}");
}

#[test]
fn an_activation_that_is_not_there_is_answered_with_all_that_are() {
    let error = decoder("llama", json!({"hidden_act": "swish9"})).unwrap_err();
    for name in ["quick_gelu", "gelu_pytorch_tanh", "swish", "tanh"] {
        assert!(error.contains(name), "{error}");
    }
}

/// Mixtral's configurations have another key for it than Qwen's.
#[test]
fn the_number_of_experts_is_named_by_the_models_own_key() {
    let qwen = json!({"moe_intermediate_size": 8});
    for (model_type, key) in
        [("mixtral", "num_local_experts"), ("qwen3_moe", "num_experts"), ("qwen2_moe", "num_experts")]
    {
        for (count, expected) in [
            (json!(1), format!("num_experts_per_tok 2 is beyond {key} 1")),
            (json!(1 << 13), format!("{key} is 8192; it must be at most")),
            (json!(0), format!("{key} is 0; it must be a whole number")),
        ] {
            let mut changes = qwen.clone();
            (changes[key], changes["num_experts_per_tok"]) = (count, json!(2));
            let error = decoder(model_type, changes).unwrap_err();
            assert!(error.contains(&expected), "{model_type}: {error}");
        }
    }
    let other = decoder("mixtral", json!({"num_experts": 0})).unwrap_err();
    assert!(other.contains("num_experts is 0"), "what the file has: {other}");
    let both = decoder("mixtral", json!({"num_experts": 4, "num_local_experts": 8})).unwrap_err();
    assert!(both.contains("mean the same"), "{both}");
}
