"""fixtures/forms: files of tensors as torch.save writes them, adapters in other forms than PEFT's with what they add to
weights, and adapters for llama.cpp as its own package writes them. Of kohya's scripts and of mlx-lm, only the formulas are
here: kohya-ss/sd-scripts networks/lora.py and ml-explore/mlx-lm mlx_lm/tuner/lora.py."""

import json
import os
from collections import OrderedDict

import gguf
import loralib
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from common import fresh, seed, write_json, write_tensors

GGUF = {
    "gpt2_all_linear": "gpt2",
    "llama_all_linear": "llama",
    "llama_embeddings": "llama",
    "mistral_query_value": "mistral",
    "qwen3_all_linear": "qwen3",
}
ARCHITECTURES = {"mistral": "llama"}
PREFIX = "base_model.model."


class Runs:
    """What a harmful file would hold."""

    def __reduce__(self):
        return os.system, ("touch harm",)


def pickles():
    seed("pickles")
    table = torch.randn(5, 6)
    tensors = OrderedDict(
        f64=torch.randn(3).double(),
        f32=torch.randn(2, 3),
        f16=torch.randn(4).half(),
        bf16=torch.randn(2, 2).bfloat16(),
        i64=torch.tensor([1, -(1 << 40)]),
        i32=torch.tensor([7, -8], dtype=torch.int32),
        i16=torch.tensor([300], dtype=torch.int16),
        i8=torch.tensor([-5], dtype=torch.int8),
        u8=torch.tensor([250], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.randn(3, 1)),
        table=table,
        tied=table,
        turned=table.t(),
        rows=table[1:4],
        columns=table[:, 2:5],
        strided=table[::2, ::3],
    )
    torch.save(tensors, "types.bin")
    torch.save({"model_state_dict": tensors}, "nested.bin")
    torch.save(torch.nn.Linear(2, 3).state_dict(), "module.bin")
    torch.save({"weight": Runs()}, "harmful.bin")
    torch.save({"epoch": 3, "weight": torch.ones(2)}, "mixed.bin")
    write_tensors("types.safetensors", {name: tensor.clone() for name, tensor in tensors.items()})
    model = AutoModelForSequenceClassification.from_pretrained("../models/bert")
    adapter = "../cases/bert_query_value/adapter"
    model = PeftModel.from_pretrained(model, adapter)
    model.save_pretrained("peft", safe_serialization=False)
    os.remove("peft/README.md")


def of_loralib():
    """Layers of GPT-2: queries and values of the merged one, and one by itself, as DistributedDataParallel names them."""
    seed("loralib")
    config = json.load(open("../models/gpt2/config.json"))
    width = config["n_embd"]
    layers = {
        "transformer.h.0.attn.c_attn": loralib.MergedLinear(width, 3 * width, 2, 6, enable_lora=[True, False, True]),
        "transformer.h.1.attn.c_attn": loralib.MergedLinear(width, 3 * width, 2, 6, enable_lora=[True, False, True]),
        "transformer.h.1.mlp.c_fc": loralib.Linear(width, config["n_inner"], 3, 6),
    }
    file, expected = {}, {}
    for name, layer in layers.items():
        torch.nn.init.normal_(layer.lora_B)
        layer.bias.data.zero_()
        layer.weight.data.zero_()
        expected[name] = layer(torch.eye(width)).t()
        file |= {f"module.{name}.{key}": getattr(layer, key).data for key in ("lora_A", "lora_B")}
    torch.save({"model_state_dict": file}, "loralib.bin")
    write_tensors("loralib.safetensors", expected)


def of_mlx():
    seed("mlx")
    config = json.load(open("../models/llama/config.json"))
    width, expected, file = config["hidden_size"], {}, {}
    rows = {"q_proj": config["num_attention_heads"], "v_proj": config["num_key_value_heads"]}
    for name, heads in rows.items():
        path = f"model.layers.1.self_attn.{name}"
        a, b = torch.randn(width, 4), torch.randn(4, heads * config["head_dim"])
        file |= {f"{path}.lora_a": a, f"{path}.lora_b": b}
        expected[path] = 2.5 * (a @ b).t()
    fresh("mlx")
    write_tensors("mlx/adapters.safetensors", file)
    parameters = {"rank": 4, "scale": 2.5, "dropout": 0.1}
    write_json(
        "mlx/adapter_config.json",
        {"fine_tune_type": "lora", "model": "someone/base", "num_layers": 1, "lora_parameters": parameters},
    )
    write_tensors("mlx.safetensors", expected)


def of_kohya():
    """Layers of a T5 encoder, as of Stable Diffusion 3's third text encoder."""
    seed("kohya")
    width = json.load(open("../models/t5/config.json"))
    inner = width["num_heads"] * width["d_kv"]
    expected, file = {}, {}
    for number, (layer, r, alpha) in enumerate([("q", 4, 2.0), ("v", 4, 2.0), ("k", 3, None)]):
        path = f"encoder.block.{number % 2}.layer.0.SelfAttention.{layer}"
        key = "lora_te3_" + path.replace(".", "_")
        down, up = torch.randn(r, width["d_model"]), torch.randn(inner, r)
        file |= {f"{key}.lora_down.weight": down.half(), f"{key}.lora_up.weight": up.half()}
        if alpha:
            file[f"{key}.alpha"] = torch.tensor(alpha)
        expected[path] = (alpha or r) / r * up.half().float() @ down.half().float()
    write_tensors("kohya_t5.safetensors", file)
    write_tensors("kohya.safetensors", expected)


def turn(tensor, heads):
    """What llama.cpp's LlamaModel.permute does to queries and keys."""
    return tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(tensor.shape)


def for_llama_cpp():
    fresh("gguf")
    for case, model in GGUF.items():
        config = json.load(open(f"../models/{model}/config.json"))
        adapter = json.load(open(f"../cases/{case}/adapter/adapter_config.json"))
        architecture = ARCHITECTURES.get(model, model)
        number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
        names = gguf.get_tensor_name_map(number, 8)
        tensors = {}
        for key, tensor in load_file(f"../cases/{case}/adapter/adapter_model.safetensors").items():
            if ".base_layer." in key:
                continue
            module, side = key.removeprefix(PREFIX).removesuffix(".weight").rsplit(".lora_", 1)
            if side == "embedding_A":
                tensor = tensor.t()
            side = side[-1]
            heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(module.rsplit(".", 1)[-1])
            if side == "B" and heads and architecture == "llama":
                tensor = turn(tensor, config[heads])
            tensors[f"{names.get_name(module)}.weight.lora_{side.lower()}"] = tensor
        writer = gguf.GGUFWriter(f"gguf/{case}.gguf", architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_name(model)
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(adapter["lora_alpha"]))
        for name, tensor in sorted(tensors.items()):
            writer.add_tensor(name, tensor.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def make():
    here = os.getcwd()
    os.chdir(fresh("forms"))
    pickles()
    of_loralib()
    of_mlx()
    of_kohya()
    for_llama_cpp()
    os.chdir(here)
