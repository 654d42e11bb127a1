"""fixtures/rank: matrices of known ranks, and what NumPy and PyTorch say of them, of adapters' products, of the overlap
of two adapters and of their place in the base (LoRA, sections 7.2 and 7.3), by forming what lowrank never forms."""

import json

import numpy as np
import torch
from safetensors.torch import load_file

from common import fresh, seed, write_json, write_tensors

# The walk through docs/rank.md: small enough to see the rank.
WRITE_UP = {
    "rank2": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    "rank3": [[2, 0, 1], [0, 3, 0], [1, 0, 2]],
    "rank1": [[1, 2, 3], [2, 4, 6], [3, 6, 9]],
    "rank0": [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
}
OVERLAPS = [("bert_query_value", "bert_switch_a"), ("gpt2_attention", "gpt2_embeddings")]
PRODUCTS = ["bert_query_value", "roberta_rslora", "gpt2_attention", "gpt2_embeddings"]
PLACES = ["bert_query_value", "gpt2_attention", "gpt2_embeddings", "bert_bare_bf16_sharded"]
PREFIX = "base_model.model."


def matrices():
    seed("rank")
    product = torch.randn(70, 5) @ torch.randn(5, 40)
    return {
        "tall": torch.randn(90, 30),
        "wide": torch.randn(30, 110) * torch.logspace(0, -3, 30)[:, None],
        "product": product,
        "product_f64": product.double(),
        "product_bf16": product.bfloat16(),
        "half": torch.randn(33, 21).half(),
        "convolution": torch.randn(6, 3, 5, 5),
        "huge": torch.randn(9, 7) * 1e30,
        "tiny": torch.randn(9, 7) * 1e-30,
        "vector": torch.randn(9),
        "whole_numbers": torch.arange(12).reshape(3, 4),
    }


def look(matrix):
    flat = matrix.reshape(matrix.shape[0], -1)
    computed = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    values = np.linalg.svd(flat.double().numpy(), compute_uv=False)
    total = values.sum()
    parts = values[values > 0] / total if total else values[:0]
    energy = np.cumsum(values**2) / (values**2).sum() if total else np.ones(len(values))
    rank = int(torch.linalg.matrix_rank(computed))
    assert rank == np.linalg.matrix_rank(computed.numpy())
    return {
        "shape": list(flat.shape),
        "rank": rank,
        "stable_rank": float((values**2).sum() / values[0] ** 2) if total else 0.0,
        "effective_rank": float(np.exp(-(parts * np.log(parts)).sum())) if total else 0.0,
        "rank_for_90": int(np.searchsorted(energy, 0.9) + 1) if total else 0,
        "errors_at_2": [float(np.linalg.norm(values[2:])), float(values[2]) if len(values) > 2 else 0.0],
        "singular_values": values.tolist(),
    }


class Adapter:
    def __init__(self, case):
        folder = f"cases/{case}/adapter/"
        config = json.loads(open(folder + "adapter_config.json").read())
        # Factors in f32 are multiplied by a number in f32.
        self.scaling = float(np.float32(config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])))
        self.base = config["base_model_name_or_path"]
        self.transposed = config["fan_in_fan_out"]
        self.factors = {k.removeprefix(PREFIX): v.double() for k, v in load_file(folder + "adapter_model.safetensors").items()}

    def modules(self):
        return [k.removesuffix(".lora_A.weight") for k in self.factors if k.endswith(".lora_A.weight")]

    def products(self):
        for name in self.modules():
            a, b = self.factors[f"{name}.lora_A.weight"], self.factors[f"{name}.lora_B.weight"]
            yield name, self.scaling * b @ a
        for key in self.factors:
            if key.endswith(".lora_embedding_A"):
                name = key.removesuffix(".lora_embedding_A")
                yield name, self.scaling * (self.factors[f"{name}.lora_embedding_B"] @ self.factors[key]).T


def products(case):
    return {name: np.linalg.svd(product.numpy(), compute_uv=False).tolist() for name, product in Adapter(case).products()}


def overlap(one, other):
    one, other = Adapter(one), Adapter(other)
    grids = {}
    for name in sorted(set(one.modules()) & set(other.modules())):
        for side, factor in ("right", "lora_A"), ("left", "lora_B"):
            spaces = []
            for adapter in one, other:
                u, _, vt = np.linalg.svd(adapter.factors[f"{name}.{factor}.weight"].numpy(), full_matrices=False)
                spaces.append(vt.T if side == "right" else u)
            x, y = spaces
            grids[f"{name} {side}"] = [
                [float(np.linalg.norm(x[:, :i].T @ y[:, :j]) ** 2 / min(i, j)) for j in range(1, y.shape[1] + 1)]
                for i in range(1, x.shape[1] + 1)
            ]
    return grids


def base_weights(folder):
    from pathlib import Path

    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def places(case):
    adapter = Adapter(case)
    weights = base_weights(adapter.base)
    found = {}
    for name, update in adapter.products():
        key = next(k for k in (f"{name}.weight", f"{name.split('.', 1)[1]}.weight") if k in weights)
        base = weights[key].double()
        if adapter.transposed and f"{name}.lora_A.weight" in adapter.factors:
            update = update.T
        r = int(torch.linalg.matrix_rank(update.float()))
        u, s, vt = np.linalg.svd(update.numpy())
        values = np.linalg.svd(base.numpy(), compute_uv=False)
        projected = np.linalg.norm(u[:, :r].T @ base.numpy() @ vt[:r].T)
        found[name] = {
            "rank": r,
            "base_norm": float(np.linalg.norm(base.numpy())),
            "update_norm": float(np.linalg.norm(update.numpy())),
            "projected_norm": float(projected),
            "base_top_norm": float(np.linalg.norm(values[:r])),
            "amplification": float(np.linalg.norm(update.numpy()) / projected),
            "base_values_above": int((values > s[0]).sum()),
        }
    return found


def make():
    folder = fresh("rank")
    write_up = {name: torch.tensor(rows, dtype=torch.float32) for name, rows in WRITE_UP.items()}
    write_tensors(folder / "write_up.safetensors", write_up)
    tensors = matrices()
    write_tensors(folder / "matrices.safetensors", tensors)
    looked = {name: look(m) for name, m in (write_up | tensors).items() if name not in ("vector", "whole_numbers")}
    expected = {
        "matrices": looked,
        "products": {case: products(case) for case in PRODUCTS},
        "overlaps": {f"{one} {other}": overlap(one, other) for one, other in OVERLAPS},
        "places": {case: places(case) for case in PLACES},
    }
    write_json(folder / "rank.json", expected, 3)
