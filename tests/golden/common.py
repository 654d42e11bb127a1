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


def write_json(path, value):
    Path(path).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_tensors(path, tensors):
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


@torch.no_grad()
def randomise(module):
    """Moves every parameter off its initial value, far enough that no zero bias or unit scale hides an error."""
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.2)
        else:
            parameter.copy_(0.2 * torch.randn_like(parameter) + (name.endswith("LayerNorm.weight")))
