"""fixtures/combine: three adapters on two linear layers and an embedding, and the products of what PEFT's
add_weighted_adapter makes of them. DARE is left out: it draws from PyTorch's generator. So is use_rslora, under which PEFT
scales the result once more: see the tests."""

import warnings

import torch
from peft import LoraConfig, get_peft_model

from common import fresh, randomise, seed, write_json, write_tensors

WEIGHTS = [0.7, -0.4]
# `a` and `b` have the same ranks; `c` has others, and lacks a layer.
ADAPTERS = {
    "a": dict(r=4, lora_alpha=8, target_modules=["query", "value", "words"]),
    "b": dict(r=4, lora_alpha=3, target_modules=["query", "value", "words"]),
    "c": dict(r=2, lora_alpha=2, target_modules=["query", "value"], rank_pattern={"value": 3}),
}
PRUNED = dict(density=0.4)
FREQUENCY = dict(density=0.6, majority_sign_method="frequency")
CALLS = {
    "linear": ("ab", "linear", {}),
    "cat": ("ab", "cat", {}),
    "cat_of_ranks": ("ac", "cat", {}),
    "svd": ("ab", "svd", {}),
    "svd_of_ranks": ("ac", "svd", dict(svd_rank=3)),
    "ties": ("ab", "ties", PRUNED),
    "ties_frequency": ("ab", "ties", FREQUENCY),
    "ties_svd": ("ab", "ties_svd", PRUNED),
    "ties_svd_frequency": ("ab", "ties_svd", FREQUENCY),
    "magnitude_prune": ("ab", "magnitude_prune", PRUNED),
    "magnitude_prune_svd": ("ab", "magnitude_prune_svd", PRUNED | dict(svd_rank=5)),
}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(19, 12)
        self.query = torch.nn.Linear(12, 10)
        self.value = torch.nn.Linear(12, 14)

    def forward(self, ids):
        x = self.words(ids)
        return self.query(x), self.value(x)


def make():
    warnings.filterwarnings("ignore")
    folder = fresh("combine")
    seed("combine")
    model = None
    for name, settings in ADAPTERS.items():
        config = LoraConfig(**settings)
        if model is None:
            model = get_peft_model(Model(), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    randomise(torch.nn.ParameterList(p for n, p in model.named_parameters() if "lora_" in n))
    model.save_pretrained(folder, selected_adapters=list(ADAPTERS))
    (folder / "README.md").unlink()
    products, calls = {}, {}
    for name, (adapters, method, settings) in CALLS.items():
        model.base_model.add_weighted_adapter(list(adapters), WEIGHTS, name, combination_type=method, **settings)
        calls[name] = {"adapters": list(adapters), "weights": WEIGHTS, "method": method} | settings
        for path, layer in model.base_model.model.named_children():
            if name in layer.scaling:
                products[f"{name}.{path}"] = layer.get_delta_weight(name)
    write_tensors(folder / "expected.safetensors", products)
    write_json(folder / "calls.json", calls, 1)
