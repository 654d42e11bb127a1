//! Adapters for llama.cpp.
//!
//! # Source
//! `convert_lora_to_gguf.py` and `src/llama-adapter.cpp` of llama.cpp. The latter scales by `alpha` of the file over the
//! rank of each pair.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::base::Base;
use super::parts::{Pair, Parts};
use crate::hub::{GgufValue, write_gguf};
use crate::models::{Architecture, DecoderConfig};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The file.
const FILE: &str = "adapter_model.gguf";
/// The layers of Llama and its kin.
const DECODER: [(&str, &str); 7] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
/// The layers of GPT-2.
const GPT2: [(&str, &str); 4] = [
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];

/// Writes a folder with one file in it; errors name what was read.
pub(super) fn write(parts: &Parts, base: Option<&Base>, from: &Path, out: &Path) -> Result<()> {
    let (base, architecture) = architecture(base)?;
    if let Some(name) = parts.saved.keys().chain(parts.biases.keys()).next() {
        let reason = "it is no factor of a low-rank pair: llama.cpp's adapters have no place for it";
        return Err(Error::tensor(from, name, reason));
    }
    let alpha = parts.pairs.first().map_or(1.0, |pair| pair.lora_alpha);
    let mut tensors = BTreeMap::new();
    for pair in &parts.pairs {
        let name = name_of(pair, base).map_err(|reason| Error::tensor(from, &pair.module, reason))?;
        let (a, b) = factors(pair, base, alpha);
        tensors.insert(format!("{name}.weight.lora_a"), a);
        tensors.insert(format!("{name}.weight.lora_b"), b);
    }
    let text = |text: &str| GgufValue::Text(text.to_owned());
    let name = base.name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let notes = [
        ("general.architecture", text(architecture)),
        ("general.type", text("adapter")),
        ("adapter.type", text("lora")),
        ("general.name", text(name)),
        ("adapter.lora.alpha", GgufValue::F32(alpha as f32)),
    ];
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    fs::create_dir_all(out).map_err(Error::io(out))?;
    write_gguf(&out.join(FILE), &notes, &tensors)
}

/// The model, and what llama.cpp calls its kind.
///
/// # Errors
/// If there is none, or none that adapters are written for.
pub(super) fn architecture(base: Option<&Base>) -> Result<(&Base, &str)> {
    let Some(base) = base else {
        let reason =
            "llama.cpp's names and the order of its rows are those of an architecture: --model M says which";
        return Err(Error::setting("model", reason));
    };
    let architecture = match (&base.config.architecture, &*base.config.model_type) {
        (Architecture::Gpt2(_), _) => "gpt2",
        (Architecture::Decoder(config), kind) if config.mixture.is_some() => {
            let reason = format!("{kind:?} is a mixture, of whose adapters no GGUF is written");
            return Err(Error::setting("model", reason));
        }
        // The converter of models calls it so, too.
        (Architecture::Decoder(_), "mistral") => "llama",
        (Architecture::Decoder(config), _) => &config.model_type,
        _ => {
            let kind = &base.config.model_type;
            let reason = format!(
                "{kind:?} is none of the models that GGUF is written for: gpt2, llama, mistral, qwen2, qwen3"
            );
            return Err(Error::setting("model", reason));
        }
    };
    Ok((base, architecture))
}

/// What llama.cpp calls a layer, without the ending of its weight.
fn name_of(pair: &Pair, base: &Base) -> Result<String, String> {
    let (layers, list): (&[_], _) = match base.config.architecture {
        Architecture::Gpt2(_) => (&GPT2, "transformer.h."),
        _ => (&DECODER, "model.layers."),
    };
    let shared =
        "the output shares the table of words, and llama.cpp takes a pair for the one as the other's";
    match &*pair.module {
        "model.embed_tokens" | "transformer.wte" | "lm_head" if base.is_tied() => {
            return Err(shared.to_owned());
        }
        "model.embed_tokens" | "transformer.wte" => return Ok("token_embd".to_owned()),
        "lm_head" => return Ok("output".to_owned()),
        _ => {}
    }
    let found = pair.module.strip_prefix(list).and_then(|rest| {
        let (number, layer) = rest.split_once('.')?;
        let (_, name) = layers.iter().find(|(known, _)| *known == layer)?;
        Some(format!("blk.{number}.{name}"))
    });
    found.ok_or_else(|| "llama.cpp adapts no layer like this".to_owned())
}

/// The factors as they are written, `B` scaled to what the file says of all.
fn factors(pair: &Pair, base: &Base, alpha: f64) -> (Tensor, Tensor) {
    let mut b = pair.b.clone();
    if pair.lora_alpha != alpha {
        let factor = (pair.lora_alpha / alpha) as f32;
        b.make_mut::<f32>().iter_mut().for_each(|value| *value *= factor);
    }
    if pair.is_embedding {
        return (pair.a.transposed(), b);
    }
    match &base.config.architecture {
        Architecture::Decoder(config) => (pair.a.clone(), rotated(b, &pair.module, config)),
        _ => (pair.a.clone(), b),
    }
}

/// `B` of queries and keys with its rows in the order of Meta's Llama, in which llama.cpp rotates them: the two halves of
/// a head one row each in turn.
fn rotated(b: Tensor, module: &str, config: &DecoderConfig) -> Tensor {
    let heads = match module.rsplit('.').next() {
        Some("q_proj") => config.num_attention_heads,
        Some("k_proj") => config.num_key_value_heads,
        _ => return b,
    };
    if !matches!(&*config.model_type, "llama" | "mistral") {
        return b;
    }
    let (rows, r) = (b.shape().rows(), b.shape().width());
    let (head, from) = (rows / heads.max(1), b.to_f32_vec());
    let mut to = Vec::with_capacity(from.len());
    for row in 0..rows {
        let (start, inside) = (row / head * head, row % head);
        let source = start + inside % 2 * (head / 2) + inside / 2;
        to.extend_from_slice(&from[source * r..][..r]);
    }
    Tensor::from_slice([rows, r], &to)
}
