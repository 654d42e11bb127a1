"""What the parts share: seeding, folders and files."""

import json
import shutil
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file


def seed(name):
    torch.manual_seed(zlib.crc32(name.encode()))


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    path = Path(path)
    path.mkdir(parents=True)
    return path


def write_json(path, value, depth=2):
    """JSON that breaks lines down to `depth` levels, so that a case of a long table is one line."""
    Path(path).write_text(layout(value, depth) + "\n", encoding="utf-8")


def layout(value, depth, margin="\n"):
    if depth == 0 or not value or not isinstance(value, (dict, list)):
        return json.dumps(value)
    inner = margin + " "
    if isinstance(value, list):
        items, ends = [layout(item, depth - 1, inner) for item in value], "[]"
    else:
        items, ends = [f"{json.dumps(key)}: {layout(item, depth - 1, inner)}" for key, item in value.items()], "{}"
    return ends[0] + inner + f",{inner}".join(items) + margin + ends[1]


def add_modules(models):
    """The names that PEFT matches targets against: every module of a model with its head, the root among them."""
    file = Path("modules.json")
    modules = json.loads(file.read_text()) if file.exists() else {}
    modules |= {key: [path for path, _ in model.named_modules()] for key, model in models.items()}
    write_json(file, dict(sorted(modules.items())))


def write_tensors(path, tensors):
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


@torch.no_grad()
def randomise(module):
    """Moves every parameter off its initial value, far enough that no zero bias or unit scale hides an error."""
    scales = {id(m.weight) for m in module.modules() if type(m).__name__.endswith(("LayerNorm", "RMSNorm"))}
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.2)
        else:
            parameter.copy_(0.2 * torch.randn_like(parameter) + (id(parameter) in scales))
