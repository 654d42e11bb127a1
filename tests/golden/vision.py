"""ViT for image classification, under the module names of Transformers 5 and of 4."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from adapted import case, load_base, plain_case, renamed, write_modules
from common import fresh, seed, write_json, write_tensors
from models import build, save

VIT = dict(
    hidden_size=30, num_attention_heads=3, num_hidden_layers=2, intermediate_size=42, image_size=12, patch_size=4,
    num_labels=5,
)  # fmt: skip
SMALL = VIT | dict(hidden_size=18, num_hidden_layers=1, intermediate_size=26)
TASK = "image-classification"
QV = ["q_proj", "v_proj"]
HEAD = dict(modules_to_save=["classifier"])
NAMES_OF_4 = (
    (r"vit\.layers\.", "vit.encoder.layer."),
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)


def make():
    save("vit", ViTForImageClassification, ViTConfig, **VIT)  # Transformers 5 writes the keys of 4
    save("vit-no-qkv-bias", ViTForImageClassification, ViTConfig, **SMALL, qkv_bias=False, hidden_act="gelu_new")
    save_vit_names_of_5()
    save_vit_bare()
    one("vit_query_value", "vit", r=4, lora_alpha=8, target_modules=QV)
    one("vit_all_linear", "vit", r=2, target_modules="all-linear")
    one("vit_bias_lora_only", "vit", r=4, target_modules=QV, bias="lora_only")
    one("vit_bias_all", "vit-no-qkv-bias", r=2, target_modules=["q_proj", "fc1"], bias="all")
    one("vit_no_qkv_bias", "vit-no-qkv-bias", r=4, target_modules=["q_proj", "k_proj", "o_proj"], bias="lora_only")
    one("vit_bare", "vit-bare", num_labels=4, r=4, target_modules=QV)
    one("vit_names_of_5", "vit-names-of-5", r=3, target_modules=QV)
    one("vit_interpolated", "vit", (20, 12), r=4, target_modules=QV)
    one("vit_interpolated_smaller", "vit", (8, 8), r=4, target_modules=QV)
    one("vit_projection", "vit", r=4, lora_alpha=8, target_modules=["projection", "q_proj"], bias="lora_only")
    one("vit_projection_dora", "vit", (20, 12), r=3, target_modules=["projection", "v_proj"], use_dora=True)
    one("vit_projection_lora_bias", "vit", r=2, target_modules=["projection"], lora_bias=True, use_rslora=True)
    with_names_of_4("vit_query_value", ["query", "value"])
    with_names_of_4("vit_all_linear", ["query", "key", "value", "dense"])
    with_names_of_4("vit_bias_lora_only", r".*\.attention\.(query|value)")
    plain_case("vit_plain", "vit", TASK, lambda config: images("vit_plain", config, (12, 12)))
    write_modules({"vit": ("vit", TASK)})
    check_names_of_4(load_base("vit", TASK))


def one(name, model, size=(12, 12), **options):
    interpolate = {"interpolate_pos_encoding": True} if size != (12, 12) else {}
    case(
        name, model, TASK, lambda config: images(name, config, size), call=interpolate, facts=interpolate,
        **HEAD, **options,
    )  # fmt: skip


def images(name, config, size):
    seed(f"batch {name}")
    labels = (torch.arange(3) + 1) % config.num_labels
    return {"pixel_values": torch.randn(3, config.num_channels, *size), "labels": labels}


def save_vit_names_of_5():
    """What `save_pretrained(save_original_format=False)` writes: the names of the modules themselves."""
    path = fresh("models/vit-names-of-5")
    model = build(path.name, ViTForImageClassification, ViTConfig, **SMALL)
    model.save_pretrained(path, save_original_format=False)
    assert "vit.layers.0.attention.q_proj.weight" in load_file(path / "model.safetensors")


def save_vit_bare():
    """What vit-base-patch16-224-in21k is on the Hub: no `vit.` before the keys, a pooler and no classifier."""
    path = fresh("models/vit-bare")
    model = build(path.name, ViTModel, ViTConfig, **SMALL)
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    for key in "dtype", "pooler_act", "pooler_output_size", "id2label", "label2id":
        config.pop(key, None)
    (path / "config.json").write_text(json.dumps(config | {"transformers_version": "4.13.0"}, indent=2) + "\n")
    assert {"encoder.layer.0.attention.attention.query.weight", "pooler.dense.bias"} <= set(
        load_file(path / "model.safetensors")
    )


def with_names_of_4(name, target_modules):
    """The same adapter as Transformers 4 and PEFT save it. PEFT itself cannot load it under Transformers 5."""
    source, path = Path("cases") / name, fresh(f"cases/{name}_names_of_4")
    shutil.copytree(source / "adapter", path / "adapter")
    shutil.copy(source / "inputs.safetensors", path)
    file = path / "adapter" / "adapter_model.safetensors"
    save_file({renamed(key, NAMES_OF_4): t for key, t in load_file(file).items()}, file, {"format": "pt"})
    config = json.loads((path / "adapter" / "adapter_config.json").read_text())
    config["target_modules"] = target_modules
    (path / "adapter" / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    expected = load_file(source / "expected.safetensors")
    write_tensors(path / "expected.safetensors", {renamed(key, NAMES_OF_4): t for key, t in expected.items()})
    facts = json.loads((source / "case.json").read_text())
    write_json(path / "case.json", facts | {"targets": [renamed(t, NAMES_OF_4) for t in facts["targets"]]})


def check_names_of_4(model):
    """The table above is Transformers' own: it makes of the modules' names the keys that `save_pretrained` writes."""
    written = set(load_file("models/vit/model.safetensors"))
    assert {renamed(name, NAMES_OF_4) for name in model.state_dict()} == written
