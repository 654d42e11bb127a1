"""Makes every fixture under tests/golden/fixtures again, with PyTorch, Transformers and PEFT as the reference.

    python3 -m venv .venv && .venv/bin/pip install -r tests/golden/requirements.txt
    .venv/bin/python tests/golden/make.py                   # everything
    .venv/bin/python tests/golden/make.py cases metrics     # some parts

Everything is seeded by its name: on one machine a second run writes the same bytes. README.md says what each part is.
"""

import os
import shutil
import sys
from pathlib import Path

if os.environ.get("PYTHONHASHSEED") != "0":  # PEFT writes target_modules in the order of a set
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
import transformers

import cases
import chat
import combine
import convolutions
import decoders
import encoders
import forms
import gpt2
import images
import initial
import metrics
import mixtures
import models
import params
import rank
import squad
import t5
import tables
import text_metrics
import tokenization
import training
import vision

PARTS = {
    "models": models.make,
    "cases": cases.make,
    "encoders": encoders.make,
    "vision": vision.make,
    "t5": t5.make,
    "gpt2": gpt2.make,
    "decoders": decoders.make,
    "mixtures": mixtures.make,
    "params": params.make,
    "training": training.make,
    "tokenizers": tokenization.make,
    "metrics": metrics.make,
    "squad": squad.make,
    "text_metrics": text_metrics.make,
    "chat": chat.make,
    "images": images.make,
    "parquet": tables.make,
    "rank": rank.make,
    "forms": forms.make,
    "combine": combine.make,
    "initial": initial.make,
    "convolutions": convolutions.make,
}


def main(names):
    if unknown := set(names) - set(PARTS):
        sys.exit(f"no part called {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    fixtures = Path(__file__).resolve().parent / "fixtures"
    fixtures.mkdir(exist_ok=True)
    os.chdir(fixtures)  # so that base_model_name_or_path is the same on every machine
    if not names:
        for folder in "models", "cases":
            shutil.rmtree(folder, ignore_errors=True)
        Path("modules.json").unlink(missing_ok=True)
    for name, part in PARTS.items():
        if not names or name in names:
            part()
    for file in Path(".").rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    size = sum(file.stat().st_size for file in Path(".").rglob("*") if file.is_file())
    print(f"{fixtures}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
