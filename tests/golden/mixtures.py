"""Mixtral, Qwen2-MoE and Qwen3-MoE: adapters on experts through `target_parameters`, and under the names of Transformers 4."""

import json
import re
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from adapted import forward, load_base, next_tokens, plain_case, run, tokens, write_modules
from common import fresh, seed, write_json, write_tensors
from decoders import LM, QV, SIZES, language, sequence, with_generations
from models import build, save

MIXTRAL = SIZES | dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=20)
QWEN2 = SIZES | dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=18, num_key_value_heads=2)
QWEN3 = QWEN2 | dict(head_dim=10, num_hidden_layers=3, mlp_only_layers=[1], norm_topk_prob=True, moe_intermediate_size=16)
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"


def make():
    save("mixtral", MixtralForCausalLM, MixtralConfig, **MIXTRAL, sliding_window=6)
    save("qwen2-moe", Qwen2MoeForCausalLM, Qwen2MoeConfig, **QWEN2, shared_expert_intermediate_size=22)
    save("qwen3-moe", Qwen3MoeForCausalLM, Qwen3MoeConfig, **QWEN3)
    save_joined()
    for name in "mixtral", "qwen2_moe", "qwen3_moe":
        model = name.replace("_", "-")
        language(f"{name}_query_value", model, "left", r=3, target_modules=QV)
        both = dict(r=3, lora_alpha=5, target_modules=["q_proj"], target_parameters=[GATE_UP, DOWN])
        with_generations(f"{name}_experts", model, **both)
    language("mixtral_router", "mixtral", r=2, target_modules=[], target_parameters=["mlp.gate.weight", GATE_UP])
    language("mixtral_down", "mixtral", r=2, use_rslora=True, target_modules=QV, target_parameters=["experts.down_proj"])
    ranks = {r".*\.gate_up_proj": 4, r"layers\.2\..*down_proj": 1}
    patterns = dict(rank_pattern=ranks, alpha_pattern={"down_proj": 7}, target_parameters=[DOWN, GATE_UP])
    language("qwen3_moe_patterns", "qwen3-moe", r=2, target_modules=["o_proj"], **patterns)
    matrices = dict(target_modules=["v_proj"], target_parameters=["q_proj.weight", "shared_expert.down_proj.weight"])
    language("qwen2_moe_matrices", "qwen2-moe", r=2, **matrices)
    language("qwen2_moe_modules", "qwen2-moe", r=2, target_modules=["gate_proj", "up_proj", "down_proj", "k_proj"])
    language("qwen3_moe_modules", "qwen3-moe", r=2, target_modules=["gate_proj", "up_proj", "down_proj", "k_proj"])
    language("mixtral_all_linear", "mixtral", r=2, lora_alpha=3, target_modules="all-linear")
    language("qwen3_moe_joined", "qwen3-moe-joined", r=2, target_modules=QV, target_parameters=[DOWN])
    sequence("mixtral_sequence_right", "mixtral", num_labels=3, r=2, target_modules=QV, target_parameters=[GATE_UP])
    names_of_4("mixtral_names_of_4", "mixtral", ["w1", "w2", "w3", "v_proj"], {"gate": "w1", "up": "w3", "down": "w2"})
    write_modules({name: (name, LM) for name in ("mixtral", "qwen2-moe", "qwen3-moe")})


def save_joined():
    """A checkpoint in which all experts of a layer are one tensor, as Transformers 5 holds them in memory."""
    path = fresh("models/qwen3-moe-joined")
    model = build(path.name, Qwen3MoeForCausalLM, Qwen3MoeConfig, **QWEN3)
    model.config.save_pretrained(path)
    write_tensors(path / "model.safetensors", {key: value.clone() for key, value in model.state_dict().items()})


def names_of_4(name, model_name, targets, layers):
    """An adapter of Transformers 4, where each expert's layers are modules; PEFT turns it into one of 5 as it loads it.

    Gradients are not compared: those of PEFT are of what it turned it into.
    """
    path = fresh(f"cases/{name}")
    base = load_base(model_name, LM)
    inputs = next_tokens(tokens(name, base.config))
    seed(name)
    r, config, saved = 3, base.config, {}
    width, inner = config.hidden_size, config.intermediate_size
    value = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        start = f"base_model.model.model.layers.{layer}"
        modules = {f"{start}.self_attn.v_proj": (width, value)}
        for expert in range(config.num_local_experts):
            stem = f"{start}.block_sparse_moe.experts.{expert}"
            modules |= {f"{stem}.{layers[k]}": (width, inner) for k in ("gate", "up")}
            modules[f"{stem}.{layers['down']}"] = (inner, width)
        for module, (inputs_of, outputs) in modules.items():
            saved[f"{module}.lora_A.weight"] = 0.3 * torch.randn(r, inputs_of)
            saved[f"{module}.lora_B.weight"] = 0.3 * torch.randn(outputs, r)
    (path / "adapter").mkdir()
    save_file(saved, path / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    written = Path("cases/mixtral_query_value/adapter/adapter_config.json")
    settings = json.loads(written.read_text()) | dict(r=r, lora_alpha=4, target_modules=sorted(targets))
    (path / "adapter" / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True))
    model = PeftModel.from_pretrained(base, path / "adapter").eval()
    outputs = forward(model, LM, inputs)
    plain = forward(load_base(model_name, LM).eval(), LM, inputs)
    assert not torch.allclose(outputs["logits"], plain["logits"], atol=1e-3)
    write_tensors(path / "inputs.safetensors", inputs)
    write_tensors(path / "expected.safetensors", outputs)
    targets = [n.removeprefix("base_model.model.") for n, m in model.named_modules() if hasattr(m, "lora_A")]
    write_json(path / "case.json", {"model": model_name, "task": LM, "padding": "right", "targets": targets})
