"""Llama, Mistral, Qwen2 and Qwen3: language modelling, the last token's class, generation; rotary scaling."""

import json
import shutil
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from adapted import (
    RAGGED, case, classes, next_tokens, plain_case, tokens, unmasked, write_generations, write_modules,
)  # fmt: skip
from common import fresh
from models import build, save

SIZES = dict(
    vocab_size=53, hidden_size=24, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2,
    intermediate_size=34, max_position_embeddings=40, pad_token_id=0,
)  # fmt: skip
# One layer with one pair of heads; a base so small that wavelengths fall on every side of the limits below.
ROTARY = SIZES | dict(
    vocab_size=41, hidden_size=20, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1,
    intermediate_size=26, tie_word_embeddings=True,
)  # fmt: skip
YARN = dict(rope_type="yarn", rope_theta=50.0, factor=4.0, original_max_position_embeddings=32)
SCALINGS = {
    "linear": (40, dict(rope_type="linear", rope_theta=10000.0, factor=2.5)),
    "dynamic": (8, dict(rope_type="dynamic", rope_theta=500.0, factor=3.0)),
    "llama3": (
        128,
        dict(rope_type="llama3", rope_theta=50.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0)
        | dict(original_max_position_embeddings=32),
    ),
    "yarn": (128, YARN),
    "yarn-betas": (128, YARN | dict(beta_fast=8.0, beta_slow=2.0, attention_factor=1.3, truncate=False)),
    "yarn-mscale": (128, YARN | dict(mscale=1.2, mscale_all_dim=0.7)),
}
LONG = {kind: (19, 7) if kind == "dynamic" else (45, 20) for kind in SCALINGS}
LM, SEQUENCE = "causal-lm", "sequence-classification"
QV = ["q_proj", "v_proj"]
PROMPTS = [[9, 30, 12, 44, 7, 18, 5], [21, 40], [50, 33, 8, 11]]


def make():
    save_models()
    llama_cases()
    other_cases()
    sequence_cases()
    rotary_cases()
    names = "llama", "mistral", "qwen2", "qwen3"
    write_modules(
        {name: (name, LM) for name in names} | {f"{name}:sequence-classification": (name, SEQUENCE) for name in names}
    )


def save_models():
    save("llama", LlamaForCausalLM, LlamaConfig, **SIZES)
    biased = dict(attention_bias=True, mlp_bias=True, head_dim=10, num_key_value_heads=1, rms_norm_eps=1e-5)
    save("llama-bias", LlamaForCausalLM, LlamaConfig, **SIZES | biased)
    save_llama_tied_bf16()
    save("mistral", MistralForCausalLM, MistralConfig, **SIZES, sliding_window=4)
    sliding = dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)
    save("qwen2", Qwen2ForCausalLM, Qwen2Config, **SIZES, **sliding)
    as_transformers_4("qwen2")
    save("qwen2-full", Qwen2ForCausalLM, Qwen2Config, **ROTARY, **sliding | dict(use_sliding_window=False))
    save("qwen3", Qwen3ForCausalLM, Qwen3Config, **SIZES, head_dim=10, tie_word_embeddings=True)
    unpadded = ROTARY | dict(pad_token_id=None, tie_word_embeddings=False)
    save("qwen3-score", Qwen3ForSequenceClassification, Qwen3Config, **unpadded, head_dim=6, num_labels=4)


def save_llama_tied_bf16():
    """bfloat16 in shards, a tied head that is not in the file, under a configuration of Transformers 4."""
    path = fresh("models/llama-tied-bf16-sharded")
    model = build(path.name, LlamaForCausalLM, LlamaConfig, **SIZES, tie_word_embeddings=True).to(torch.bfloat16)
    model.save_pretrained(path, max_shard_size="10KB")
    assert len(list(path.glob("model-*.safetensors"))) > 1
    as_transformers_4(path.name)


def as_transformers_4(name, kind="rope_type"):
    """Writes a model's configuration as Transformers 4 did: `rope_theta`, `rope_scaling`, `torch_dtype`."""
    file = Path("models") / name / "config.json"
    config = json.loads(file.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope[kind] = rope.pop("rope_type")
    config["rope_scaling"] = None if rope[kind] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    config["transformers_version"] = "4.46.0"
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def language(name, model, padding="right", lengths=RAGGED, mask=True, **options):
    def inputs(config):
        batch = next_tokens(tokens(name, config, lengths, padding))
        return batch if mask else unmasked(batch)

    return case(name, model, LM, inputs, **options)


def with_generations(name, model, runs=({"num_beams": 1},), **options):
    adapted, path = language(name, model, **options)
    write_generations(path, model, LM, adapted, PROMPTS, list(runs))


def llama_cases():
    beams = [{"num_beams": 1}, {"num_beams": 3}]
    with_generations("llama_query_value", "llama", beams, r=4, lora_alpha=8, target_modules=QV)
    language("llama_left", "llama", "left", r=4, target_modules=QV)
    language("llama_all_linear", "llama", r=2, target_modules="all-linear")
    language("llama_no_padding", "llama", lengths=(9, 9), mask=False, r=3, target_modules=["gate_proj", "down_proj"])
    # PEFT writes the base's own embeddings as well, when they are targets under these names.
    language("llama_embeddings", "llama", r=2, target_modules=["q_proj", "embed_tokens", "lm_head"])
    language("llama_embeddings_left", "llama", "left", r=2, target_modules=r".*(v_proj|embed_tokens)")
    language("llama_bias_lora_only", "llama-bias", r=3, target_modules=[*QV, "down_proj"], bias="lora_only")
    language("llama_save_embeddings", "llama", r=2, target_modules=QV, modules_to_save=["lm_head", "embed_tokens"])
    language("llama_save_norm", "llama", r=2, target_modules=QV, modules_to_save=["input_layernorm", "norm"])
    tied = "llama-tied-bf16-sharded"
    with_generations("llama_tied_bf16_sharded", tied, r=4, target_modules=QV)
    language("llama_tied_embeddings", tied, r=2, target_modules=["q_proj", "embed_tokens", "lm_head"])


def other_cases():
    for name in "mistral", "qwen2", "qwen3":
        with_generations(f"{name}_query_value", name, r=4, target_modules=QV)
        language(f"{name}_left", name, "left", r=4, target_modules=QV)
        language(f"{name}_all_linear", name, r=2, target_modules="all-linear")
    language("qwen2_bias_lora_only", "qwen2", r=2, target_modules=QV, bias="lora_only")
    language("qwen2_full", "qwen2-full", r=2, target_modules=QV)
    language("mistral_long", "mistral", lengths=(23, 4), r=2, target_modules=QV)


def sequence_cases():
    for model in "llama", "qwen2":
        for padding in "right", "left":
            sequence(f"{model}_sequence_{padding}", model, padding, num_labels=3, r=3, target_modules=QV)
    sequence("llama_sequence_regression", "llama", num_labels=1, r=2, target_modules="all-linear")
    sequence("mistral_sequence_left", "mistral", "left", num_labels=4, r=2, target_modules=QV)
    sequence("qwen3_sequence_right", "qwen3", num_labels=3, r=2, target_modules=QV)
    # The last token is the last that is not `pad_token_id`, whatever the mask says of it.
    sequence("llama_sequence_pad_at_end", "llama", pad_at_end=True, num_labels=3, r=2, target_modules=QV)
    sequence("llama_sequence_no_mask", "llama", mask=False, lengths=(8, 8), num_labels=3, r=2, target_modules=QV)


    # Without a `pad_token_id` there is one sequence, and the last token is the last.
    single = lambda config: unmasked(classes(tokens("qwen3_sequence_single", config, (9,)), config))  # noqa: E731
    plain_case("qwen3_sequence_single", "qwen3-score", SEQUENCE, single)


def sequence(name, model, padding="right", lengths=RAGGED, mask=True, pad_at_end=False, **options):
    def inputs(config):
        batch = classes(tokens(name, config, lengths, padding), config)
        if pad_at_end:
            batch["input_ids"][0, -2:] = config.pad_token_id
            batch["input_ids"][2, 4] = config.pad_token_id
        return batch if mask else unmasked(batch)

    case(name, model, SEQUENCE, inputs, **options)


def rotary_cases():
    """A model alone, at positions beyond those it was trained on; dynamic scaling follows the longest of the batch."""
    logits = {}
    for kind, (positions, rope) in SCALINGS.items():
        sizes = ROTARY | dict(max_position_embeddings=positions)
        save(f"llama-{kind}", LlamaForCausalLM, LlamaConfig, **sizes, rope_parameters=rope)
        logits[kind] = rotary_case(f"llama_{kind}", f"llama-{kind}", LONG[kind])["logits"]
    rotary_case("llama_dynamic_short", "llama-dynamic", (8, 5))
    rotary_case("llama_dynamic_single", "llama-dynamic", (30,))
    rotary_case("llama_dynamic_left", "llama-dynamic", LONG["dynamic"], "left")
    rotary_case("llama_yarn_left", "llama-yarn", LONG["yarn"], "left")
    for kind, key in ("linear", "type"), ("llama3", "rope_type"), ("yarn", "rope_type"), ("dynamic", "type"):
        shutil.copytree(f"models/llama-{kind}", path := fresh(f"models/llama-{kind}-4"), dirs_exist_ok=True)
        as_transformers_4(path.name, key)
        again = rotary_case(f"llama_{kind}_4", path.name, LONG[kind], like=f"llama_{kind}")
        assert torch.equal(again["logits"], logits[kind]), kind


def rotary_case(name, model, lengths, padding="right", like=None):
    return plain_case(name, model, LM, lambda config: next_tokens(tokens(like or name, config, lengths, padding)))
