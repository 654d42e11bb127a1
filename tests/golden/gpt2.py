"""GPT-2: `Conv1D` weights, learned positions, a tied head."""

import json

import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from adapted import (
    RAGGED, case, classes, next_tokens, plain_case, tokens, unmasked, write_generations, write_modules,
)  # fmt: skip
from common import fresh, write_tensors
from models import build, save

GPT2 = dict(
    vocab_size=67, n_embd=30, n_head=3, n_layer=2, n_inner=46, n_positions=48, bos_token_id=1, eos_token_id=1,
    pad_token_id=0,
)  # fmt: skip
SMALL = GPT2 | dict(n_embd=20, n_head=2, n_inner=None, n_positions=24)
LM, SEQUENCE = "causal-lm", "sequence-classification"
PROMPTS = [[9, 30, 12, 44, 7, 18, 5], [21, 40], [50, 33, 8, 11]]
CONV1D = dict(fan_in_fan_out=True)


def make():
    save("gpt2", GPT2LMHeadModel, GPT2Config, **GPT2)
    save(
        "gpt2-by-layer", GPT2LMHeadModel, GPT2Config, **SMALL, scale_attn_by_inverse_layer_idx=True,
        activation_function="relu",
    )  # fmt: skip
    save_gpt2_legacy()
    everything = ["c_attn", "c_proj", "c_fc"]
    adapted, path = language("gpt2_attention", "gpt2", r=4, lora_alpha=8, target_modules=["c_attn"], **CONV1D)
    write_generations(path, "gpt2", LM, adapted, PROMPTS, [{"num_beams": 1}, {"num_beams": 3}])
    language("gpt2_left", "gpt2", padding="left", r=3, target_modules=everything, **CONV1D)
    language("gpt2_all_linear", "gpt2", r=2, target_modules="all-linear", **CONV1D)
    language("gpt2_bias_all", "gpt2", r=2, target_modules=["c_attn"], bias="all", **CONV1D)
    language("gpt2_embeddings", "gpt2", r=3, target_modules=["wte", "wpe", "c_attn"], **CONV1D)
    language("gpt2_lm_head", "gpt2", r=2, target_modules=["mlp.c_proj", "lm_head"], **CONV1D)
    some = [30, 12, 7, 0, 21, 15, 44, 18, 33, 9, 26]
    language("gpt2_tokens", "gpt2", r=2, target_modules=["c_attn"], trainable_token_indices=some, **CONV1D)
    language("gpt2_dora", "gpt2", r=3, target_modules=[*everything, "wte", "wpe"], use_dora=True, **CONV1D)
    language("gpt2_dora_lm_head", "gpt2", r=2, target_modules=["mlp.c_proj", "lm_head"], use_dora=True, **CONV1D)
    # Saved whole, a module leaves its tie: the other one keeps the base's weight.
    for name, modules in ("norm", ["ln_f"]), ("lm_head", ["lm_head"]), ("embeddings", ["wte"]):
        language(f"gpt2_save_{name}", "gpt2", r=2, target_modules=["c_attn"], modules_to_save=modules, **CONV1D)
    language("gpt2_by_layer", "gpt2-by-layer", r=2, target_modules=["c_attn"], **CONV1D)
    language("gpt2_legacy", "gpt2-legacy", lengths=(9, 9), mask=False, r=3, target_modules=["c_attn"], **CONV1D)
    plain_case("gpt2_plain", "gpt2", LM, lambda config: next_tokens(tokens("gpt2_plain", config)))
    for padding in "right", "left":
        sequence(f"gpt2_sequence_{padding}", padding, num_labels=3, r=3, target_modules=["c_attn"])
    sequence("gpt2_sequence_regression", num_labels=1, r=3, target_modules=["c_attn", "c_fc"])
    write_modules({"gpt2": ("gpt2", LM), "gpt2:sequence-classification": ("gpt2", SEQUENCE)})


def language(name, model, padding="right", lengths=RAGGED, mask=True, **options):
    def inputs(config):
        batch = next_tokens(tokens(name, config, lengths, padding))
        return batch if mask else unmasked(batch)

    return case(name, model, LM, inputs, **options)


def sequence(name, padding="right", **options):
    case(
        name, "gpt2", SEQUENCE, lambda config: classes(tokens(name, config, padding=padding), config),
        **options, **CONV1D,
    )  # fmt: skip


def save_gpt2_legacy():
    """What gpt2 is on the Hub: no `transformer.` before the keys, causal masks as buffers, no padding token."""
    path = fresh("models/gpt2-legacy")
    model = build(path.name, GPT2Model, GPT2Config, **SMALL)
    tensors = dict(model.state_dict())
    positions = SMALL["n_positions"]
    for layer in range(SMALL["n_layer"]):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(positions, positions).tril()[None, None]
    write_tensors(path / "model.safetensors", tensors)
    sizes = {key: value for key, value in SMALL.items() if key not in ("n_inner", "pad_token_id")}
    config = dict(
        activation_function="gelu_new",
        architectures=["GPT2LMHeadModel"],
        attn_pdrop=0.1,
        embd_pdrop=0.1,
        initializer_range=0.02,
        layer_norm_epsilon=1e-05,
        model_type="gpt2",
        n_ctx=positions,
        resid_pdrop=0.1,
        summary_activation=None,
        summary_first_dropout=0.1,
        summary_proj_to_labels=True,
        summary_type="cls_index",
        summary_use_proj=True,
    )
    (path / "config.json").write_text(json.dumps(config | sizes, indent=2, sort_keys=True) + "\n")
