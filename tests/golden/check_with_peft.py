"""Loads an adapter folder that lowrank wrote with PEFT and compares logits: exits 1 and says why where they differ.

    python tests/golden/check_with_peft.py MODEL_DIR ADAPTER_DIR INPUTS.safetensors OUTPUTS.safetensors

INPUTS and OUTPUTS are those of `lowrank forward --model MODEL_DIR --adapter ADAPTER_DIR`.
"""

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

TOLERANCE = 1e-4
MODEL_INPUTS = "input_ids", "attention_mask", "token_type_ids", "pixel_values"


def main(model_dir, adapter_dir, inputs_file, outputs_file):
    torch.set_num_threads(1)
    check_config(adapter_dir)
    model = load(model_dir, adapter_dir)
    inputs = {name: tensor for name, tensor in load_file(inputs_file).items() if name in MODEL_INPUTS}
    with torch.no_grad():
        expected = model(**inputs).logits
    if expected.ndim == 3:  # of a token that is padding, lowrank computes nothing
        expected = expected * inputs["attention_mask"].unsqueeze(-1)
    logits = load_file(outputs_file)["logits"]
    if logits.shape != expected.shape:
        sys.exit(f"logits have shape {list(logits.shape)}, PEFT's {list(expected.shape)}")
    difference = (logits - expected).abs().max().item()
    if not difference <= TOLERANCE:
        sys.exit(f"logits differ from PEFT's by {difference:.3g}; {TOLERANCE:g} is allowed")
    print(f"the largest difference from PEFT's logits is {difference:.3g}")


def check_config(adapter_dir):
    """adapter_config.json has PEFT's keys, all of them, in PEFT's layout."""
    text = (Path(adapter_dir) / "adapter_config.json").read_text()
    values = json.loads(text)
    expected = PeftConfig.from_pretrained(adapter_dir).to_dict()
    if values.keys() != expected.keys():
        sys.exit(f"adapter_config.json: keys that only one side has: {sorted(values.keys() ^ expected.keys())}")
    if text != json.dumps(values, indent=2, sort_keys=True):
        sys.exit("adapter_config.json is not in PEFT's layout: two spaces, sorted keys, no newline at the end")


def load(model_dir, adapter_dir):
    if PeftConfig.from_pretrained(adapter_dir).task_type == "CAUSAL_LM":
        base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    else:
        base = classifier(model_dir, adapter_dir)
    model = PeftModel.from_pretrained(base, adapter_dir)
    result = model.load_adapter(adapter_dir, "default")  # again, for its report
    if result.missing_keys or result.unexpected_keys:
        sys.exit(f"PEFT reports missing keys {result.missing_keys} and unexpected keys {result.unexpected_keys}")
    return model.eval()


def classifier(model_dir, adapter_dir):
    tensors = load_file(Path(adapter_dir) / "adapter_model.safetensors")
    heads = [t for key, t in tensors.items() if key.endswith((".classifier.weight", ".classifier.out_proj.weight"))]
    if len(heads) != 1:
        sys.exit(f"{len(heads)} classifier weights in the adapter file; expected one")
    images = AutoConfig.from_pretrained(model_dir).model_type == "vit"
    kind = AutoModelForImageClassification if images else AutoModelForSequenceClassification
    return kind.from_pretrained(
        model_dir, num_labels=len(heads[0]), dtype=torch.float32, ignore_mismatched_sizes=True
    )


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
