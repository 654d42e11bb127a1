"""Convolutions alone, with LoRA and DoRA."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from cases import perturb, plain, save_adapter
from common import fresh, seed, write_json, write_tensors

IMAGES = 2
DORA, RSLORA, BIAS = {"use_dora": True}, {"use_rslora": True}, {"lora_bias": True}


def make():
    one("conv1d_plain", nn.Conv1d, (9,), 5, 7, 3)
    one("conv1d_every_setting", nn.Conv1d, (11,), 6, 8, 3, stride=2, padding=3, dilation=2, groups=2, r=4)
    one("conv1d_dilation", nn.Conv1d, (10,), 3, 5, 3, padding=1, dilation=3, bias=False, lora=RSLORA)
    one("conv1d_depthwise", nn.Conv1d, (8,), 6, 12, 4, padding=2, groups=6, r=6)
    one("conv1d_dora", nn.Conv1d, (10,), 4, 6, 2, padding=1, dilation=2, lora=DORA)
    one("conv2d_single", nn.Conv2d, (3, 4), 6, 5, 1)
    one("conv2d_rectangle", nn.Conv2d, (6, 5), 3, 4, (3, 2), stride=(2, 1), padding=(1, 0), lora=BIAS)
    one("conv2d_every_setting", nn.Conv2d, (7, 8), 4, 6, (2, 3), stride=(1, 2), padding=2, dilation=(3, 2), groups=2, r=4)
    one("conv2d_dora", nn.Conv2d, (7, 6), 3, 8, 3, stride=2, padding=2, dilation=2, lora=DORA)
    one("conv2d_dora_no_bias", nn.Conv2d, (4, 6), 3, 4, (2, 3), padding=(0, 1), bias=False, lora=DORA)


def one(name, kind, size, channels, outputs, kernel, *, r=3, lora=(), **options):
    path = fresh(f"convolutions/{name}")
    seed(name)
    net = nn.Module()
    net.conv = kind(channels, outputs, kernel, **options)
    model = get_peft_model(net, LoraConfig(r=r, lora_alpha=5, target_modules=["conv"], **dict(lora)))
    perturb(model)
    layer = net.conv
    # Without this, A reads other inputs than the layer, and most often gives another number of outputs.
    layer.lora_A["default"].dilation = layer.base_layer.dilation
    save_adapter(model, path / "adapter")

    x = torch.randn(IMAGES, channels, *size, requires_grad=True)
    y = layer(x)
    targets = torch.randn_like(y)
    (y - targets).square().sum().backward()
    tensors = {"weight": layer.base_layer.weight, "grad.x": rows(x.grad)}
    tensors |= {"x": rows(x), "y": rows(y), "targets": rows(targets)}
    if layer.base_layer.bias is not None:
        tensors["bias"] = layer.base_layer.bias
    tensors |= {f"grad.{plain(key)}": p.grad for key, p in model.named_parameters() if p.requires_grad}
    write_tensors(path / "tensors.safetensors", tensors)
    base = layer.base_layer
    facts = {"channels": channels, "outputs": outputs, "size": size, "groups": base.groups}
    for fact in "kernel_size", "stride", "padding", "dilation":
        facts[fact] = list(getattr(base, fact))
    write_json(path / "case.json", facts | {"bias": base.bias is not None})


def rows(images):
    """A row for each place, image after image."""
    return images.flatten(2).transpose(1, 2).flatten(0, 1)
